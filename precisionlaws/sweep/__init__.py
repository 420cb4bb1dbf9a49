"""Sweeps: from a study to a store with every point in it."""
