"""The experiment's watcher: joins impressions with clicks and maintains the sums."""
