"""The joining process."""
