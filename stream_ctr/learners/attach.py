"""Skip logits for a network that has learned without them."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from stream_ctr.errors import StateError
from stream_ctr.state.state import Json, State


def attach_sml(base: State, fresh: State) -> State:
    """The state of ``base``, a learner without skip logits, with those of ``fresh``, whose W_i become 0.

    ``fresh`` is the state of a new learner of the same network with skip logits. Rows, dense parameters and
    their optimizer state are kept bit for bit; the new parameters start as ``fresh`` has them. With W_i = 0
    every skip logit is 0, so all logits are those of ``base``.

    Raises:
        StateError: the two are not of one network and optimizer, or ``base`` has skip logits already.
    """
    old, new = _places(base), _places(fresh)
    if any(name.startswith("sml.") for name in old):
        raise StateError("the network has skip logits already; there is nothing to attach")
    kept = {name: place for name, place in new.items() if not name.startswith("sml.")}
    if [(n, s.stop - s.start) for n, s in old.items()] != [(n, s.stop - s.start) for n, s in kept.items()]:
        raise StateError(
            f"the saved network has the dense parameters {', '.join(old)}, this one {', '.join(kept)} "
            "beside its skip logits; all but the settings of the skip logits must agree"
        )
    arrays = dict(base.arrays)
    for key, array in fresh.arrays.items():
        if key.startswith("dense."):
            if key not in base.arrays:
                raise StateError(f"the saved state has no {key}; attach with the optimizer that saved it")
            arrays[key] = array.copy()
            for name, place in kept.items():
                arrays[key][place] = base.arrays[key][old[name]]
    for name, place in new.items():
        if name.startswith("sml.") and name.endswith(".weight"):
            arrays["dense.weight"][place] = 0.0
    return State(arrays, {**base.values, "layout": fresh.values["layout"]})


def _places(state: State) -> dict[str, slice]:
    """Where each dense parameter lies in the flat vectors."""
    layout = cast("list[list[Json]]", state.values.get("layout") or [])
    sizes = [math.prod(cast("list[int]", shape)) for _, shape in layout]
    ends = np.cumsum(sizes).tolist()
    return {
        str(name): slice(end - size, end) for (name, _), size, end in zip(layout, sizes, ends, strict=True)
    }
