"""Recognises times that were written in another unit than milliseconds.

A number between 10^9 and 4.1 * 10^9 is a time of the years 2001 to 2099 when read as seconds, and of
January or February 1970 when read as milliseconds. The same digits followed by six or nine more are
microseconds and nanoseconds.
"""

from __future__ import annotations

from typing import Final

FIRST_SECOND: Final = 1_000_000_000
"""9 September 2001, in seconds."""
LAST_SECOND: Final = 4_100_000_000
"""End of 2099, in seconds."""
AGREEMENT_MS: Final = 366 * 86_400_000
"""A time is taken as seconds if, read as such, it differs from the log's own timestamp by at most this.
Relative times of a synthetic stream can lie in the same range, but do not agree with the clock."""
_LARGER: Final = ((1_000_000, "microseconds"), (1_000_000_000, "nanoseconds"))


def like_seconds(ts_ms: int) -> bool:
    """Whether a time is more likely in seconds than in milliseconds.

    >>> like_seconds(1_764_000_000), like_seconds(1_764_000_000_000), like_seconds(86_400_000)
    (True, False, False)
    """
    return FIRST_SECOND <= ts_ms < LAST_SECOND


def surely_seconds(ts_ms: int, timestamp_ms: int) -> bool:
    """Whether a record's time, read as seconds, agrees with the log's own timestamp in milliseconds.

    >>> surely_seconds(1_764_000_000, 1_764_000_003_000), surely_seconds(1_764_000_000, 1_764_000_000)
    (True, False)
    """
    return like_seconds(ts_ms) and abs(ts_ms * 1000 - timestamp_ms) <= AGREEMENT_MS


def larger_unit(ts_ms: int) -> str:
    """Name of the finer unit that a too large time is likely in; empty if there is none.

    >>> larger_unit(1_764_000_000_000_000), larger_unit(10**16)
    ('microseconds', '')
    """
    for factor, name in _LARGER:
        if FIRST_SECOND * factor <= ts_ms < LAST_SECOND * factor:
            return name
    return ""


def outside(ts_ms: int, shown: str, last_ms: int) -> str:
    """The reason for rejecting a time below 0 or above ``last_ms``; ``shown`` is its text."""
    unit = larger_unit(ts_ms)
    hint = f"; it looks like {unit}, write milliseconds" if unit else ""
    return f"ts_ms must be between 0 and {last_ms}, got {shown}{hint}"
