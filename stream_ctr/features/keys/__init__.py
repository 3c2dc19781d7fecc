"""Values of features to 64-bit keys."""
