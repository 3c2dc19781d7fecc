"""``stream-ctr bench serve``."""
