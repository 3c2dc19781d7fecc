"""Streams of events for the tests of learners: new rows, recycled rows, default rows and empty slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_ctr.batch import ABSENT, LEARN, PREDICT, Batch, RowChanges


@dataclass(frozen=True)
class Schema:
    """Slots of the test streams; ``slot_field`` names the field of each slot."""

    slot_field: tuple[int, ...]

    @property
    def fields(self) -> int:
        return max(self.slot_field) + 1


SINGLE = Schema((0, 1, 2, 3))
MULTI = Schema((0, 1, 1, 1, 2))


def make_batch(
    schema: Schema, events: int, seed: int, *, values: int = 12, learn_only: bool = False
) -> Batch:
    """A stream of ``events`` events whose rows appear, repeat, are recycled, and are sometimes missing.

    Labels depend on the values, so that there is something to learn.
    """
    rng = np.random.default_rng(seed)
    fields, slots = schema.fields, len(schema.slot_field)
    row_of: dict[tuple[int, int], int] = {}
    changes: list[tuple[int, int, int, int]] = []
    rows = np.full((events, slots), ABSENT, np.int64)
    ratio = np.zeros((events, slots), np.float32)
    label = np.zeros(events, np.float32)
    next_row = fields
    for b in range(events):
        drawn = []
        for slot, field in enumerate(schema.slot_field):
            if schema.slot_field.count(field) > 1 and rng.random() < 0.4:
                continue
            value = int(min(rng.geometric(0.25), values))
            if (field, value) in drawn:
                continue
            drawn.append((field, value))
            if rng.random() < 0.05 and field not in [schema.slot_field[s] for s in range(slot)]:
                rows[b, slot] = field  # the field's default row
                continue
            if (field, value) not in row_of:
                row_of[(field, value)] = next_row
                changes.append((b, next_row, field, 1000 * value + field + 1))
                next_row += 1
            rows[b, slot] = row_of[(field, value)]
            ratio[b, slot] = 1.0 / value
        if b % 17 == 16 and len(row_of) > 3 * slots:
            # a row that this event does not use expires, and is given to a new key before the event
            stale = next(pair for pair in row_of if row_of[pair] not in rows[b])
            row = row_of.pop(stale)
            changes.append((b, row, stale[0], 900_000 + b))
            row_of[(stale[0], values + b)] = row
        score = sum(1.5 if value % 2 else -1.5 for _, value in drawn)
        label[b] = float(rng.random() < 1.0 / (1.0 + np.exp(-score)))
    action = np.full(events, PREDICT | LEARN, np.uint8)
    if not learn_only:
        action[rng.random(events) < 0.2] = PREDICT
        action[rng.random(events) < 0.2] = LEARN
    label[action == PREDICT] = np.nan
    columns = np.array(changes, np.int64).reshape(-1, 4)
    return Batch(
        rows=rows,
        ratio=ratio,
        label=label,
        weight=rng.choice(np.array([1.0, 1.0, 0.5, 2.0], np.float32), events),
        action=action,
        served=np.full(events, np.nan, np.float32),
        time_ms=np.arange(events, dtype=np.int64),
        impression=np.arange(events, dtype=np.int64),
        truth=np.full(events, np.nan, np.float32),
        changes=RowChanges(
            columns[:, 0].copy(),
            columns[:, 1].copy(),
            columns[:, 2].astype(np.int32),
            columns[:, 3].astype(np.uint64),
        ),
    )


def part(batch: Batch, start: int, stop: int) -> Batch:
    """Events ``start`` to ``stop`` - 1, with their row changes."""
    changes = batch.changes
    chosen = (changes.event >= start) & (changes.event < stop)
    return Batch(
        rows=batch.rows[start:stop],
        ratio=batch.ratio[start:stop],
        label=batch.label[start:stop],
        weight=batch.weight[start:stop],
        action=batch.action[start:stop],
        served=batch.served[start:stop],
        time_ms=batch.time_ms[start:stop],
        impression=batch.impression[start:stop],
        truth=batch.truth[start:stop],
        changes=RowChanges(
            changes.event[chosen] - start, changes.row[chosen], changes.field[chosen], changes.key[chosen]
        ),
    )


def chunks(batch: Batch, size: int) -> Sequence[Batch]:
    """The batch in pieces of ``size`` events."""
    return [part(batch, start, min(start + size, len(batch))) for start in range(0, len(batch), size)]


def one_event(batch: Batch, b: int, *, label: float | None = None, weight: float | None = None) -> Batch:
    """Event ``b`` alone, without row changes, to be learned; with another label or weight if told."""
    event = part(batch, b, b + 1)
    return replace(
        event,
        label=event.label if label is None else np.full(1, label, np.float32),
        weight=event.weight if weight is None else np.full(1, weight, np.float32),
        action=np.full(1, LEARN, np.uint8),
        changes=RowChanges.none(),
    )
