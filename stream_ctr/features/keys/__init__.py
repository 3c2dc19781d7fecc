"""Maps feature values to 64-bit keys."""
