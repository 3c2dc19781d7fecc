"""The forward pass of the deep network with Skip Meta Logit, compiled, event by event.

Each event is computed alone, so the probability of a candidate does not depend on the other candidates of
the request. Symbols as in Deng et al., "Enhance the Network Smoothness with Skip Meta Logit":

    x_0 = pooled embedding rows, x_i = relu(A_i x_(i-1) + b_i), z_0 = v . x_H + c
    z = z_0 + sum_i F_i(x_i),  F_i(x) = sum_k W_ik tanh(s_i(x)_k x_k)        (eq. 5, 10)
    s_i(x) = leaky_relu(w_i x + beta_i)                                     (eq. 16)

The matrix product A x + b gives an event the same bits in any batch. A library sums in an order that depends
on the batch size. Here, every output is summed in the order of the inputs, four at a time. Two things make it
fast: the inputs are processed in slices whose weights stay in the L1 cache for all events, and four events
share each load of a weight.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig, slot_fields
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import StateError
from stream_ctr.kernels.decorators import fast_kernel, fast_part, kernel
from stream_ctr.state.state import Arrays

Floats = NDArray[np.float32]

SLICE: Final = 6144
"""Number of weights in one slice of the inputs: 24 KiB."""


@fast_kernel
def pool_rows(rows: NDArray[np.int64], slot_field: NDArray[np.int64], table: Floats, mean: bool) -> Floats:
    """Concatenated pooled embeddings: rows int64 [B, S] of table [R, d] -> [B, F * d].

    ``slot_field`` int64 [S] ascends. A negative row is an empty slot; a field without values is zero.
    """
    fields = slot_field[-1] + 1 if slot_field.size else 0
    width = table.shape[1]
    x = np.zeros((rows.shape[0], fields * width), np.float32)
    for b in range(rows.shape[0]):
        slot = 0
        while slot < slot_field.size:
            field = slot_field[slot]
            at = field * width
            count = 0
            while slot < slot_field.size and slot_field[slot] == field:
                row = rows[b, slot]
                if row >= 0:
                    count += 1
                    for k in range(width):
                        x[b, at + k] += table[row, k]
                slot += 1
            if mean and count > 1:
                for k in range(width):
                    x[b, at + k] /= np.float32(count)
    return x


@fast_kernel
def rectify(x: Floats) -> None:
    """max(x, 0) in place: x [B, O]; NaN stays NaN."""
    for b in range(x.shape[0]):
        for o in range(x.shape[1]):
            if x[b, o] < 0:
                x[b, o] = 0


@fast_kernel
def output_layer(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """v . x + c: x [B, I], v [I], c [1] -> [B]."""
    z = np.empty(x.shape[0], np.float32)
    for b in range(x.shape[0]):
        total = bias[0]
        for i in range(weight.size):
            total += weight[i] * x[b, i]
        z[b] = total
    return z


@fast_kernel
def add_skip_logit(z: Floats, x: Floats, s: Floats, weight: Floats, slope: np.float32) -> None:
    """z += F_i(x): z [B], x [B, h], s before the leaky ReLU [B, h] or [B, 1], W_i [h]."""
    units = s.shape[1] > 1
    for b in range(x.shape[0]):
        logit = np.float32(0.0)
        for k in range(weight.size):
            scale = s[b, k if units else 0]
            if scale < 0:
                scale *= slope
            logit += weight[k] * np.float32(math.tanh(scale * x[b, k]))
        z[b] += logit


@kernel
def sigmoid(z: Floats) -> Floats:
    """Probabilities float32 [B] of logits [B]; NaN stays NaN."""
    p = np.empty(z.size, np.float32)
    for b in range(z.size):
        p[b] = 1.0 / (1.0 + math.exp(-float(z[b])))
    return p


class DenseForward:
    """Logits of rows, from the arrays of one snapshot. Stateless.

    Raises:
        StateError: arrays are missing or do not have the shapes of the model.
    """

    def __init__(
        self, model: ModelConfig, fields: tuple[FieldConfig, ...], dense: Arrays, rows: Floats
    ) -> None:
        check_arrays(expected_shapes(model, len(fields)), model.embedding, dense, rows)
        self._table = rows
        self._slot_field = np.array(slot_fields(fields), np.int64)
        self._mean = model.pooling == "mean"
        self._slope = np.float32(model.slope)
        self._output = dense["output.weight"], dense["output.bias"]
        layers = range(1, len(model.hidden) + 1)
        self._tower = [(_across(dense[f"tower.{i}.weight"]), dense[f"tower.{i}.bias"]) for i in layers]
        self._skips = [
            (_across(dense[f"sml.{i}.scale"]), dense[f"sml.{i}.beta"], dense[f"sml.{i}.weight"])
            for i in (layers if model.sml else ())
        ]

    def logits(self, rows: NDArray[np.int64]) -> Floats:
        """z float32 [B] of rows int64 [B, S], ABSENT for an empty slot."""
        x = pool_rows(rows, self._slot_field, self._table, self._mean)
        outputs = []
        for across, bias in self._tower:
            x = affine(x, across, bias)
            rectify(x)
            outputs.append(x)
        z = output_layer(x, *self._output)
        for x, (across, beta, weight) in zip(outputs, self._skips, strict=False):
            add_skip_logit(z, x, affine(x, across, beta), weight, self._slope)
        return z

    def probabilities(self, rows: NDArray[np.int64]) -> Floats:
        """Click probabilities float32 [B] of rows int64 [B, S]."""
        return sigmoid(self.logits(rows))

    def prepare(self) -> None:
        """Nothing to do: a request uses one thread."""


def _across(weight: Floats) -> Floats:
    return np.ascontiguousarray(weight.T)


def expected_shapes(model: ModelConfig, fields: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the dense parameters of a network over ``fields`` fields."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = fields * model.embedding
    for i, width in enumerate(model.hidden, start=1):
        shapes[f"tower.{i}.weight"] = (width, inputs)
        shapes[f"tower.{i}.bias"] = (width,)
        if model.sml:
            scales = width if model.scale == "unit" else 1
            shapes[f"sml.{i}.scale"] = (scales, width)
            shapes[f"sml.{i}.beta"] = (scales,)
            shapes[f"sml.{i}.weight"] = (width,)
        inputs = width
    shapes["output.weight"] = (inputs,)
    shapes["output.bias"] = (1,)
    return shapes


def check_arrays(expected: dict[str, tuple[int, ...]], row_width: int, dense: Arrays, rows: Floats) -> None:
    """Check that the arrays of a snapshot match its model.

    Raises:
        StateError: a dense parameter or the table of rows is missing, or has a wrong shape or dtype.
    """
    if dense.keys() != expected.keys():
        names = sorted(dense.keys() ^ expected.keys())
        raise StateError(f"the snapshot's dense parameters do not match its model: {', '.join(names)}")
    for name, shape in expected.items():
        if dense[name].shape != shape or dense[name].dtype != np.float32:
            raise StateError(
                f"the snapshot's {name} is {dense[name].dtype} {list(dense[name].shape)}, "
                f"its model needs float32 {list(shape)}"
            )
    if rows.ndim != 2 or rows.shape[1] != row_width or rows.dtype != np.float32:
        raise StateError(
            f"the snapshot's rows are {rows.dtype} {list(rows.shape)}, its model needs float32 "
            f"[R, {row_width}]"
        )


@fast_kernel
def affine(x: Floats, across: Floats, bias: Floats) -> Floats:
    """A x + b: x [B, I], ``across`` the transpose of A [I, O], b [O] -> [B, O]."""
    inputs, outputs = across.shape
    events = x.shape[0]
    out = np.empty((events, outputs), np.float32)
    for b in range(events):
        for o in range(outputs):
            out[b, o] = bias[o]
    depth = max(4, SLICE // max(1, outputs) // 4 * 4)
    for start in range(0, inputs, depth):
        stop = min(start + depth, inputs)
        for b in range(0, events - 3, 4):
            add_to_four(x, b, across, start, stop, out)
        for b in range(events // 4 * 4, events):
            add_to_one(x, b, across, start, stop, out)
    return out


@fast_part
def add_to_one(x: Floats, b: int, across: Floats, start: int, stop: int, out: Floats) -> None:
    """Add the contribution of inputs ``start`` to ``stop`` to event b; ``start`` is a multiple of 4."""
    for i in range(start, stop - 3, 4):
        x_0, x_1, x_2, x_3 = x[b, i], x[b, i + 1], x[b, i + 2], x[b, i + 3]
        for o in range(out.shape[1]):
            a_0, a_1, a_2, a_3 = across[i, o], across[i + 1, o], across[i + 2, o], across[i + 3, o]
            out[b, o] += x_0 * a_0 + x_1 * a_1 + x_2 * a_2 + x_3 * a_3
    for i in range(start + (stop - start) // 4 * 4, stop):
        for o in range(out.shape[1]):
            out[b, o] += x[b, i] * across[i, o]


@fast_part
def add_to_four(x: Floats, b: int, across: Floats, start: int, stop: int, out: Floats) -> None:
    """:func:`add_to_one` for events b to b + 3, with the same terms in the same order."""
    c, d, e = b + 1, b + 2, b + 3
    for i in range(start, stop - 3, 4):
        x_0, x_1, x_2, x_3 = x[b, i], x[b, i + 1], x[b, i + 2], x[b, i + 3]
        y_0, y_1, y_2, y_3 = x[c, i], x[c, i + 1], x[c, i + 2], x[c, i + 3]
        u_0, u_1, u_2, u_3 = x[d, i], x[d, i + 1], x[d, i + 2], x[d, i + 3]
        v_0, v_1, v_2, v_3 = x[e, i], x[e, i + 1], x[e, i + 2], x[e, i + 3]
        for o in range(out.shape[1]):
            a_0, a_1, a_2, a_3 = across[i, o], across[i + 1, o], across[i + 2, o], across[i + 3, o]
            out[b, o] += x_0 * a_0 + x_1 * a_1 + x_2 * a_2 + x_3 * a_3
            out[c, o] += y_0 * a_0 + y_1 * a_1 + y_2 * a_2 + y_3 * a_3
            out[d, o] += u_0 * a_0 + u_1 * a_1 + u_2 * a_2 + u_3 * a_3
            out[e, o] += v_0 * a_0 + v_1 * a_1 + v_2 * a_2 + v_3 * a_3
    for i in range(start + (stop - start) // 4 * 4, stop):
        for o in range(out.shape[1]):
            out[b, o] += x[b, i] * across[i, o]
            out[c, o] += x[c, i] * across[i, o]
            out[d, o] += x[d, i] * across[i, o]
            out[e, o] += x[e, i] * across[i, o]
