"""Converts a learner's state to the parts of a snapshot: weights only, no optimizer state."""

from __future__ import annotations

import math
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import StateError
from stream_ctr.predictors.river_forward import RiverModel
from stream_ctr.predictors.snapshot import SnapshotContent
from stream_ctr.state.frozen import FrozenState, Source, whole
from stream_ctr.state.state import Arrays, State


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
    """As :func:`snapshot_parts`, of a frozen state; its rows stay in pieces.

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
        raise StateError(f"this learner state cannot be exported to a snapshot: {error!r}") from None
    sizes = [math.prod(shape) for _, shape in layout]
    if sum(sizes) != flat.size:
        raise StateError(
            f"the learner's layout covers {sum(sizes)} dense parameters, its state has {flat.size}"
        )
    pieces = np.split(flat.astype(np.float32), np.cumsum(sizes)[:-1])
    dense: Arrays = {name: piece.reshape(shape) for (name, shape), piece in zip(layout, pieces, strict=True)}
    return dense, rows if rows.dtype == np.float32 else whole(rows).astype(np.float32)


def river_parts(learner: FrozenState, fields: int) -> tuple[RiverModel, Arrays, NDArray[np.float64]]:
    """Model, dense parameters and rows [R, 1 + factors] of a river model's ``weights()``; R is at least
    ``fields``, because a model may not have seen every field's default row yet.

    Raises:
        StateError: the state lacks one of them.
    """
    try:
        model = msgspec.convert(learner.values["river"], RiverModel)
        dense, rows = {"intercept": whole(learner.arrays["intercept"])}, whole(learner.arrays["rows"])
    except (KeyError, msgspec.ValidationError) as error:
        raise StateError(
            f"these weights of a river model cannot be exported to a snapshot: {error!r}"
        ) from None
    if len(rows) < fields:
        rows = np.concatenate([rows, np.zeros((fields - len(rows), *rows.shape[1:]))])
    return model, dense, rows


def model_parts(
    model: ModelConfig, fields: int, learner: FrozenState
) -> tuple[ModelConfig | RiverModel, Arrays, Source]:
    """Model, dense parameters and rows of any learner's weights. ``model`` is the arm's network, ignored if
    the state is that of a river model.

    Raises:
        StateError: the state cannot be exported to a snapshot.
    """
    if "river" in learner.values:
        return river_parts(learner, fields)
    return model, *frozen_parts(learner)


def snapshot_content(
    model: ModelConfig,
    fields: tuple[FieldConfig, ...],
    learner: State,
    lookup: tuple[NDArray[np.uint64], NDArray[Any]],
    encoder: State,
    event_time_ms: int,
    model_version: str = "",
) -> SnapshotContent:
    """The content for :func:`.snapshot.write_snapshot`, from the parts of a trainer.

    ``lookup`` is the vocabulary's keys and rows [C] as the feature tables export them, ``encoder`` the state
    of the key encoder, and ``event_time_ms`` the event time up to which the learner has learned.

    Raises:
        StateError: the learner's state cannot be exported to a snapshot.
    """
    form, dense, rows = model_parts(model, len(fields), FrozenState(dict(learner.arrays), learner.values))
    keys, table_rows = lookup
    vocabulary: Arrays = {"table_keys": keys, "table_rows": table_rows}
    return SnapshotContent(
        form, fields, dense, whole(rows), vocabulary, encoder, event_time_ms, model_version
    )
