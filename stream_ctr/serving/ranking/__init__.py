"""Ranking of candidates by an arm, and the log of impressions."""
