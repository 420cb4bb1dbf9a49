"""The open instrument for precision scaling laws."""

__version__ = "0.1.0"
