"""Routing: which arm answers a request."""
