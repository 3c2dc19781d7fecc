"""Inputs of river models: feature dicts built from the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import RowChanges
from stream_ctr.errors import StateError
from stream_ctr.state.state import State

Feature = tuple[int, int]
"""Name of a value: (field, key) of its row, or (row, 0) for a default row, which has no key."""

SMOOTHING_EVENTS = 10.0
"""Weight, in events, of the overall click rate as the prior of the click rate of a value."""


class Inputs(Protocol):
    """Converts rows to the features of a river model."""

    def change(self, changes: RowChanges, low: int, high: int) -> None:
        """Apply changes ``low`` to ``high`` - 1, which assign rows to new values."""
        ...

    def features(self, rows_S: NDArray[np.int64]) -> dict[Any, float]:
        """Features of an event from its rows int64 [S]; changes nothing."""
        ...

    def learned(self, rows_S: NDArray[np.int64], clicked: bool) -> None:
        """Record the outcome of an event."""
        ...


class OneHot:
    """One feature with value 1 for each value of the event; for models that are linear in their features.

    Features are named by field and key, so a row that is reassigned to another key becomes a new feature.
    """

    def __init__(self, *, as_text: bool = False) -> None:
        """``as_text``: names are "field_key", for models that parse the field from the feature name."""
        self._feature: dict[int, Feature] = {}
        self._as_text = as_text

    def change(self, changes: RowChanges, low: int, high: int) -> None:
        """See :class:`Inputs`."""
        for k in range(low, high):
            self._feature[int(changes.row[k])] = (int(changes.field[k]), int(changes.key[k]))

    def features(self, rows_S: NDArray[np.int64]) -> dict[Any, float]:
        """See :class:`Inputs`."""
        named = {self.feature(row): 1.0 for row in rows_S.tolist() if row >= 0}
        return {f"{field}_{key}": 1.0 for field, key in named} if self._as_text else dict(named)

    def learned(self, rows_S: NDArray[np.int64], clicked: bool) -> None:
        """See :class:`Inputs`."""

    def feature(self, row: int) -> Feature:
        """The current feature of a row."""
        return self._feature.get(row, (row, 0))

    def rows(self) -> Iterable[int]:
        """Rows that are assigned to a value."""
        return self._feature.keys()

    def state(self) -> State:
        """row int64 [K], ascending, with the field int32 [K] and key uint64 [K] of each row."""
        rows = sorted(self._feature)
        return State(
            {"row": np.array(rows, np.int64), **feature_arrays([self._feature[row] for row in rows])}
        )

    def load_state(self, state: State) -> None:
        """Restore the inputs that produced ``state``.

        Raises:
            StateError: the arrays are inconsistent.
        """
        features = saved_features(state)
        row = saved_array(state, "row", np.int64, (len(features),))
        self._feature = dict(zip(row.tolist(), features, strict=True))


class ClickRates:
    """One number per field, the log odds of the click rate of its value so far; e.g. for trees.

    A field has thousands of values, and a tree over the raw values would branch once per value. The rates use
    only events learned before (ordered target statistics; Prokhorenkova et al. 2018, "CatBoost: unbiased
    boosting with categorical features", section 3.2). They are shrunk towards the overall rate with the
    weight of 10 events. A multi-valued field gives the mean over its values.
    """

    def __init__(self) -> None:
        self._field: dict[int, int] = {}
        self._clicks: dict[int, float] = {}
        self._shown: dict[int, int] = {}
        self._all_clicks, self._all_shown = 0.0, 0

    def change(self, changes: RowChanges, low: int, high: int) -> None:
        """See :class:`Inputs`."""
        for k in range(low, high):
            row = int(changes.row[k])
            self._field[row] = int(changes.field[k])
            self._clicks.pop(row, None)
            self._shown.pop(row, None)

    def features(self, rows_S: NDArray[np.int64]) -> dict[Any, float]:
        """See :class:`Inputs`."""
        # Start with one click and one non-click, so that no rate is 0 or 1.
        prior = SMOOTHING_EVENTS * (self._all_clicks + 1.0) / (self._all_shown + 2.0)
        values: dict[int, list[float]] = {}
        for row in rows_S.tolist():
            if row >= 0:
                clicks = self._clicks.get(row, 0.0) + prior
                others = self._shown.get(row, 0) + SMOOTHING_EVENTS - clicks
                values.setdefault(self._field.get(row, row), []).append(math.log(clicks / others))
        return {field: sum(found) / len(found) for field, found in values.items()}

    def learned(self, rows_S: NDArray[np.int64], clicked: bool) -> None:
        """See :class:`Inputs`."""
        self._all_shown += 1
        self._all_clicks += clicked
        for row in rows_S.tolist():
            if row >= 0:
                self._shown[row] = self._shown.get(row, 0) + 1
                self._clicks[row] = self._clicks.get(row, 0.0) + clicked


def feature_arrays(features: list[Feature]) -> dict[str, NDArray[Any]]:
    """field int32 [K] and key uint64 [K] of features."""
    return {
        "field": np.array([field for field, _ in features], np.int32),
        "key": np.array([key for _, key in features], np.uint64),
    }


def saved_features(state: State) -> list[Feature]:
    """The features of a saved state, from its arrays ``field`` and ``key``.

    Raises:
        StateError: an array is missing or damaged, or their lengths differ.
    """
    field = saved_array(state, "field", np.int32, None)
    key = saved_array(state, "key", np.uint64, (len(field),))
    return list(zip(field.tolist(), key.tolist(), strict=True))


def saved_array(
    state: State, name: str, dtype: type[np.generic], shape: tuple[int, ...] | None
) -> NDArray[Any]:
    """One array of a saved state; with ``shape`` None it must be one-dimensional.

    Raises:
        StateError: the array is missing, or has another type or shape.
    """
    array = state.arrays.get(name)
    fits = array is not None and array.dtype == dtype
    if array is None or not fits or not (array.ndim == 1 if shape is None else array.shape == shape):
        found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
        due = f"{np.dtype(dtype)} {'[any]' if shape is None else list(shape)}"
        raise StateError(f"the saved river model's {name} is {found}, expected {due}: the file is damaged")
    return array
