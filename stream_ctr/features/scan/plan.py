"""Input of a record scan: the compiled field schema and scratch memory."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TEXT, INTEGER, LISTED, BOUNDED, LEARNED, IGNORED = range(6)
"""Kinds of fields, those that accept whole numbers first: categorical, integer, multi, float with configured
boundaries, float with learned boundaries; a name without a field."""

NOT_SURE: Final = -1
MOST_KEYS: Final = 64
"""Largest number of keys outside the features, and of values in one list, that a scan tracks."""
MOST_IGNORED: Final = 64
"""Largest number of names without a field that a scan recognises: one bit each."""


class Schema(NamedTuple):
    """F fields and U names without a field, as input of the kernels. [N] is [F + U]."""

    fields: int
    """F"""
    names: NDArray[np.uint8]
    """The names in UTF-8, concatenated."""
    name_start: NDArray[np.int64]
    """[N + 1]"""
    kind: NDArray[np.int64]
    """[N]"""
    slot: NDArray[np.int64]
    """[F] first slot."""
    width: NDArray[np.int64]
    """[F] number of slots."""
    keeps_last: NDArray[np.bool_]
    """[F] whether a list that is too long keeps its last values."""
    seed: NDArray[np.uint64]
    """[F]"""
    missing: NDArray[np.uint64]
    """[F] key of a missing value."""
    extra: NDArray[np.int64]
    """[F] column, after the keys, of a learned float's value."""
    boundaries: NDArray[np.float64]
    """Boundaries of all fields of kind BOUNDED, concatenated."""
    boundary_start: NDArray[np.int64]
    """[F + 1]"""
    bucket_keys: NDArray[np.uint64]
    """Bucket keys of all fields of kind BOUNDED, concatenated."""
    bucket_start: NDArray[np.int64]
    """[F + 1]"""
    truncated: int
    """Column of the number of values without a slot; 0 if there is no multi-valued field."""


class Scratch(NamedTuple):
    """Scratch memory of a scan."""

    seen: NDArray[np.int64]
    """[N] number, from 1, of the last event that had the name."""
    ignored: NDArray[np.uint64]
    """[1] bit u is set if the event has name F + u."""
    key_start: NDArray[np.int64]
    """[MOST_KEYS] start of each key outside the features."""
    key_stop: NDArray[np.int64]
    """[MOST_KEYS] end of each of these keys."""
    listed: NDArray[np.uint64]
    """[MOST_KEYS] keys of one list, in its order."""
    tagged: NDArray[np.uint8]
    """[9] an integer's canonical bytes."""
