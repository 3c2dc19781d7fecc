"""``stream-ctr bench experiment``."""
