"""Parametrizations: how starts, learning rates and multipliers go with width and depth; one file each."""
