"""What a scan of records knows of their fields, and its memory."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TEXT, INTEGER, LISTED, BOUNDED, LEARNED = range(5)
"""Kinds of fields, those that take whole numbers first: categorical, integer, multi, float with given
boundaries, float with learned ones."""

NOT_SURE: Final = -1
MOST_KEYS: Final = 64
"""Keys beside the features, and texts of one list, that a scan keeps track of."""


class Schema(NamedTuple):
    """F fields, as the kernels take them."""

    names: NDArray[np.uint8]
    """The fields' names in UTF-8, one after the other."""
    name_start: NDArray[np.int64]
    """[F + 1]"""
    kind: NDArray[np.int64]
    """[F]"""
    slot: NDArray[np.int64]
    """[F] first slot."""
    width: NDArray[np.int64]
    """[F] slots."""
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
    """[F] the last event, from 1 on, that named the field."""
    key_start: NDArray[np.int64]
    """[MOST_KEYS] where the keys beside the features begin."""
    key_stop: NDArray[np.int64]
    """[MOST_KEYS]"""
    listed: NDArray[np.uint64]
    """[MOST_KEYS] keys of one list."""
    tagged: NDArray[np.uint8]
    """[9] an integer's canonical bytes."""
