"""The joiner's memory: impressions by event id, and clicks that came before their impression.

Two queues hold them. Beyond the memory budget, the oldest records go to segments on disk. When they do
depends on the records alone, so a restart writes the same segments. The few records whose own time is ahead
of the order's are held outside the queues, because their windows and horizons start at their own time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from stream_ctr.errors import StateError
from stream_ctr.pipeline.joining.event_queue import Queue, columns_of, records_of, size_of
from stream_ctr.pipeline.joining.segments import Held, SegmentFolder, SegmentName
from stream_ctr.state.state import State

OPEN: Final = 0
POSITIVE: Final = 1
NEGATIVE: Final = 2
CLICKED: Final = 3
"""Clicked within its window, which is still open: the label is known but not settled."""
TAKEN: Final = 4
"""A click that found its impression."""
UNSETTLED: Final = (OPEN, CLICKED)
AHEAD_SHARE: Final = 4
"""Records ahead of the order cannot go to a segment: they get at most 1 / AHEAD_SHARE of the budget."""


class JoinMemory:
    """Impressions and early clicks, each forgotten after its horizon."""

    def __init__(self, budget_bytes: int, folder: SegmentFolder | None) -> None:
        """Without a ``folder`` everything stays in memory, whatever the budget."""
        self.open = 0
        """Impressions whose label is not settled."""
        self.budget_bytes = budget_bytes
        self._folder = folder
        self._written = 0
        self._impressions, self._clicks = Queue(), Queue()
        self._ahead: dict[str, Held] = {}
        self._ahead_bytes = 0
        self._ahead_windows: list[tuple[int, int, Held]] = []
        self._ahead_ids: list[tuple[int, int, Held]] = []
        self._ahead_clicks: dict[str, Held] = {}
        self._ahead_click_number = 0
        self._ahead_click_ids: list[tuple[int, str, int, Held]] = []

    @property
    def used_bytes(self) -> int:
        """Estimated memory, as counted against the budget."""
        return self._impressions.bytes + self._clicks.bytes + self._ahead_bytes

    @property
    def ahead_is_full(self) -> bool:
        """Whether there is no room for another record ahead of the order."""
        return self._ahead_bytes > self.budget_bytes // AHEAD_SHARE

    def segments(self) -> list[SegmentName]:
        """The segments in use."""
        return [s.named for queue in (self._impressions, self._clicks) for s in queue.segments]

    def find(self, event_id: str) -> Held | None:
        """The remembered impression with that id."""
        held = self._ahead.get(event_id) if self._ahead else None
        held = held or self._impressions.find(event_id)
        # A record in a segment is not updated when its window ends; its position shows that it has ended.
        if held is not None and 0 <= held.position < self._impressions.due and held.status in UNSETTLED:
            held.status = POSITIVE if held.status == CLICKED else NEGATIVE
        return held

    def add(self, held: Held) -> None:
        """Remember an impression; calls must come in the order of the running numbers."""
        self.open += 1
        if held.ts_ms > held.time_ms:
            self._add_ahead(held)
        else:
            self._impressions.add(held)
        self._spill()

    def mark_clicked(self, held: Held) -> None:
        """Note a click within the window of an open impression."""
        held.status = CLICKED
        if held.position >= 0:
            self._impressions.change(held)

    def settle(self, held: Held, status: int) -> bytes:
        """Settle an open impression; returns its payload, which is no longer held."""
        payload, queue = held.payload or b"", self._impressions
        held.status = status
        self.open -= 1
        if held.position < 0:
            self._ahead_bytes -= len(payload)
            held.payload = None
        else:
            queue.release(held)
            if held.position >= queue.due:
                queue.change(held)
        return payload

    def pop_windows(self, before_ms: int) -> Iterator[Held]:
        """Open impressions whose window began before ``before_ms``, by (beginning, number)."""
        if not (self._ahead_windows or self._impressions.may_be_due(before_ms)):
            return iter(())  # called for each entry, and most entries make nothing due
        due = (held for held in self._impressions.pop_due(before_ms) if held.status in UNSETTLED)
        if not self._ahead_windows or self._ahead_windows[0][0] >= before_ms:
            return due
        ahead = []
        while self._ahead_windows and self._ahead_windows[0][0] < before_ms:
            held = heapq.heappop(self._ahead_windows)[2]
            if held.status in UNSETTLED:
                ahead.append(held)
        return iter(sorted([*due, *ahead], key=lambda h: (max(h.time_ms, h.ts_ms), h.number)))

    def latest_open_ms(self) -> int | None:
        """Beginning of the open window that ends last; None if no window is open."""
        newest = self._impressions.newest(UNSETTLED)
        times = [] if newest is None else [newest.time_ms]
        times += [start for start, _, held in self._ahead_windows if held.status in UNSETTLED]
        return max(times, default=None)

    def find_click(self, event_id: str) -> Held | None:
        """The held click with that id."""
        held = self._ahead_clicks.get(event_id) if self._ahead_clicks else None
        if held is None or held.status == TAKEN:
            held = self._clicks.find(event_id)
        return None if held is None or held.status == TAKEN else held

    def add_click(self, held: Held) -> None:
        """Hold a click; calls must come in the order of the order's times."""
        if held.ts_ms > held.time_ms:
            held.time_ms = held.ts_ms
            self._add_ahead_click(held)
        else:
            self._clicks.add(held)
        self._spill()

    def change_click(self, held: Held, *, ts_ms: int | None = None, taken: bool = False) -> None:
        """Give a held click an earlier time, or mark it as taken."""
        held.ts_ms = held.ts_ms if ts_ms is None else ts_ms
        held.status = TAKEN if taken else held.status
        if held.position >= 0:
            self._clicks.change(held)

    def forget(self, before_ms: int) -> int:
        """Forget records whose window or horizon began before ``before_ms``; returns the number of held
        clicks among them."""
        if self._impressions.may_be_old(before_ms):
            self._impressions.forget(before_ms, OPEN)
        while self._ahead_ids and self._ahead_ids[0][0] < before_ms:
            held = heapq.heappop(self._ahead_ids)[2]
            self._ahead_bytes -= size_of(held)
            del self._ahead[held.event_id]
        clicks = self._clicks.forget(before_ms, OPEN) if self._clicks.may_be_old(before_ms) else 0
        while self._ahead_click_ids and self._ahead_click_ids[0][0] < before_ms:
            click = heapq.heappop(self._ahead_click_ids)[-1]
            self._ahead_bytes -= size_of(click)
            clicks += click.status == OPEN
            if self._ahead_clicks.get(click.event_id) is click:
                del self._ahead_clicks[click.event_id]
        return clicks

    def state(self) -> State:
        """Both queues, the records ahead, and the number of segments written."""
        parts = {
            "impressions": self._impressions.state(),
            "clicks": self._clicks.state(),
            "ahead": State(columns_of(self._ahead.values()), {}),
            "ahead_clicks": State(columns_of(self._clicks_ahead()), {}),
        }
        gathered = State.gather(parts)
        return State(gathered.arrays, {**gathered.values, "open": self.open, "written": self._written})

    def load_state(self, state: State) -> None:
        """Become the memory whose :meth:`state` is ``state``.

        Raises:
            StateError: it is damaged, or a segment is missing; nothing is changed.
        """
        fresh = JoinMemory(self.budget_bytes, self._folder)
        try:
            fresh._fill(state)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise StateError(f"saved joiner is damaged: {type(error).__name__}: {error}") from None
        self.__dict__.update(fresh.__dict__)

    def _fill(self, state: State) -> None:
        self._impressions = Queue.from_state(state.part("impressions"), self._folder)
        self._clicks = Queue.from_state(state.part("clicks"), self._folder)
        for held in records_of(state.part("ahead").arrays):
            self._add_ahead(held)
        if "ahead_clicks" in state.values:  # checkpoints of version 0.1 have none
            for held in records_of(state.part("ahead_clicks").arrays):
                self._add_ahead_click(held)
        counts = (state.values["open"], state.values["written"])
        self.open, self._written = (count for count in counts if isinstance(count, int) and count >= 0)

    def _add_ahead(self, held: Held) -> None:
        self._ahead[held.event_id] = held
        self._ahead_bytes += size_of(held)
        entry = (held.ts_ms, held.number, held)
        heapq.heappush(self._ahead_ids, entry)
        if held.status in UNSETTLED:
            heapq.heappush(self._ahead_windows, entry)

    def _add_ahead_click(self, held: Held) -> None:
        # A taken click is remembered until its horizon ends; another one with its id may follow.
        if held.status != TAKEN or held.event_id not in self._ahead_clicks:
            self._ahead_clicks[held.event_id] = held
        self._ahead_bytes += size_of(held)
        self._ahead_click_number += 1
        heapq.heappush(self._ahead_click_ids, (held.time_ms, held.event_id, self._ahead_click_number, held))

    def _clicks_ahead(self) -> list[Held]:
        """Clicks ahead of the order, sorted by their saved fields."""
        clicks = (held for *_, held in self._ahead_click_ids)
        return sorted(clicks, key=lambda held: (held.time_ms, held.event_id, held.ts_ms, held.status))

    def _spill(self) -> None:
        """Reduce memory over the budget to half of it; the larger queue goes to a segment first."""
        if self._folder is None or self.used_bytes <= self.budget_bytes:
            return
        queues = sorted((self._impressions, self._clicks), key=lambda queue: -queue.bytes)
        for queue in queues:
            too_many = self.used_bytes - self.budget_bytes // 2
            if too_many > 0 and queue.spill(queue.bytes - too_many, self._folder, self._written):
                self._written += 1
