"""The compiled learner: the steps of the reference learner, one kernel call per chunk, on one CPU thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import LEARN, PREDICT, Batch
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.kernels.denormals import denormals_flushed
from stream_ctr.learners.base import LearnResult
from stream_ctr.learners.compiled.chunk_kernel import learn_chunk, predict_rows
from stream_ctr.learners.compiled.rows import NumpyRows
from stream_ctr.learners.compiled.support import require_compiled
from stream_ctr.learners.compiled.workspace import (
    Chunk,
    Kind,
    Moments,
    Parameters,
    Past,
    Scratch,
    Table,
    Workspace,
    aligned,
    places,
    plan_method,
    plan_pass,
    plan_rule,
    plan_shape,
)
from stream_ctr.learners.revisit import PastEvents
from stream_ctr.learners.state_check import checked_dense
from stream_ctr.models.initial_weights import row_values
from stream_ctr.models.parameters import tower_layout
from stream_ctr.models.validation import check_model
from stream_ctr.optim.moments import narrowed
from stream_ctr.optim.rules import build_rule
from stream_ctr.optim.validation import check_optimizer
from stream_ctr.state.frozen import FrozenState, Source
from stream_ctr.state.state import Json, State


class CompiledLearner:
    """A much faster implementation of :class:`~stream_ctr.learners.torch.learner.TorchLearner`.

    States are interchangeable: each learner can load what the other saved. It runs on one thread, whatever
    ``learner.threads`` is. The first use after an installation compiles for about half a minute; the result
    is cached on disk. Each call has an overhead of about 50 microseconds, so callers should pass chunks of
    events. Events are not timed individually: ``seconds`` is the wall time of the chunk, spread evenly.
    """

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        learner: LearnerConfig,
        slot_field: Sequence[int],
        fields: int,
        *,
        dtype: Kind = np.float32,
        labels: LabelLoss | None = None,
    ) -> None:
        """``slot_field`` is the field of each slot; rows 0 to ``fields`` - 1 are the default rows.

        Raises:
            ModelError: a setting is invalid, settings are incompatible, or they require the torch learner.
        """
        check_optimizer(optimizer)
        check_model(model, fields)
        require_compiled(model, optimizer, learner)
        if any(not 0 <= field < fields for field in slot_field):
            raise ModelError(
                f"every field of a slot must be between 0 and {fields - 1}, got {list(slot_field)}"
            )
        row_rule = build_rule(optimizer.row_rule, optimizer.row_rate, optimizer.row_initial)
        dense_rule = build_rule(optimizer.dense_rule, optimizer.dense_rate, optimizer.dense_initial)
        self._model, self._seed, self._dtype = model, learner.seed, dtype
        self.learned = 0
        """Number of updates so far."""
        self._method = plan_method(optimizer, dtype, labels or LabelLoss())
        self._row_rule = plan_rule(optimizer.row_rule, row_rule, False, learner.seed)
        skip = optimizer.dense_idle == "skip"
        self._dense_rule = plan_rule(optimizer.dense_rule, dense_rule, skip, learner.seed)
        half = optimizer.moments == "bfloat16"
        self._rows = NumpyRows(model.embedding, row_rule, fields, dtype, half)
        self._layout = tower_layout(model, fields)
        self._places, vectors, size = places(self._layout)
        self._shape = plan_shape(model, fields, slot_field, self._places, dtype)
        self._dense: dict[str, Moments] = {"weight": aligned(size, dtype)}
        self._scatter(self._dense["weight"], self._layout.initial(learner.seed).astype(dtype))
        self._kind: Kind | type[np.uint16] = np.uint16 if half else dtype
        start = np.full(self._layout.size, dense_rule.initial, dtype)
        for name in dense_rule.accumulators:
            self._dense[name] = aligned(size, self._kind)
            self._scatter(self._dense[name], narrowed(start) if half else start)
        self._first, self._second = plan_pass(self._shape, dtype), plan_pass(self._shape, dtype)
        self._scratch = Scratch(
            factor=np.zeros(len(slot_field), dtype),
            square=np.zeros(fields),
            members=np.zeros(fields, np.int64),
            live=np.zeros(max(model.hidden, default=1), np.int64),
            row=aligned(model.embedding, dtype),
            one=np.ones(1, dtype),
            vectors=aligned(size - vectors, dtype),
        )
        self._past = PastEvents(self._method.revisit_after, len(slot_field), model.embedding, dtype)
        self._kept: Workspace | None = None
        self._kept_rows: NDArray[Any] | None = None
        self._load_kernels()

    def learn(self, batch: Batch) -> LearnResult:
        """See :class:`stream_ctr.learners.base.Learner`."""
        start, count = time.perf_counter(), len(batch)
        result = LearnResult(np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count))
        workspace, chunk = self.prepare(batch)
        with denormals_flushed():
            self.learned = learn_chunk(workspace, chunk, self.learned, result.probability, result.skipped)
        result.seconds[:] = (time.perf_counter() - start) / max(count, 1)
        return result

    def prepare(self, batch: Batch) -> tuple[Workspace, Chunk]:
        """Reserve memory for the rows of ``batch`` and build the arguments of the kernels.

        Raises:
            StateError: the batch has another schema or uses uninitialised rows.
        """
        self._make_room(batch)
        changes = batch.changes
        if self._rows.watch.active:
            self._rows.watch.keep(batch.rows, changes.row, self._past.due(self.learned, len(batch)))
        width, scale = self._model.embedding, self._model.embedding_scale
        values = row_values(self._seed, changes.field, changes.key, width, scale)
        chunk = Chunk(
            rows=_own(batch.rows, np.int64),
            ratio=_own(batch.ratio, np.float32),
            label=_own(batch.label, np.float32),
            weight=_own(batch.weight, np.float32),
            learns=(batch.action & LEARN) > 0,
            scores=(batch.action & PREDICT) > 0,
            first=np.searchsorted(changes.event, np.arange(len(batch) + 1)),
            changed=_own(changes.row, np.int64),
            values=values.astype(self._dtype),
        )
        return self._workspace(), chunk

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :class:`stream_ctr.learners.base.Learner`."""
        probability = np.zeros(len(rows), np.float32)
        self._check_rows(rows)
        with denormals_flushed():
            predict_rows(self._workspace(), _own(rows, np.int64), probability)
        return probability

    def state(self) -> State:
        """As the reference learner: ``rows.*`` [rows, width], ``dense.*`` flat in layout order."""
        arrays = {name: self._gather(array) for name, array in self._dense.items()}
        past = self._past.state(self.learned)
        parts = State.gather({"rows": self._rows.state(), "dense": State(arrays, {}), "past": past})
        return State(parts.arrays, {"learned": self.learned, "layout": self._layout.describe()})

    def freeze(self) -> FrozenState:
        """See :class:`stream_ctr.state.frozen.Freezable`."""
        rows = self._rows.freeze()
        arrays = {name: self._gather(array) for name, array in self._dense.items()}
        past = self._past.state(self.learned)
        by_row = FrozenState({name: rows[name] for name in rows.names()}, {}, (rows,))
        parts = FrozenState.gather({"rows": by_row, "dense": State(arrays, {}), "past": past})
        values: dict[str, Json] = {"learned": self.learned, "layout": self._layout.describe()}
        return FrozenState(parts.arrays, values, parts.views)

    def freeze_weights(self) -> FrozenState:
        """See :class:`stream_ctr.learners.base.FreezesWeights`."""
        rows, dense = self._rows.freeze(["weight"]), self._gather(self._dense["weight"])
        arrays: dict[str, Source] = {"rows.weight": rows["weight"], "dense.weight": dense}
        return FrozenState(arrays, {"layout": self._layout.describe()}, (rows,))

    def weights(self) -> State:
        """See :class:`stream_ctr.learners.base.Weighted`."""
        arrays = {"rows.weight": self._rows.weights(), "dense.weight": self._gather(self._dense["weight"])}
        return State(arrays, {"layout": self._layout.describe()})

    def load_state(self, state: State) -> None:
        """See :class:`stream_ctr.learners.base.Learner`."""
        kinds = {name: array.dtype for name, array in self._dense.items()}
        learned, saved = checked_dense(state, self._layout, kinds)
        self._rows.load_state(state.part("rows"))
        self._past.load_state(state.part("past"), learned)
        for name, array in self._dense.items():
            self._scatter(array, saved[name])
        self.learned = learned

    def _load_kernels(self) -> None:
        """Compile the kernels or load them from disk now, so that the first event does not wait."""
        slots, none = len(self._shape.slot_field), np.zeros(0, np.int64)
        rows, floats = np.zeros((0, slots), np.int64), np.zeros(0, np.float32)
        chunk = Chunk(
            rows=rows,
            ratio=np.zeros((0, slots), np.float32),
            label=floats,
            weight=floats,
            learns=np.zeros(0, np.bool_),
            scores=np.zeros(0, np.bool_),
            first=np.zeros(1, np.int64),
            changed=none,
            values=np.zeros((0, self._model.embedding), self._dtype),
        )
        learn_chunk(self._workspace(), chunk, 0, floats, np.zeros(0, np.bool_))
        predict_rows(self._workspace(), rows, floats)

    def _make_room(self, batch: Batch) -> None:
        """Reserve memory for the rows of the batch, and reject uninitialised rows."""
        if len(batch.changes.row):
            if batch.changes.row.min() < 0:
                raise StateError(f"the batch initialises row {batch.changes.row.min()}; rows start at 0")
            needed = int(batch.changes.row.max()) + 1
            if needed > self._rows.capacity:
                # Drop the references, so that each old array is freed as soon as it is copied.
                self._kept = self._kept_rows = None
            self._rows.reserve(needed)
        self._check_rows(batch.rows)

    def _check_rows(self, rows: NDArray[np.int64]) -> None:
        slots = len(self._shape.slot_field)
        if rows.shape[1] != slots:
            raise StateError(f"the batch has {rows.shape[1]} slots, this learner's schema has {slots}")
        # The kernels do not check bounds: a row beyond the table would access foreign memory.
        highest = int(rows.max(initial=-1))
        if highest >= self._rows.used:
            raise StateError(
                f"the batch uses row {highest}, the learner has {self._rows.used} rows; "
                "the vocabulary and the learner's state do not match"
            )

    def _workspace(self) -> Workspace:
        """The data of the kernels; rebuilt when the row table has moved to larger memory."""
        if self._kept is not None and self._kept_rows is self._rows.weight:
            return self._kept
        self._kept_rows = self._rows.weight
        self._kept = Workspace(
            table=self._table(),
            dense=self._parameters(),
            shape=self._shape,
            method=self._method,
            row_rule=self._row_rule,
            dense_rule=self._dense_rule,
            first=self._first,
            second=self._second,
            scratch=self._scratch,
            past=Past(self._past.rows, self._past.trace, self._past.label, self._past.weight),
        )
        return self._kept

    def _parameters(self) -> Parameters:
        none = np.zeros(0, self._kind)
        return Parameters(
            self._dense["weight"], self._dense.get("mean", none), self._dense.get("square", none)
        )

    def _table(self) -> Table:
        """The memory of the row table as flat arrays; nothing is copied."""
        rows, none = self._rows, np.zeros(0, self._kind)
        arrays = (each.reshape(-1) for each in rows.accumulators)
        named = dict(zip(rows.names, arrays, strict=True))
        return Table(
            weight=rows.weight.reshape(-1),
            mean=named.get("mean", none),
            square=named.get("square", none),
            step=rows.step.reshape(-1),
            touched=rows.touched.reshape(-1),
        )

    def _spans(self) -> list[tuple[int, int]]:
        """Offset and size of each parameter in the padded vector, in layout order."""
        layout = self._layout
        return [(self._places[p.name], n) for p, n in zip(layout.parameters, layout.sizes, strict=True)]

    def _gather(self, padded: Moments) -> Moments:
        """Copy the padded vector to a flat one, in layout order and without padding."""
        return np.concatenate([padded[at : at + size] for at, size in self._spans()])

    def _scatter(self, padded: Moments, flat: Moments) -> None:
        """Copy a flat vector to the padded one; the inverse of :meth:`_gather`."""
        taken = 0
        for at, size in self._spans():
            padded[at : at + size] = flat[taken : taken + size]
            taken += size


def _own(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """The array as the kernels require it, contiguous and writable; copied only if necessary."""
    return np.require(array, dtype, ["C", "W"])
