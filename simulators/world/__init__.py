"""A world of users, ads and clicks with known click probabilities, and its dataset."""

from simulators.world.world import WorldDataset

__all__ = ["WorldDataset"]
