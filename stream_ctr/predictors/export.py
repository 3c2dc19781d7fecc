"""From a learner's state to the parts of a snapshot: weights only, no optimizer state."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.features.schema import FieldConfig
from stream_ctr.frozen import FrozenState, Source, whole
from stream_ctr.models.config import ModelConfig
from stream_ctr.predictors.snapshot import SnapshotContent
from stream_ctr.state import Arrays, State


def snapshot_parts(learner: State) -> tuple[Arrays, NDArray[np.float32]]:
    """Dense parameters by name, and embedding rows [R, d], both float32.

    A learner's state holds its dense parameters as one vector ``dense.weight`` with the layout
    [[name, [extent, ...]], ...] in its values, and its embedding rows as ``rows.weight``.

    Raises:
        StateError: the state lacks one of them, or the layout does not cover the vector.
    """
    dense, rows = frozen_parts(FrozenState(dict(learner.arrays), learner.values))
    return dense, whole(rows)


def frozen_parts(learner: FrozenState) -> tuple[Arrays, Source]:
    """The same of a frozen state, whose rows stay in pieces.

    Raises:
        StateError: as :func:`snapshot_parts`.
    """
    try:
        flat, rows = whole(learner.arrays["dense.weight"]), learner.arrays["rows.weight"]
        layout = [
            (str(name), tuple(int(extent) for extent in shape))
            for name, shape in cast("list[tuple[str, list[int]]]", learner.values["layout"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"not the state of a learner that a snapshot can be made of: {error!r}") from None
    sizes = [math.prod(shape) for _, shape in layout]
    if sum(sizes) != flat.size:
        raise StateError(f"the learner's layout covers {sum(sizes)} dense parameters, it has {flat.size}")
    pieces = np.split(flat.astype(np.float32), np.cumsum(sizes)[:-1])
    dense: Arrays = {name: piece.reshape(shape) for (name, shape), piece in zip(layout, pieces, strict=True)}
    return dense, rows if rows.dtype == np.float32 else whole(rows).astype(np.float32)


def snapshot_content(
    model: ModelConfig,
    fields: tuple[FieldConfig, ...],
    learner: State,
    lookup: tuple[NDArray[np.uint64], NDArray[Any]],
    encoder: State,
    event_time_ms: int,
    model_version: str = "",
) -> SnapshotContent:
    """What :func:`.snapshot.write_snapshot` takes, from the parts of a trainer.

    ``lookup`` is the vocabulary's keys and rows [C] as the feature tables hand them out, ``encoder`` the
    state of the key encoder; ``event_time_ms`` is the event time up to which the learner has learned.

    Raises:
        StateError: no snapshot can be made of the learner's state.
    """
    dense, rows = snapshot_parts(learner)
    keys, table_rows = lookup
    vocabulary: Arrays = {"table_keys": keys, "table_rows": table_rows}
    return SnapshotContent(model, fields, dense, rows, vocabulary, encoder, event_time_ms, model_version)
