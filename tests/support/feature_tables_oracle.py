"""Feature tables by their definition: dicts, lists and float64, one event after the other."""

from __future__ import annotations

import math

from stream_ctr.batch import ABSENT, ASIDE, PREDICT


class SlowTables:
    """M_j is literally the maximum over all rows of a field, every count literally decayed to now."""

    def __init__(self, slot_field: list[int], fields: int, half_life_ms: float, minimum_count: int) -> None:
        self.slot_field, self.fields = slot_field, fields
        self.half_life_ms, self.minimum_count = half_life_ms, minimum_count
        self.row_of: dict[int, int] = {}
        self.field_of: list[int] = list(range(fields))
        self.sightings: dict[int, int] = {}
        self.seen: list[list[tuple[float, int]]] = [[] for _ in range(fields)]
        """Of each row: what was added to its count, and when."""
        self.now = -(2**63)
        self.changes: list[tuple[int, int, int, int]] = []
        self.events = 0

    def count(self, row: int) -> float:
        if math.isinf(self.half_life_ms):
            return math.fsum(weight for weight, _ in self.seen[row])
        return math.fsum(w * 2.0 ** (-(self.now - t) / self.half_life_ms) for w, t in self.seen[row])

    def maximum(self, field: int) -> float:
        rows = [row for row in range(self.fields, len(self.seen)) if self.field_of[row] == field]
        return max(map(self.count, rows), default=0.0)

    def encode(self, keys: list[int], action: int, time_ms: int) -> tuple[list[int], list[float]]:
        if not self.changes:
            self.changes += [(self.events, field, field, 0) for field in range(self.fields)]
        if action & PREDICT and not action & ASIDE:
            self.now = max(self.now, time_ms)
            for field, key in dict.fromkeys(zip(self.slot_field, keys, strict=True)):
                if key:
                    self.observe(field, key)
        self.events += 1
        rows: list[int] = []
        for slot, key in enumerate(keys):
            row = self.row_of.get(key, self.slot_field[slot]) if key else ABSENT
            rows.append(ABSENT if row in rows else row)
        return rows, [self.ratio(row) if row >= self.fields else 0.0 for row in rows]

    def observe(self, field: int, key: int) -> None:
        if key not in self.row_of:
            self.sightings[key] = self.sightings.get(key, 0) + 1
            if self.sightings[key] < self.minimum_count:
                return
            row = self.row_of[key] = len(self.seen)
            self.seen.append([(self.sightings[key] - 1.0, self.now)])
            self.field_of.append(field)
            self.changes.append((self.events, row, field, key))
        self.seen[self.row_of[key]].append((1.0, self.now))

    def ratio(self, row: int) -> float:
        return min(self.count(row) / self.maximum(self.field_of[row]), 1.0)
