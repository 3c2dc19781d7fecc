"""Sums of an experiment's impressions by arm and bucket of users; sums of disjoint impressions add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.experiment import BUCKETS
from stream_ctr.errors import StateError
from stream_ctr.metrics.log_loss import vector_log_losses
from stream_ctr.state.state import State

FIRST_CLICKS: Final = 1000
"""Clicks after which the clip value of the clipped ADVV is fixed."""
MOST_BID: Final = 1e12
"""Largest usable bid. Larger bids, their sums or their squares could leave the range of a float."""

Floats = NDArray[np.float64]
Rows = NDArray[np.void]
"""Impressions, one row each, with dtype :func:`row_type`."""

_COUNTS: Final = ("impressions", "clicks", "scored", "scored_clicks", "pairs", "pair_clicks")
_AMOUNTS: Final = ("worth", "clipped", "served", "loss", "predicted", "pair_loss")
_BIDS: Final = ("priced", "priced_clicks", "unusable_bids")


def row_type(arms: int) -> np.dtype[np.void]:
    """Packed record of an impression in a comparison, kept until its label is settled."""
    return np.dtype(
        [
            ("arm", "<i2"),
            ("bucket", "<i2"),
            ("bid", "<f8"),
            ("served", "<f8"),
            ("p", "<f8", (arms,)),
            ("user", "<u8"),  # last, because records of earlier versions end before it
        ]
    )


class BucketSums:
    """Sums over impressions with settled labels, each array [arms, 10,000 buckets].

    By the arm that the impression's user is assigned to: ``impressions``, ``clicks``, ``worth`` (bid x
    click), ``clipped`` (the same with each click's value clipped), ``served`` (probability from the arm that
    answered).

    By the arm that predicted, over all impressions, whichever arm answered: ``scored`` impressions,
    ``scored_clicks``, ``loss`` (log loss in nats), ``predicted`` (sum of probabilities).

    By the arm compared with the control, over impressions that both predicted: ``pairs``, ``pair_clicks``,
    ``pair_loss`` (the arm's loss minus the control's).

    By the assigned arm, [arms]: ``priced`` impressions with a usable bid, ``priced_clicks`` among them, and
    impressions with ``unusable_bids``: negative, not finite or above MOST_BID. An impression without a usable
    bid has value 0.

    Rows are added one at a time, so that sums are bit-identical in chunks of any size.
    """

    def __init__(self, arms: int, clip_quantile: float) -> None:
        self.arms = arms
        self._quantile = clip_quantile
        shape = (arms, BUCKETS)
        self.impressions, self.clicks, self.scored, self.scored_clicks, self.pairs, self.pair_clicks = (
            np.zeros(shape, np.int64) for _ in _COUNTS
        )
        self.worth, self._clipped, self.served, self.loss, self.predicted, self.pair_loss = (
            np.zeros(shape) for _ in _AMOUNTS
        )
        self.priced, self.priced_clicks, self.unusable_bids = (np.zeros(arms, np.int64) for _ in _BIDS)
        self._first: list[tuple[int, float]] = []
        """Place and value of the first clicks, until there are enough to fix the clip value."""
        self._cut: float | None = None

    @property
    def clip_value(self) -> float | None:
        """Value at which clicks are clipped; None before the first click, preliminary before FIRST_CLICKS."""
        if self._cut is not None:
            return self._cut
        return self._quantile_of([worth for _, worth in self._first]) if self._first else None

    @property
    def clipped(self) -> Floats:
        """Sums of value with each click clipped at :attr:`clip_value`, [arms, buckets]."""
        if self._cut is not None or not self._first:
            return self._clipped
        found = self._clipped.copy()
        self._add_clipped(found, self._first, self.clip_value or 0.0)
        return found

    def add(self, rows: Rows, labels: Floats) -> None:
        """Add impressions with settled labels.

        Args:
            rows: [N] of dtype :func:`row_type`; the probability of an arm that did not predict is NaN.
            labels: [N] 1 for a click within the label window, else 0.
        """
        bucket = rows["bucket"].astype(np.int64)
        place = rows["arm"].astype(np.int64) * BUCKETS + bucket
        clicked = labels > 0.5
        _add(self.impressions, place, 1)
        _add(self.clicks, place[clicked], 1)
        worth = self._bids(rows["arm"].astype(np.int64), rows["bid"], clicked)[clicked]
        _add(self.worth, place[clicked], worth)
        self._clip(place[clicked], worth)
        served = rows["served"]
        known = np.isfinite(served)
        _add(self.served, place[known], served[known])
        losses = vector_log_losses(rows["p"], clicked[:, None])
        for arm in range(self.arms):
            self._score(arm, bucket, rows["p"][:, arm], losses[:, arm], labels)
            if arm:
                self._pair(arm, bucket, losses[:, arm] - losses[:, 0], labels)

    def _bids(self, arm: NDArray[np.int64], bid: Floats, clicked: NDArray[np.bool_]) -> Floats:
        """Count usable and unusable bids; returns the bids with 0 in place of unusable ones."""
        usable = (bid > 0.0) & (bid <= MOST_BID)
        _add(self.priced, arm[usable], 1)
        _add(self.priced_clicks, arm[usable & clicked], 1)
        _add(self.unusable_bids, arm[~usable & (bid != 0.0)], 1)
        return np.where(usable, bid, 0.0)

    def _score(self, arm: int, bucket: NDArray[np.int64], p: Floats, loss: Floats, labels: Floats) -> None:
        known = np.isfinite(loss)
        place = bucket[known]
        _add(self.scored[arm], place, 1)
        _add(self.scored_clicks[arm], place, labels[known].astype(np.int64))
        _add(self.loss[arm], place, loss[known])
        _add(self.predicted[arm], place, p[known])

    def _pair(self, arm: int, bucket: NDArray[np.int64], loss: Floats, labels: Floats) -> None:
        known = np.isfinite(loss)
        place = bucket[known]
        _add(self.pairs[arm], place, 1)
        _add(self.pair_clicks[arm], place, labels[known].astype(np.int64))
        _add(self.pair_loss[arm], place, loss[known])

    def _clip(self, place: NDArray[np.int64], worth: Floats) -> None:
        if self._cut is None:
            room = FIRST_CLICKS - len(self._first)
            self._first += zip(place[:room].tolist(), worth[:room].tolist(), strict=True)
            if len(self._first) < FIRST_CLICKS:
                return
            self._cut = self._quantile_of([first for _, first in self._first])
            self._add_clipped(self._clipped, self._first, self._cut)
            self._first = []
            place, worth = place[room:], worth[room:]
        _add(self._clipped, place, np.minimum(worth, self._cut))

    def _quantile_of(self, worth: Sequence[float]) -> float:
        return float(np.quantile(worth, self._quantile, method="inverted_cdf"))

    @staticmethod
    def _add_clipped(sums: Floats, first: Sequence[tuple[int, float]], cut: float) -> None:
        places = np.array([place for place, _ in first], np.int64)
        _add(sums, places, np.minimum([worth for _, worth in first], cut))

    def state(self) -> State:
        """All arrays, and the first clicks."""
        arrays = {name: getattr(self, name).copy() for name in _COUNTS}
        arrays |= {name: getattr(self, name).copy() for name in _AMOUNTS if name != "clipped"}
        arrays |= {name: getattr(self, name).copy() for name in _BIDS}
        arrays["clipped"] = self._clipped.copy()
        arrays["first_place"] = np.array([place for place, _ in self._first], np.int64)
        arrays["first_worth"] = np.array([worth for _, worth in self._first], np.float64)
        return State(arrays, {"cut": self._cut})

    def load_state(self, state: State) -> None:
        """Restore the sums from :meth:`state`.

        Raises:
            StateError: an array is missing or has another shape.
        """
        for name in (*_COUNTS, *_AMOUNTS):
            saved = state.arrays.get(name)
            if saved is None or saved.shape != (self.arms, BUCKETS):
                raise StateError(
                    f"saved sums of the experiment are damaged: {name} is not of {self.arms} arms"
                )
            setattr(self, "_clipped" if name == "clipped" else name, saved.copy())
        self._load_bids(state)
        places, worths = state.arrays.get("first_place"), state.arrays.get("first_worth")
        cut = state.values.get("cut")
        if (
            places is None
            or worths is None
            or len(places) != len(worths)
            or isinstance(cut, str | list | dict)
        ):
            raise StateError("saved sums of the experiment are damaged: the first clicks are missing")
        self._first = list(zip(places.tolist(), worths.tolist(), strict=True))
        self._cut = None if cut is None else float(cut)

    def _load_bids(self, state: State) -> None:
        """Load the counts of bids. For states of earlier versions: all impressions had a bid, or none had."""
        priced = bool(self.worth.any())
        for name, counts in (("priced", self.impressions), ("priced_clicks", self.clicks)):
            saved = state.arrays.get(name, counts.sum(axis=1) * priced)
            setattr(self, name, saved.astype(np.int64))
        self.unusable_bids = state.arrays.get("unusable_bids", np.zeros(self.arms)).astype(np.int64)


def _add(
    sums: NDArray[np.int64] | Floats, places: NDArray[np.int64], values: NDArray[np.int64] | Floats | int
) -> None:
    """Add values at places of the flattened sums, one at a time."""
    np.add.at(sums.reshape(-1), places, values)
