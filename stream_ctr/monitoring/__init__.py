"""Prometheus families, the trainer's numbers, and the HTTP port."""
