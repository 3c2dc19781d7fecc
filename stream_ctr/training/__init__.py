"""The trainer, progressive evaluation, and attaching skip logits to a saved network."""
