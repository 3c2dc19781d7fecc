"""The learner on one CPU thread, compiled by Numba."""
