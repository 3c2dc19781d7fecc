"""Joining clicks to impressions in event time.

An impression is held from its place in the order until its label is settled. With ``release = "window"``
that is after its window, before the first entry whose order time is later than the window's end: label 1 if
a click came within the window, else 0. With ``release = "click"`` a click within the window settles the
label 1 immediately, at the click's place in the order. With copies (label policies fast, fnw, naive) the
label becomes known at the click and is settled at the window's end.

Why the window is the default: with early release, the learner gets the positives of one window before the
negatives. At the start of a stream it would learn from positives alone, and every prediction would rise
towards 1 until the first window closes.

A click belongs to the window if its own time is at most ``window_seconds`` after the impression's own time,
the end included. A click whose time is before its impression's counts as age 0: the clocks of two machines
differ. In the order's time, the window ends that long after the impression's own time or its place in the
order, whichever is later: an impression that arrives late still waits a full window, because its click is
late too. The label is settled ``grace_seconds`` after that, so that a click still counts if the log delivers
it that late or its partition is ahead by that much.

An event id is remembered for ``horizon_seconds`` after the beginning of its window. A click without an
impression is held for as long after its own time or its place in the order, whichever is later.

Every impression has exactly one outcome:

=====================  =====================================================================
positives              settled with label 1
negatives              settled with label 0
impressions_repeated   its event id is known already: dropped
impressions_late       its time is more than the horizon before the order's: dropped
impressions_ahead      its time is ahead, and the memory for such records is full: dropped
=====================  =====================================================================

Every click has exactly one outcome:

=====================  =====================================================================
clicks_joined          makes its impression a positive
clicks_repeated        its impression is a positive already, or a click for it is held: dropped
clicks_after_window    later than the window: the label stays 0
clicks_too_late        within the window, but the impression was already settled as a negative
clicks_orphaned        no impression came within the horizon after it
clicks_late            no impression, and more than the horizon before the order's time
clicks_ahead           no impression, its time is ahead, and the memory for such is full: dropped
=====================  =====================================================================

In addition, ``clicks_first`` counts the clicks that came before their impression. The values of joined clicks
are summed in ``joined_value``; they do not affect labels.
"""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple

from stream_ctr.config.join import JoinConfig
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.errors import ConfigError, StateError
from stream_ctr.pipeline.joining.delays import DelayCounts
from stream_ctr.pipeline.joining.memory import CLICKED, NEGATIVE, OPEN, POSITIVE, JoinMemory
from stream_ctr.pipeline.joining.segments import Held, SegmentFolder, SegmentName
from stream_ctr.state.state import Json, State

OUTCOMES: Final = (
    "positives",
    "negatives",
    "impressions_repeated",
    "impressions_late",
    "impressions_ahead",
    "clicks_joined",
    "clicks_repeated",
    "clicks_after_window",
    "clicks_too_late",
    "clicks_orphaned",
    "clicks_late",
    "clicks_ahead",
    "clicks_first",
)
"""The joiner's counters."""

MAX_SECONDS: Final = 1e9
"""Longest window and horizon, about 30 years: sums of times stay far below 2^63."""

_VALUE: Final = struct.Struct("<d")


class Labelled(NamedTuple):
    """An impression and its label as far as it is known."""

    number: int
    """Running number of the impression."""
    event_id: str
    ts_ms: int
    """Its own time."""
    time_ms: int
    """Its place in the order."""
    payload: bytes
    """The payload it was held with."""
    label: float
    final: bool
    """Whether the label is settled; with copies, the label of a click within the window is not yet."""


