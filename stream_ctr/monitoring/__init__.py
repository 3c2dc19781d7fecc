"""Prometheus metric families, the numbers of a trainer, and the HTTP server for metrics."""
