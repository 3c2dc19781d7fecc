"""The experiment's watcher: joins outcomes and keeps the sums."""