class Joiner:
    """Holds impressions until their labels are settled.

    Call :meth:`advance` with the order's time before any other call for an entry. The number of remembered
    records is bounded by the arrivals within the horizon, and their memory by ``memory_bytes`` if there is a
    ``folder`` for the rest. A payload is any bytes that the caller needs with the label (keys, a record, its
    source); it is held within the window only.

    >>> joiner = Joiner(JoinConfig(window_seconds=1.0, grace_seconds=0.0, horizon_seconds=10.0))
    >>> joiner.advance(1000), joiner.admits("a", 1000)
    ([], True)
    >>> joiner.hold("a", 1000, b"keys") is None
    True
    >>> joiner.advance(2000), joiner.click("a", 2000) is None, joiner.advance(2001)[0].label
    ([], True, 1.0)
    """

    def __init__(self, config: JoinConfig, folder: SegmentFolder | None = None) -> None:
        """Raises ConfigError for a window, grace or horizon that is negative, not finite or contradictory."""
        self.window_ms = _milliseconds("join.window_seconds", config.window_seconds)
        self.horizon_ms = _milliseconds("join.horizon_seconds", config.horizon_seconds)
        if self.horizon_ms < self.window_ms:
            raise ConfigError(
                f"join.horizon_seconds = {config.horizon_seconds:g} is shorter than join.window_seconds = "
                f"{config.window_seconds:g}; set it to at least the window"
            )
        self._open_ms = self.window_ms + _milliseconds("join.grace_seconds", config.grace_seconds)
        # Nothing may be forgotten before it is settled.
        self.horizon_ms = max(self.horizon_ms, self._open_ms)
        self.outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.watermark_ms = 0
        """Time of the order; an end mark advances it to the time at which the last window settles."""
        self.impressions = 0
        """Impressions held so far; the running number of the next one."""
        self.joined_value = 0.0
        """Sum of the values of all joined clicks."""
        self.delays = DelayCounts()
        """Delays from impressions to their joined clicks, in event time."""
        self._copies = not LabelLoss(config.policy).waits
        self._at_click = config.release == "click" and not self._copies
        self._memory = JoinMemory(config.memory_bytes, folder)

    @property
    def settling_ms(self) -> int:
        """Time from an impression to the settlement of its label: window and grace."""
        return self._open_ms

    @property
    def open_impressions(self) -> int:
        """Impressions whose label is not settled."""
        return self._memory.open

    @property
    def memory_bytes(self) -> int:
        """Memory of the remembered records, without segments."""
        return self._memory.used_bytes

    def segments(self) -> list[SegmentName]:
        """Files in use: a checkpoint that contains :meth:`state` must keep them."""
        return self._memory.segments()

    def advance(self, time_ms: int) -> list[Labelled]:
        """Advance to a time of the order; returns the impressions that this settles, by (end of window,
        number)."""
        if time_ms <= self.watermark_ms:
            return []
        self.watermark_ms = time_ms
        settled = self._close_windows(time_ms - self._open_ms)
        self.outcomes["clicks_orphaned"] += self._memory.forget(time_ms - self.horizon_ms)
        return settled

    def admits(self, event_id: str, ts_ms: int) -> bool:
        """Whether an impression is new and in time; otherwise its outcome is counted."""
        if self._memory.find(event_id) is not None:
            self.outcomes["impressions_repeated"] += 1
            return False
        if ts_ms < self.watermark_ms - self.horizon_ms:
            self.outcomes["impressions_late"] += 1
            return False
        if ts_ms > self.watermark_ms and self._memory.ahead_is_full:
            self.outcomes["impressions_ahead"] += 1
            return False
        return True

    def hold(self, event_id: str, ts_ms: int, payload: bytes) -> Labelled | None:
        """Hold an admitted impression; returns it with its label if an earlier click settles that now."""
        held = Held(event_id, self.impressions, ts_ms, self.watermark_ms, payload, OPEN)
        self.impressions += 1
        self._memory.add(held)
        click = self._memory.find_click(event_id)
        if click is None:
            return None
        self._memory.change_click(click, taken=True)
        self.outcomes["clicks_first"] += 1
        # Adding it may have moved the impression to a segment: change the record that is found there.
        found = self._memory.find(event_id)
        return None if found is None else self._clicked(found, click.ts_ms, _value_of(click))

    def click(self, event_id: str, ts_ms: int, value: float = 1.0) -> Labelled | None:
        """Join a click; returns the impression that it makes a positive, if that becomes known now."""
        memory = self._memory
        held = memory.find(event_id)
        if held is not None:
            return self._clicked(held, ts_ms, value)
        earlier = memory.find_click(event_id)
        if earlier is not None:
            # The earliest click counts, whichever of them came first in the log.
            memory.change_click(earlier, ts_ms=min(earlier.ts_ms, ts_ms))
            self.outcomes["clicks_repeated"] += 1
        elif ts_ms < self.watermark_ms - self.horizon_ms:
            self.outcomes["clicks_late"] += 1
        elif ts_ms > self.watermark_ms and memory.ahead_is_full:
            self.outcomes["clicks_ahead"] += 1
        else:
            memory.add_click(Held(event_id, 0, ts_ms, self.watermark_ms, _VALUE.pack(value), OPEN))
        return None

    def flush(self) -> list[Labelled]:
        """Close all open windows at the end of a finite log; returns the impressions that this settles."""
        latest_ms = self._memory.latest_open_ms()
        if latest_ms is None:
            return []
        settled = self.advance(latest_ms + self._open_ms)
        return settled + self._close_windows(latest_ms + 1)

    def state(self) -> State:
        """Memory, watermark, running number and counters."""
        outcomes: dict[str, Json] = dict(self.outcomes)
        memory = self._memory.state()
        values: dict[str, Json] = {
            "watermark_ms": self.watermark_ms,
            "impressions": self.impressions,
            "joined_value": self.joined_value,
            "delays": self.delays.state(),
            "outcomes": outcomes,
            "memory": memory.values,
        }
        return State(memory.arrays, values)

    def load_state(self, state: State) -> None:
        """Become the joiner whose :meth:`state` is ``state``.

        Raises:
            StateError: it is damaged, or one of its segments is missing.
        """
        values = state.values
        saved, memory, value = values.get("outcomes"), values.get("memory"), values.get("joined_value")
        table = saved if isinstance(saved, dict) else {}
        # Checkpoints of version 0.1 have no counter of clicks ahead.
        outcomes = {name: _count({"clicks_ahead": 0, **table}, name) for name in OUTCOMES}
        watermark_ms = _count(values, "watermark_ms")
        impressions = _count(values, "impressions")
        delays = DelayCounts.from_state(values.get("delays"))
        if not isinstance(value, int | float) or not isinstance(memory, dict):
            raise StateError(f"saved joiner is damaged: joined_value is {value!r}, memory {type(memory)}")
        self._memory.load_state(State(state.arrays, memory))
        self.outcomes, self.watermark_ms, self.impressions = outcomes, watermark_ms, impressions
        self.joined_value, self.delays = float(value), delays

    def _clicked(self, held: Held, ts_ms: int, value: float) -> Labelled | None:
        if held.status in (POSITIVE, CLICKED):
            self.outcomes["clicks_repeated"] += 1
        elif ts_ms - held.ts_ms > self.window_ms:
            self.outcomes["clicks_after_window"] += 1
        elif held.status == NEGATIVE:
            self.outcomes["clicks_too_late"] += 1
        else:
            self.outcomes["clicks_joined"] += 1
            self.joined_value += value
            self.delays.add(max(0, ts_ms - held.ts_ms))
            if self._at_click:
                return self._settle(held, POSITIVE)
            self._memory.mark_clicked(held)
            if self._copies:
                return _labelled(held, held.payload or b"", 1.0, final=False)
        return None

    def _close_windows(self, before_ms: int) -> list[Labelled]:
        return [
            self._settle(held, POSITIVE if held.status == CLICKED else NEGATIVE)
            for held in self._memory.pop_windows(before_ms)
        ]

    def _settle(self, held: Held, status: int) -> Labelled:
        self.outcomes["positives" if status == POSITIVE else "negatives"] += 1
        payload = self._memory.settle(held, status)
        return _labelled(held, payload, float(status == POSITIVE), final=True)


def _labelled(held: Held, payload: bytes, label: float, *, final: bool) -> Labelled:
    return Labelled(held.number, held.event_id, held.ts_ms, held.time_ms, payload, label, final)


def _value_of(click: Held) -> float:
    return float(_VALUE.unpack(click.payload or b"")[0])


def _milliseconds(name: str, seconds: float) -> int:
    """A setting in milliseconds, rounded up unless the fraction is a rounding error."""
    if not 0.0 <= seconds <= MAX_SECONDS:
        raise ConfigError(f"{name} must be between 0 and {MAX_SECONDS:g}, got {seconds!r}")
    return math.ceil(round(seconds * 1000.0, 6))


def _count(values: dict[str, Json], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or value < 0:
        raise StateError(f"saved joiner is damaged: {name} is {value!r}")
    return value
