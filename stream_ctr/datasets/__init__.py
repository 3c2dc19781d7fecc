"""Readers of click logs. All of them stream examples of one type."""
