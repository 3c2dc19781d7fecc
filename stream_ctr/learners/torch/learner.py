"""The reference learner: automatic differentiation of any network, on any device, at any batch size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
from stream_ctr.learners.state_check import checked_dense
from stream_ctr.learners.torch.revisit import Replays
from stream_ctr.learners.torch.step import Events, TorchStep
from stream_ctr.models.build import build_network
from stream_ctr.models.layers import pool
from stream_ctr.optim.count_ratios import count_ratios
from stream_ctr.optim.validation import check_optimizer, check_streaming
from stream_ctr.state.state import State

PREDICT_EVENTS = 1024
"""Events per forward pass of ``predict``; bounds its memory."""


class TorchLearner:
    """Trains a configured network with Helen, SAM, ASAM, revisit or one pass, event by event or in batches.

    :meth:`learn` implements the contract with one update per event. :meth:`learn_batch` makes one update from
    all events of a batch, with the same code. Calls may alternate; both count steps in the same way. A
    non-finite update is skipped: no bit of the state changes, and its events are flagged.
    """

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
    ) -> None:
        """``slot_field`` is the field of each slot; rows 0 to ``fields`` - 1 are the default rows.

        Raises:
            ModelError: a setting is invalid, or settings are incompatible.
        """
        check_optimizer(optimizer)
        self._network = build_network(model, fields)
        self._optimizer = optimizer
        self._model = model
        self._threads = learner.threads
        self._seed = learner.seed
        self._device = choose_device(learner.device)
        self._dtype = dtype
        self._fields = fields
        self._slot_field = torch.tensor(list(slot_field), dtype=torch.int64, device=self._device)
        self._one_slot_a_field = list(slot_field) == list(range(fields))
        self._labels = labels
        self._step = self._make_step()
        self._replays = Replays(self._step, optimizer, self._slot_field)

    def learn(self, batch: Batch) -> LearnResult:
        """See :class:`stream_ctr.learners.base.Learner`.

        Raises:
            ModelError: the optimizer is only for the batch protocol.
            StateError: the batch has another schema or uses uninitialised rows.
        """
        check_streaming(self._optimizer)
        self._prepare(batch)
        count = len(batch)
        result = LearnResult(np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count))
        changes, step, replays = batch.changes, self._step, self._replays
        values = self._initial_rows(batch)
        changed = torch.from_numpy(changes.row).to(self._device)
        first = np.searchsorted(changes.event, np.arange(count + 1)).tolist()
        rows = torch.from_numpy(batch.rows).to(self._device)
        ratio = torch.from_numpy(batch.ratio).to(self._device, self._dtype)
        if self._optimizer.counts == "batch":  # a batch of one event has seen each of its rows once
            ratio = (rows >= self._fields).to(self._dtype)
        full = np.all(batch.rows >= 0, axis=1).tolist()
        learns = ((batch.action & LEARN) > 0).tolist()
        scores = ((batch.action & PREDICT) > 0).tolist()
        labels, weights = batch.label.tolist(), batch.weight.tolist()
        with _step_environment(self._threads):
            for b in range(count):
                start = time.perf_counter()
                low, high = first[b], first[b + 1]
                if high > low:
                    step.rows.initialise(changed[low:high], values[low:high], step.learned)
                event = self._event(rows[b], ratio[b], full[b])
                p: float | Tensor = float("nan")
                if scores[b] and not learns[b]:
                    p = step.probability(event)
                elif learns[b]:
                    before = step.rows.weight.index_select(0, event.index) if replays.active else None
                    p, learned = step.learn(event, labels[b], weights[b])
                    result.skipped[b] = not learned
                    if learned and before is not None:
                        replays.record(batch.rows[b], labels[b], weights[b], event.index, before)
                        replays.replay()
                result.probability[b] = float(p)
                result.seconds[b] = time.perf_counter() - start
        return result

    def learn_batch(self, batch: Batch) -> LearnResult:
        """One update from the mean loss of the LEARN events: a step of the batch protocol.

        All row changes are applied first. Then all B events are scored with the same weights. The gradient of
        (1 / n) sum_b weight_b * log loss_b over the n LEARN events gives one step. A row that several of them
        use gets the sum of its gradients and the ratio N / M of the last of these events. Events without the
        LEARN bit are only scored. For a batch of one event the result equals that of :meth:`learn` bit for
        bit. ``seconds`` is the wall time of the batch, spread evenly over its events. If the update is not
        finite, every learned event is flagged.

        Raises:
            ModelError: the optimizer is only for streams.
            StateError: the batch has another schema, uses uninitialised rows, or reassigns a row that one of
                its earlier events uses.
        """
        began = time.perf_counter()
        if self._replays.active:
            raise ModelError(
                "optimizer.method = 'revisit' learns event by event; for batches choose another method"
            )
        self._prepare(batch)
        _reject_reassigned_rows(batch)
        count, step = len(batch), self._step
        result = LearnResult(np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count))
        learns = (batch.action & LEARN) > 0
        with _step_environment(self._threads):
            if len(batch.changes.row):
                changed = torch.from_numpy(batch.changes.row).to(self._device)
                step.rows.initialise(changed, self._initial_rows(batch), step.learned)
            if not learns.all():
                result.probability[~learns] = self._probabilities(batch.rows[~learns])
            if learns.any():
                label = torch.from_numpy(batch.label[learns]).to(self._device, self._dtype)
                weight = torch.from_numpy(batch.weight[learns]).to(self._device, self._dtype)
                p, done = step.learn(self._events(batch, learns), label, weight / len(label))
                result.probability[learns] = p.to(torch.float32).cpu().numpy()
                result.skipped[learns] = not done
        result.seconds[:] = (time.perf_counter() - began) / max(count, 1)
        return result

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :class:`stream_ctr.learners.base.Learner`."""
        with _step_environment(self._threads):
            return self._probabilities(rows)

    def state(self) -> State:
        """Weights, accumulators and counts: ``rows.*`` [rows, width], ``dense.*`` flat in layout order."""
        arrays = {name: array.detach().cpu().numpy().copy() for name, array in self._dense().items()}
        past = self._replays.past.state(self._step.learned)
        parts = State.gather({"rows": self._step.rows.state(), "dense": State(arrays, {}), "past": past})
        layout = self._network.layout.describe()
        return State(parts.arrays, {"learned": self._step.learned, "layout": layout})

    def load_state(self, state: State) -> None:
        """See :class:`stream_ctr.learners.base.Learner`."""
        arrays = self._dense()
        kinds = {name: array[:0].cpu().numpy().dtype for name, array in arrays.items()}
        learned, saved = checked_dense(state, self._network.layout, kinds)
        self._step.rows.load_state(state.part("rows"))
        self._replays.past.load_state(state.part("past"), learned)
        for name, array in arrays.items():
            array.copy_(torch.from_numpy(np.ascontiguousarray(saved[name])))
        self._step.learned = learned

    def _dense(self) -> dict[str, Tensor]:
        return {"weight": self._step.dense, **self._step.dense_state}

    def _prepare(self, batch: Batch) -> None:
        """Reserve memory for the rows of the batch, and reject uninitialised rows."""
        slots, table = len(self._slot_field), self._step.rows
        if batch.rows.shape[1] != slots:
            raise StateError(f"the batch has {batch.rows.shape[1]} slots, this learner's schema has {slots}")
        if len(batch.changes.row):
            table.reserve(int(batch.changes.row.max()) + 1)
        highest = int(batch.rows.max(initial=-1))
        if highest >= table.used:
            raise StateError(
                f"the batch uses row {highest}, the learner has {table.used} rows; "
                "the vocabulary and the learner's state do not match"
            )

    def _make_step(self) -> TorchStep:
        settings = (self._network, self._optimizer, self._model.pooling, self._fields)
        return TorchStep(*settings, self._seed, self._device, self._dtype, self._labels)

    def _initial_rows(self, batch: Batch) -> Tensor:
        changes, model = batch.changes, self._model
        values = self._network.initial_rows(self._seed, changes.field, changes.key, model.embedding_scale)
        return torch.from_numpy(values).to(self._device, self._dtype)

    def _event(self, rows_S: Tensor, ratio_S: Tensor, full: bool) -> Events:
        """One event: no row occurs twice in it, so its slots are its rows."""
        field = self._slot_field
        if not full:
            present = rows_S >= 0
            rows_S, ratio_S, field = rows_S[present], ratio_S[present], field[present]
        return Events(1, rows_S, field, ratio_S, None, field, full and self._one_slot_a_field)

    def _events(self, batch: Batch, chosen: NDArray[np.bool_]) -> Events:
        """The chosen events, over their distinct rows."""
        rows, ratio = batch.rows[chosen], batch.ratio[chosen]
        slot_field, fields, count = self._slot_field.cpu().numpy(), self._fields, len(rows)
        present = rows >= 0
        if count == 1:
            (rows_S,), (ratio_S,) = (torch.from_numpy(a).to(self._device) for a in (rows, ratio))
            if self._optimizer.counts == "batch":
                ratio_S = rows_S >= fields
            return self._event(rows_S, ratio_S.to(self._dtype), bool(present.all()))
        segment = (np.arange(count)[:, None] * fields + slot_field)[present]
        index, place = np.unique(rows[present], return_inverse=True)
        field_U = np.zeros(len(index), np.int64)
        field_U[place] = segment % fields
        if self._optimizer.counts == "batch":
            seen = np.bincount(place, minlength=len(index)).astype(np.float64)
            ratio_U = count_ratios(seen, field_U, int(np.searchsorted(index, fields)), fields)
        else:
            ratio_U = np.zeros(len(index), np.float32)
            ratio_U[place] = ratio[present]  # for repeated indices numpy keeps the last value
        own = (torch.from_numpy(each).to(self._device) for each in (index, field_U, ratio_U, place, segment))
        index_U, of_row, by_row, place_N, segment_N = own
        single = bool(present.all()) and self._one_slot_a_field
        return Events(count, index_U, of_row, by_row.to(self._dtype), place_N, segment_N, single)

    @torch.no_grad()
    def _probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities [B] of rows [B, S], at most PREDICT_EVENTS at a time."""
        probability = np.zeros(len(rows), np.float32)
        for start in range(0, len(rows), PREDICT_EVENTS):
            index_BS = torch.from_numpy(rows[start : start + PREDICT_EVENTS]).to(self._device)
            events = len(index_BS)
            present_BS = index_BS >= 0
            first_B1 = torch.arange(events, device=self._device).unsqueeze(1) * self._fields
            segment_N = (first_B1 + self._slot_field)[present_BS]
            x_ND = self._step.rows.weight.index_select(0, index_BS[present_BS])
            x = pool(x_ND, segment_N, events * self._fields, self._model.pooling)
            z = self._network.logit(self._step.leaves, x.view(events, self._fields, -1))
            probability[start : start + events] = torch.sigmoid(z).cpu().numpy()
        return probability


def _reject_reassigned_rows(batch: Batch) -> None:
    """Reject a batch that reassigns a row to a new key after one of its events has used the row.

    Raises:
        StateError: there is such a row; its earlier event would be learned with the row of another key.
    """
    changes = batch.changes
    if not changes.event.any() or not batch.rows.size:
        return
    order = np.argsort(batch.rows, axis=None, kind="stable")
    used, first = np.unique(batch.rows.ravel()[order], return_index=True)
    first_event = order[first] // batch.rows.shape[1]
    at = np.minimum(np.searchsorted(used, changes.row), len(used) - 1)
    recycled = (used[at] == changes.row) & (first_event[at] < changes.event)
    if recycled.any():
        k = int(recycled.argmax())
        raise StateError(
            f"row {changes.row[k]} is used by event {first_event[at[k]]} of the batch and reassigned for "
            f"event {changes.event[k]}; learn these events in separate batches"
        )


@contextmanager
def _step_environment(threads: int) -> Iterator[None]:
    """Set the thread count, and flush denormals to zero until the context ends.

    The first moments of inactive units decay into denormal numbers, which slow down every operation on them
    several times. Code outside the step, e.g. numpy's limits, relies on denormals.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def choose_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; auto uses a GPU if there is one.

    >>> choose_device("cpu")
    device(type='cpu')

    Raises:
        ModelError: the name is unknown, or this machine has no such GPU.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, number = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (number and not number.isdecimal()) or name.endswith(":"):
        raise ModelError(f"learner.device = {name!r} is unknown; choose auto, cpu, cuda or cuda:N")
    if int(number or 0) >= gpus:
        raise ModelError(f"learner.device = {name!r}: torch finds {gpus} GPU(s) here; choose auto or cpu")
    return torch.device(name)
