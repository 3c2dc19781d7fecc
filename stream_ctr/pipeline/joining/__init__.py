"""Impressions and clicks to labels."""
