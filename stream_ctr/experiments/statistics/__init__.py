"""Estimates, intervals, and tests of an experiment."""
