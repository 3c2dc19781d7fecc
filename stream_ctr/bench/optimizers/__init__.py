"""``stream-ctr bench optimizers``."""
