"""``stream-ctr bench stream``."""
