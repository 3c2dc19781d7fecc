"""``stream-ctr bench step``."""
