"""``stream-ctr bench labels``."""
