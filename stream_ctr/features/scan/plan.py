"""What a scan of records knows of their fields, and its memory."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TEXT, INTEGER, LISTED, BOUNDED, LEARNED, IGNORED = range(6)
"""Kinds of fields, those that take whole numbers first: categorical, integer, multi, float with given
boundaries, float with learned ones; a name that no field has."""

NOT_SURE: Final = -1
MOST_KEYS: Final = 64
"""Keys beside the features, and values of one list, that a scan keeps track of."""
MOST_IGNORED: Final = 64
"""Names without a field that a scan knows: one bit each."""


class Schema(NamedTuple):
    """F fields and U names without a field, as the kernels take them. [N] is [F + U]."""

    fields: int
    """F"""
    names: NDArray[np.uint8]
    """The names in UTF-8, one after the other."""
    name_start: NDArray[np.int64]
    """[N + 1]"""
    kind: NDArray[np.int64]
    """[N]"""
    slot: NDArray[np.int64]
    """[F] first slot."""
    width: NDArray[np.int64]
    """[F] slots."""
    keeps_last: NDArray[np.bool_]
    """[F] whether a list that is too long keeps its last values."""
    seed: NDArray[np.uint64]
    """[F]"""
    missing: NDArray[np.uint64]
    """[F] key of a missing value."""
    extra: NDArray[np.int64]
    """[F] column of a learned float's value beyond the keys."""
    boundaries: NDArray[np.float64]
    """Those of all fields of kind BOUNDED, one after the other."""
    boundary_start: NDArray[np.int64]
    """[F + 1]"""
    bucket_keys: NDArray[np.uint64]
    """Keys of the buckets of the fields of kind BOUNDED, one after the other."""
    bucket_start: NDArray[np.int64]
    """[F + 1]"""
    truncated: int
    """Column of the count of values without a slot; 0 where no field has several."""


class Scratch(NamedTuple):
    """Memory of a scan."""

    seen: NDArray[np.int64]
    """[N] the last event, from 1 on, that had the name."""
    ignored: NDArray[np.uint64]
    """[1] bit u is set where the event has name F + u."""
    key_start: NDArray[np.int64]
    """[MOST_KEYS] where the keys beside the features begin."""
    key_stop: NDArray[np.int64]
    """[MOST_KEYS]"""
    listed: NDArray[np.uint64]
    """[MOST_KEYS] keys of one list, in its order."""
    tagged: NDArray[np.uint8]
    """[9] an integer's canonical bytes."""
