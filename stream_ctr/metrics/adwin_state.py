"""The state of river's ADWIN as plain bytes.

river's detector keeps its buckets in a compiled helper. The helper's ``__getstate__`` returns a flat
little-endian record of numbers, and ``__setstate__`` restores it bit for bit; neither uses pickle. The helper
panics on a record that is too short, so every length in a record is checked here before the helper reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from stream_ctr.errors import StateError

HEADER: Final = struct.Struct("<dIQdd 4d 4I Q")
"""delta, clock, max_buckets, min_window_length, grace_period; total, variance, width, total width;
tick, total width tick, number of detections and a spare; number of bucket rows."""
TRAILER: Final = struct.Struct("<dIQII")
"""The same five parameters again, as passed to the constructor."""
LENGTH: Final = struct.Struct("<Q")


class Detector(Protocol):
    """The parts of river's untyped ADWIN that are used here."""

    delta: float
    clock: int
    max_buckets: int
    min_window_length: int
    grace_period: int
    _helper: Any

    @property
    def drift_detected(self) -> bool: ...

    @property
    def estimation(self) -> float: ...

    def update(self, x: float) -> object: ...


new_adwin: Callable[..., Detector] = ADWIN
"""river's constructor: delta, clock, max_buckets, min_window_length, grace_period."""


def adwin_record(detector: Detector) -> NDArray[np.uint8]:
    """The state of the detector as bytes [N]: a few kilobytes, growing with the logarithm of its window.

    The flag ``drift_detected`` is not included: after a detection the detector is replaced by a new one.
    """
    return np.frombuffer(bytes(detector._helper.__getstate__()), np.uint8).copy()


def adwin_from_record(record: NDArray[np.uint8], like: Detector) -> Detector:
    """Restore the detector that produced ``record``; ``like`` has the expected parameters.

    Raises:
        StateError: the record is damaged, or its detector had other parameters.
    """
    data = np.ascontiguousarray(record, np.uint8).tobytes()
    _check(data, like)
    detector = new_adwin(
        delta=like.delta,
        clock=like.clock,
        max_buckets=like.max_buckets,
        min_window_length=like.min_window_length,
        grace_period=like.grace_period,
    )
    detector._helper.__setstate__(data)
    return detector


def _check(data: bytes, like: Detector) -> None:
    if len(data) < HEADER.size + TRAILER.size:
        raise StateError(f"the saved drift detector is damaged: it has only {len(data)} bytes")
    parameters = (like.delta, like.clock, like.max_buckets, like.min_window_length, like.grace_period)
    header = HEADER.unpack_from(data)
    if header[:5] != parameters:
        saved = ", ".join(f"{value:g}" for value in header[:5])
        own = ", ".join(f"{value:g}" for value in parameters)
        raise StateError(f"the saved drift detector has the parameters ({saved}), this one has ({own})")
    place = HEADER.size
    for _ in range(min(header[-1], 64)):
        place = _after_row(data, place, like.max_buckets + 1)
    fits = header[-1] <= 64 and place + TRAILER.size == len(data)
    if not fits or TRAILER.unpack_from(data, place) != parameters:
        raise StateError(f"the saved drift detector is damaged: its {len(data)} bytes have invalid lengths")


def _after_row(data: bytes, place: int, slots: int) -> int:
    """Offset after one row of buckets: two indexes, then totals and variances, each with its length."""
    end = place + 2 * LENGTH.size + 2 * (LENGTH.size + 8 * slots)
    if end <= len(data):
        indexes = struct.unpack_from("<2Q", data, place)
        lengths = [
            LENGTH.unpack_from(data, place + offset)[0]
            for offset in (2 * LENGTH.size, 3 * LENGTH.size + 8 * slots)
        ]
        if max(indexes) <= slots and lengths == [slots, slots]:
            return end
    raise StateError(f"the saved drift detector is damaged: its buckets at byte {place} are invalid")
