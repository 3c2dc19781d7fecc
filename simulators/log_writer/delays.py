"""Click delays for datasets that have none: deterministic, so that a resumed replay writes the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b

from stream_ctr.errors import UsageError

Delay = Callable[[str], int]
"""From event id to the milliseconds between impression and click, at least 1."""


def parse_delay(text: str) -> Delay:
    """``SECONDS`` for a constant delay, ``exponential:SECONDS`` for that mean, drawn by event id.

    >>> parse_delay("1.5")("any event")
    1500

    Raises:
        UsageError: neither form, or not a number of seconds above 0.
    """
    kind, colon, number = text.rpartition(":")
    try:
        seconds = float(number)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 1e7 or (colon and kind != "exponential"):
        raise UsageError(
            f"--click-delay {text!r} is neither SECONDS nor exponential:SECONDS, above 0 and at most 1e7"
        )
    if not colon:
        constant = max(1, round(seconds * 1000))
        return lambda event_id: constant

    def drawn(event_id: str) -> int:
        draw = int.from_bytes(blake2b(event_id.encode(), digest_size=8, person=b"click delay").digest())
        return max(1, round(-seconds * 1000 * math.log1p(-(draw >> 11) * 2.0**-53)))

    return drawn
