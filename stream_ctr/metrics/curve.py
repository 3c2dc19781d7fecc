"""The learning curve: windowed metrics along the stream, a few hundred points at most."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from stream_ctr.metrics.sums import MetricValues
from stream_ctr.state.state import State, stored_integer

LIMIT: Final = 500
"""Maximum number of points. A full curve drops every other point and doubles its spacing."""


class CurvePoint(NamedTuple):
    """Metrics of the window that ends at ``impressions``; NaN if undefined. Log losses are in nats."""

    impressions: int
    """Impressions scored so far."""
    log_loss: float
    base_log_loss: float
    """Log loss of the running base rate over the same window."""
    bayes_log_loss: float
    """Log loss of the ground truth over the same window; NaN if the data has none."""
    auc: float
    calibration: float


class Curve:
    """Points at multiples of a spacing that doubles; their positions depend only on the number of events."""

    def __init__(self, spacing: int) -> None:
        self.spacing = spacing
        """Impressions between two points."""
        self.points: list[CurvePoint] = []

    def until_next(self, seen: int) -> int:
        """Impressions from ``seen`` until the next point is due."""
        return self.spacing - seen % self.spacing

    def add(self, seen: int, values: MetricValues) -> None:
        """Append a point after ``seen`` impressions, a multiple of the spacing."""
        self.points.append(
            CurvePoint(
                seen,
                values.log_loss,
                values.base_log_loss,
                values.bayes_log_loss,
                values.auc,
                values.calibration,
            )
        )
        if len(self.points) == LIMIT:
            self.spacing *= 2
            self.points = [point for point in self.points if point.impressions % self.spacing == 0]

    def state(self) -> State:
        """The points as float64 [K, 6]; exact for counts below 2^53."""
        points = np.array(self.points, np.float64).reshape(len(self.points), len(CurvePoint._fields))
        return State({"points": points}, {"spacing": self.spacing})

    def load_state(self, state: State) -> None:
        """Restore the curve that produced ``state``.

        Raises:
            KeyError, ValueError: the state is not that of a curve.
        """
        self.spacing = stored_integer(state, "spacing")
        if self.spacing < 1:
            raise ValueError(f"the spacing of the learning curve must be at least 1, got {self.spacing}")
        saved = state.arrays["points"]
        if saved.ndim != 2 or saved.shape[1] != len(CurvePoint._fields):
            raise ValueError(f"the points of the learning curve have the wrong shape {list(saved.shape)}")
        self.points = [CurvePoint(int(row[0]), *(float(value) for value in row[1:])) for row in saved]
