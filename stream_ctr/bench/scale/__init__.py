"""``stream-ctr bench scale``."""
