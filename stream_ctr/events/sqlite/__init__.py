"""The embedded event log, in one SQLite file."""
