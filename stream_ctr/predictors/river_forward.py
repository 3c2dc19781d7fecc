"""The forward pass of river's logistic regression and factorisation machine, without river.

Every value of an event is a feature of weight 1, as in the arm's learner, so a row holds everything that its
value contributes (Rendle 2010, "Factorization Machines", eq. 1; the pairs by lemma 3.1):

    z = w_0 + sum_i w_i + 1/2 sum_f ((sum_i v_if)^2 - sum_i v_if^2)

Sums are in double precision, as in river.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.kernels.decorators import kernel
from stream_ctr.state.state import Arrays

LEAST: Final = float(np.finfo(np.float32).tiny)
MOST: Final = float(np.nextafter(np.float32(1.0), np.float32(0.0)))
"""Probabilities of river models are clipped to the float32 numbers strictly between 0 and 1."""


class RiverModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A river model in a snapshot. Its only dense array is ``intercept`` float64 [1]; its rows are float64
    [R, 1 + factors], weight first."""

    name: str
    """The model's name in the arm's ``learner.river``."""
    form: Literal["logistic", "factorisation"]
    factors: int = 0
    """Latent factors of a feature; 0 for logistic."""


@kernel
def row_sums(rows: NDArray[np.int64], table: NDArray[np.float64], intercept: float) -> NDArray[np.float64]:
    """z float64 [B] of rows int64 [B, S], negative for an empty slot; table [R, 1 + factors]."""
    z = np.empty(len(rows), np.float64)
    for b in range(len(rows)):
        total = intercept
        for slot in range(rows.shape[1]):
            if rows[b, slot] >= 0:
                total += table[rows[b, slot], 0]
        pairs = 0.0
        for f in range(1, table.shape[1]):
            one, squares = 0.0, 0.0
            for slot in range(rows.shape[1]):
                if rows[b, slot] >= 0:
                    v = table[rows[b, slot], f]
                    one += v
                    squares += v * v
            pairs += one * one - squares
        z[b] = total + 0.5 * pairs
    return z


@kernel
def bounded_sigmoid(z: NDArray[np.float64]) -> NDArray[np.float32]:
    """Probabilities float32 [B] of logits [B], strictly between 0 and 1; NaN stays NaN."""
    p = np.empty(z.size, np.float32)
    for b in range(z.size):
        exact = 1.0 / (1.0 + math.exp(-z[b]))
        p[b] = exact if math.isnan(exact) else min(max(exact, LEAST), MOST)
    return p


class RiverForward:
    """Probabilities of rows, from the arrays of one snapshot. Stateless.

    Raises:
        StateError: arrays are missing or do not have the shapes of the model.
    """

    def __init__(self, model: RiverModel, dense: Arrays, rows: NDArray[np.float64]) -> None:
        _check(model, dense, rows)
        self._intercept = float(dense["intercept"][0])
        self._table = rows

    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """z float32 [B] of rows int64 [B, S], ABSENT for an empty slot."""
        return row_sums(rows, self._table, self._intercept).astype(np.float32)

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities float32 [B] of rows int64 [B, S]."""
        return bounded_sigmoid(row_sums(rows, self._table, self._intercept))

    def prepare(self) -> None:
        """Nothing to do: a request uses one thread."""


def _check(model: RiverModel, dense: Arrays, rows: NDArray[np.float64]) -> None:
    factors = model.factors if model.form == "factorisation" else 0
    if factors != model.factors:
        raise StateError(f"the snapshot's river model is {model.form} and has {model.factors} factors")
    intercept = dense.get("intercept")
    if dense.keys() != {"intercept"} or intercept is None or intercept.shape != (1,):
        names = ", ".join(sorted(dense)) or "nothing"
        raise StateError(f"the snapshot's dense parameters are {names}; a river model has intercept [1]")
    if intercept.dtype != np.float64 or rows.dtype != np.float64 or rows.shape[1:] != (1 + factors,):
        raise StateError(
            f"the snapshot's rows are {rows.dtype} {list(rows.shape)}, its model needs float64 "
            f"[R, {1 + factors}]"
        )
