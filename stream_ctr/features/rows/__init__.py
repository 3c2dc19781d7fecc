"""Maps keys to embedding rows: vocabulary, admission, feature counts."""
