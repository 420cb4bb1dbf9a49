"""Number formats: one file per format."""
