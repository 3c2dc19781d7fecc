"""Comparable parts of a trainer's state."""

from __future__ import annotations

from stream_ctr.state.state import Json, State


def without_decisions(parts: dict[str, State]) -> dict[str, State]:
    """The parts without the count of journal decisions, which depends on how the log is read."""
    pipeline = parts["pipeline"]
    order = pipeline.values["order"]
    assert isinstance(order, dict)
    kept: dict[str, Json] = {name: value for name, value in order.items() if name != "decisions"}
    return {**parts, "pipeline": State(pipeline.arrays, {**pipeline.values, "order": kept})}
