"""``stream-ctr experiment``, one file a subcommand."""
