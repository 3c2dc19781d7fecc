"""``stream-ctr bench watch``."""
