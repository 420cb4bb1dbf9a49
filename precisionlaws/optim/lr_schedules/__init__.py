"""Learning-rate schedules: one file per schedule."""
