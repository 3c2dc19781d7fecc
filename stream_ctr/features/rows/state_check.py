"""Checks that saved feature tables are undamaged and match the configured fields and settings."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.features.rows.frequency import NEVER
from stream_ctr.state.state import State


class Checked(NamedTuple):
    """The values of saved tables apart from their arrays."""

    used: int
    """Rows in use, including the default rows."""
    clock_ms: int
    """Largest event time so far."""
    started: bool
    """Whether any event was encoded."""


def check_tables(state: State, fields: int, sketch: tuple[int, ...], *, decayed: bool) -> Checked:
    """Check everything except the keys, which are checked when they are inserted.

    Args:
        state: a state that :meth:`.tables.FeatureTables.state` returned.
        fields: F, the number of configured fields.
        sketch: shape of the configured sketch.
        decayed: whether the configured counts are decayed.

    Raises:
        StateError: the state belongs to other fields or settings, or is damaged.
    """
    row_key = state.arrays.get("row_key")
    used = fields + (len(row_key) if row_key is not None and row_key.ndim == 1 else 0)
    expected = {
        "row_key": ((used - fields,), np.uint64),
        "row_field": ((used,), np.int32),
        "row_count": ((used,), np.float64),
        "row_time_ms": ((used if decayed else 0,), np.int64),
        "maximum": ((fields,), np.float64),
        "maximum_time_ms": ((fields,), np.int64),
        "sketch": (sketch, np.uint16),
    }
    for name, (shape, dtype) in expected.items():
        array = state.arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise StateError(
                f"saved feature tables: {name} is {found}, this configuration has "
                f"{np.dtype(dtype)}{list(shape)}: restore the [features] settings it was saved with"
            )
    clock_ms, started = state.values.get("clock_ms"), state.values.get("started")
    if not isinstance(clock_ms, int) or not isinstance(started, bool):
        raise StateError(f"saved feature tables: clock_ms is {clock_ms!r}, started is {started!r}")
    _check_rows(state, fields, clock_ms)
    return Checked(used, clock_ms, started)


def _check_rows(state: State, fields: int, clock_ms: int) -> None:
    row_field, default = state.arrays["row_field"], np.arange(fields)
    if not (np.array_equal(row_field[:fields], default) and _within(row_field, 0, fields - 1)):
        raise StateError(
            f"saved feature tables: row_field does not name {fields} fields: the file is damaged"
        )
    for name in ("row_count", "maximum"):
        if not _within(state.arrays[name], 0, np.finfo(np.float64).max):
            raise StateError(f"saved feature tables: {name} holds a negative or non-finite count")
    # A time after the clock would make a count grow without bound.
    if not _within(state.arrays["row_time_ms"][fields:], NEVER, clock_ms):
        raise StateError(f"saved feature tables: row_time_ms is after clock_ms {clock_ms}")


def _within(array: NDArray[Any], low: float, high: float) -> bool:
    """Whether all values lie in [low, high]; NaN does not."""
    return bool(((array >= low) & (array <= high)).all())
