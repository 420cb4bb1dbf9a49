"""Training: from a RunConfig to a run directory."""
