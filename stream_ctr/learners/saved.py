"""What a learner's saved state must be before any of it is taken: the same for every implementation."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from stream_ctr.errors import StateError
from stream_ctr.learners.row_table import check_array
from stream_ctr.models.layout import Layout
from stream_ctr.state import Arrays, State


def checked_dense(state: State, layout: Layout, kinds: Mapping[str, torch.dtype]) -> tuple[int, Arrays]:
    """Count of learned events, and the dense vectors by name (weight and accumulators), each [size].

    ``kinds`` are their types by name.

    Raises:
        StateError: the state is of another network, optimizer or number type.
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
