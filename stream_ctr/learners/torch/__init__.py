"""The reference learner, on torch."""
