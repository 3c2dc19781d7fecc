"""Keys to rows: vocabulary, admission, eviction, running counts."""
