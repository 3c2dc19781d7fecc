"""Validation of a saved learner state before any of it is loaded, shared by all implementations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.models.layout import Layout
from stream_ctr.state.state import Arrays, State


def checked_dense(state: State, layout: Layout, kinds: Mapping[str, np.dtype[Any]]) -> tuple[int, Arrays]:
    """The number of learned events and the dense vectors by name (weight and accumulators), each [size].

    ``kinds`` holds the expected types by name.

    Raises:
        StateError: the state belongs to another network or optimizer, or has another number type.
    """
    saved_layout, own_layout = state.values.get("layout"), layout.describe()
    if saved_layout != own_layout:
        raise StateError(
            f"the saved network has the dense parameters {saved_layout}, this model has {own_layout}; "
            "resume with the model that saved them"
        )
    learned = state.values.get("learned")
    if not isinstance(learned, int):
        raise StateError(f"the saved learner's count of learned events is {learned!r}, not a number")
    saved, needed = state.part("dense").arrays, kinds.keys()
    if saved.keys() != needed:
        raise StateError(
            f"the saved dense optimizer state is {', '.join(sorted(saved))}, this optimizer needs "
            f"{', '.join(sorted(needed))}; resume with the optimizer that saved it"
        )
    for name, array in saved.items():
        check_array(f"dense.{name}", array, (layout.size,), kinds[name])
    return learned, saved


def check_array(name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check the shape and type of a saved array.

    Raises:
        StateError: shape or type differs from the expected one; the message gives both.
    """
    if array.dtype != dtype and np.uint16 in (array.dtype, dtype):
        kind = "bfloat16" if array.dtype == np.uint16 else "float32"
        raise StateError(
            f"the saved array {name} is {array.dtype}, this optimizer keeps {dtype}; resume with "
            f'optimizer.moments = "{kind}", as it was saved'
        )
    if array.shape != shape or array.dtype != dtype:
        raise StateError(
            f"the saved array {name} is {array.dtype} {list(array.shape)}, this model needs "
            f"{dtype} {list(shape)}; resume with the model and optimizer that saved it"
        )
