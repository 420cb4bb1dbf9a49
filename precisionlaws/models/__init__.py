"""Models: torch-free Specs that know their matrices, and the parts that they are built of."""
