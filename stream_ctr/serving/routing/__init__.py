"""Which arm answers."""
