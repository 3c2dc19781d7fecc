"""``stream-ctr bench papers``."""
