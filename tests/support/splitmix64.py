"""splitmix64 in Python's unbounded integers, as an oracle."""

from __future__ import annotations


def splitmix64(x: int) -> int:
    """The output of the generator at state ``x`` (Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)
