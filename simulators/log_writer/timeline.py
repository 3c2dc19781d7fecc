"""A dataset as a time-ordered sequence of impressions and clicks."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from stream_ctr.datasets.base import Example
from stream_ctr.errors import UsageError
from stream_ctr.events.records import RECORD_VERSION, Click, Impression

_ENCODER = msgspec.json.Encoder()

Delay = Callable[[str], int]
"""From event id to the milliseconds between impression and click, at least 1."""


class Happening(NamedTuple):
    """An impression or a click."""

    time_ms: int
    event_id: str
    example: Example | None
    """The impression; None for a click."""

    def value(self) -> bytes:
        """The encoded record for the log."""
        if (shown := self.example) is None:
            return _ENCODER.encode(Click(v=RECORD_VERSION, event_id=self.event_id, ts_ms=self.time_ms))
        return _ENCODER.encode(
            Impression(
                v=RECORD_VERSION,
                event_id=self.event_id,
                ts_ms=self.time_ms,
                features=shown.features,
                user=shown.user,
                bid=shown.bid,
                truth=shown.truth,
            )
        )


def timeline(examples: Iterable[Example], delay: Delay) -> Iterator[Happening]:
    """Yield impressions in the given order, and each click before the first impression at or after its time.

    ``delay`` is the fallback for examples without a click delay. A click is at least 1 ms after its
    impression: at the same millisecond it would sort before it. Memory holds only the pending clicks.
    """
    pending: list[tuple[int, int, str]] = []
    now_ms = 0
    for number, example in enumerate(examples):
        now_ms = max(now_ms, example.time_ms)
        while pending and pending[0][0] <= now_ms:
            time_ms, _, event_id = heapq.heappop(pending)
            yield Happening(time_ms, event_id, None)
        yield Happening(example.time_ms, example.event_id, example)
        if example.label:
            known = example.click_delay_ms
            wait_ms = delay(example.event_id) if known is None else max(1, known)
            heapq.heappush(pending, (example.time_ms + wait_ms, number, example.event_id))
    while pending:
        time_ms, _, event_id = heapq.heappop(pending)
        yield Happening(time_ms, event_id, None)


def shifted(examples: Iterable[Example], start_ms: int) -> Iterator[Example]:
    """Shift all times by the same amount, so that the first example is at ``start_ms``."""
    shift_ms: int | None = None
    for example in examples:
        if shift_ms is None:
            shift_ms = start_ms - example.time_ms
        yield example._replace(time_ms=max(0, example.time_ms + shift_ms))


def parse_delay(text: str) -> Delay:
    """``SECONDS``: a constant delay. ``exponential:SECONDS``: that mean, drawn by a hash of the event id.

    Delays are deterministic, so a resumed replay writes the same clicks.

    >>> parse_delay("1.5")("any event")
    1500

    Raises:
        UsageError: the text has neither form, or the number is not above 0 and at most 1e7.
    """
    kind, colon, number = text.rpartition(":")
    try:
        seconds = float(number)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 1e7 or (colon and kind != "exponential"):
        raise UsageError(
            f"--click-delay {text!r}: must be SECONDS or exponential:SECONDS, above 0 and at most 1e7"
        )
    if not colon:
        constant = max(1, round(seconds * 1000))
        return lambda event_id: constant

    def drawn(event_id: str) -> int:
        draw = int.from_bytes(blake2b(event_id.encode(), digest_size=8, person=b"click delay").digest())
        return max(1, round(-seconds * 1000 * math.log1p(-(draw >> 11) * 2.0**-53)))

    return drawn
