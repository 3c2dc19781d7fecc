"""The Learner contract: one update per event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State


@dataclass(frozen=True, slots=True)
class LearnResult:
    """Outcome of each of the B events of a batch."""

    probability: NDArray[np.float32]
    """[B] click probability predicted before the event's own update; NaN for events that are neither PREDICT
    nor LEARN."""
    skipped: NDArray[np.bool_]
    """[B] True if the update was not finite and was skipped; the weights are unchanged."""
    seconds: NDArray[np.float64]
    """[B] wall time of the event in seconds; a measurement, never part of the state."""


class Learner(Protocol):
    """Learns event by event, in order: always at batch size 1. Batches only transport events."""

    def learn(self, batch: Batch) -> LearnResult:
        """Apply the batch's row changes and events one after the other.

        A PREDICT event is scored. A LEARN event, with or without the PREDICT bit, is scored once and then
        learned. An event with neither bit is ignored. Splitting a batch anywhere changes no bit of the state.
        """
        ...

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities [B] of rows int64 [B, S]; changes nothing."""
        ...

    def state(self) -> State:
        """Weights and optimizer state as named arrays, limited to the rows in use."""
        ...

    def load_state(self, state: State) -> None:
        """Restore the learner that produced ``state``.

        Raises:
            StateError: the arrays do not fit this model and optimizer; the message gives both shapes.
        """
        ...


@runtime_checkable
class Weighted(Protocol):
    """A learner that can return its weights without its optimizer state."""

    def weights(self) -> State:
        """A copy of the part of ``state()`` that predictions need, without optimizer state."""
        ...


@runtime_checkable
class FreezesWeights(Protocol):
    """A learner whose weights can be written without being copied first."""

    def freeze_weights(self) -> FrozenState:
        """A snapshot of ``weights()`` that another thread can read while the learner continues."""
        ...
