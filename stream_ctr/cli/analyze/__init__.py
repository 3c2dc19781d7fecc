"""``stream-ctr analyze``, one file a subcommand."""
