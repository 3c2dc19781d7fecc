"""The CUDA graph learner: the steps of the reference learner, recorded once and replayed for each event."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ctr.batch import LEARN, PREDICT, Batch
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.base import LearnResult
from stream_ctr.learners.cuda.chunk import plan_starts
from stream_ctr.learners.cuda.graph import Run, recorded
from stream_ctr.learners.cuda.step import CHUNK_EVENTS, CursorStep
from stream_ctr.learners.cuda.support import instead_of_cuda, why_not_cuda
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.learners.torch.step import TorchStep
from stream_ctr.optim.validation import check_streaming

Kind = tuple[int, bool]
"""Kind of an event: LEARN, PREDICT or 0; and whether slot i is field i and no slot is empty."""


class CudaGraphLearner(TorchLearner):
    """Learns as :class:`~stream_ctr.learners.torch.learner.TorchLearner` does, without waiting for the GPU.

    A step of a small network consists of hundreds of operations, each shorter than the time to launch it.
    Here they are recorded once as a CUDA graph. A chunk of events is copied to the device at once, the graph
    is replayed for each event, and the probabilities are read back at the end.

    It supports any network and any optimizer for streams except ``method = "revisit"``. States are
    interchangeable with those of the reference learner. Events that are only scored replay a recording of the
    forward pass. When the row table moves to larger memory, the steps are recorded again. Events are not
    timed individually: ``seconds`` is the wall time of the call, spread evenly.
    """

    kind: ClassVar[str] = "cuda"
    """The value of ``learner.kind`` that selects this learner."""

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        learner: LearnerConfig,
        slot_field: Sequence[int],
        fields: int,
        *,
        dtype: torch.dtype = torch.float32,
        labels: LabelLoss | None = None,
        record: Callable[[Run], Run] = recorded,
    ) -> None:
        """``slot_field`` is the field of each slot; rows 0 to ``fields`` - 1 are the default rows.

        ``record`` turns the step of an event into a function that can be replayed. With
        :func:`~.graph.warmed_up` the same operations run one by one on any device: slow, for comparison.

        Raises:
            ModelError: a setting is invalid or requires another learner, or there is no GPU.
        """
        reason = why_not_cuda(optimizer, learner)
        if reason is not None and (record is recorded or optimizer.method == "revisit"):
            raise ModelError(
                f"learner.kind = {self.kind!r} {reason}; set {instead_of_cuda(model, optimizer, learner)}"
            )
        super().__init__(model, optimizer, learner, slot_field, fields, dtype=dtype, labels=labels)
        self._record = record
        self._runs: dict[Kind, Run] = {}
        self._recorded: Tensor | None = None
        # Record now, so that a step that cannot be recorded fails before the first event.
        self._ready({(action, self._one_slot_a_field) for action in (PREDICT, LEARN)})

    def learn(self, batch: Batch) -> LearnResult:
        """See :class:`stream_ctr.learners.base.Learner`.

        Raises:
            ModelError: the optimizer is only for the batch protocol.
            StateError: the batch has another schema or uses uninitialised rows.
        """
        start = time.perf_counter()
        check_streaming(self._optimizer)
        if batch.changes.row.min(initial=0) < 0:
            raise StateError(f"the batch initialises row {batch.changes.row.min()}; rows start at 0")
        self._prepare(batch)
        count = len(batch)
        result = LearnResult(np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count))
        full = np.all(batch.rows >= 0, axis=1) & self._one_slot_a_field
        asked = np.where(batch.action & LEARN, LEARN, batch.action & PREDICT)
        kinds = list(zip(asked.tolist(), full.tolist(), strict=True))
        with self._current_device():
            values = self._initial_rows(batch)
            self._ready(set(kinds))
            for first in range(0, count, CHUNK_EVENTS):
                last = min(first + CHUNK_EVENTS, count)
                self._learn_chunk(batch, kinds, slice(first, last), values, result)
        result.probability[asked == 0] = np.nan
        result.seconds[:] = (time.perf_counter() - start) / max(count, 1)
        return result

    def _make_step(self) -> TorchStep:
        model, slots = self._model, (self._slot_field, self._fields)
        self._cursor_step = CursorStep(
            self._network, self._optimizer, model.pooling, self._seed, *slots, self._dtype, self._labels
        )
        return self._cursor_step

    def _learn_chunk(
        self, batch: Batch, kinds: list[Kind], span: slice, values: Tensor, result: LearnResult
    ) -> None:
        """Learn events ``span`` of the batch; ``values`` are the initial values of all its row changes."""
        step, rows = self._cursor_step, batch.rows[span]
        starts, started = self._starts(batch, span, values)
        numbers = self._ratios(batch, span), batch.label[span], batch.weight[span]
        step.chunk.upload(rows, numbers, step.spare, step.learned)
        for b, kind in enumerate(kinds[span]):
            if b in starts:
                step.start_rows(*starts[b])
            self._runs[kind]()
        step.settle(started)
        probability, skipped = step.chunk.outcome(len(rows))
        result.probability[span], result.skipped[span] = probability, skipped
        learns = (batch.action[span] & LEARN) > 0
        step.learned += int(np.count_nonzero(learns & ~skipped))

    def _starts(
        self, batch: Batch, span: slice, values: Tensor
    ) -> tuple[dict[int, tuple[Tensor, Tensor, Tensor]], Tensor]:
        """Rows to initialise, on the device: arguments of ``start_rows`` by event, and all row indices."""
        changes = batch.changes
        low, high = np.searchsorted(changes.event, [span.start, span.stop]).tolist()
        event, row = changes.event[low:high] - span.start, changes.row[low:high]
        plan = plan_starts(batch.rows[span], event, row)
        order = np.concatenate([np.zeros(0, np.int64), *(chosen for _, chosen in plan)])
        index, own, place = (
            torch.from_numpy(a).to(self._device) for a in (row[order], event[order], low + order)
        )
        arrays = index, values.index_select(0, place), own.unsqueeze(1)
        sizes = [len(chosen) for _, chosen in plan]
        parts = zip(*(torch.split_with_sizes(array, sizes) for array in arrays), strict=True)
        return {front: part for (front, _), part in zip(plan, parts, strict=True)}, index

    def _ratios(self, batch: Batch, span: slice) -> NDArray[np.float32]:
        """N / M of each slot [n, S]; with counts = "batch", each event is a batch that saw its rows once."""
        if self._optimizer.counts == "batch":
            return (batch.rows[span] >= self._fields).astype(np.float32)
        return batch.ratio[span]

    def _ready(self, kinds: set[Kind]) -> None:
        """Make sure that each kind of event has a recording for the current memory of the row table."""
        weight = self._cursor_step.rows.weight
        if self._recorded is not weight:
            self._runs.clear()
            self._recorded = weight
        step = self._cursor_step
        with self._current_device():
            for asked, full in kinds - self._runs.keys():
                run: Run = step.pass_event
                if asked:
                    run = partial(step.learn_event if asked == LEARN else step.predict_event, full)
                step.chunk.fill_with_no_ops(step.spare)
                self._runs[asked, full] = self._record(run)

    def _current_device(self) -> AbstractContextManager[None]:
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()
