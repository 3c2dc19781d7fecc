"""The Learner contract: one event in, one update out."""

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
    """What happened to each of the B events of a batch."""

    probability: NDArray[np.float32]
    """[B] predicted click probability, made before the event's own update; NaN where nothing was asked."""
    skipped: NDArray[np.bool_]
    """[B] the update was not finite and was left out; the weights are as they were."""
    seconds: NDArray[np.float64]
    """[B] wall time that the event took; a measurement, never part of the state."""


class Learner(Protocol):
    """Learns event by event, in order. Batch size 1 is the meaning; a chunk is how events travel."""

    def learn(self, batch: Batch) -> LearnResult:
        """Apply the batch's row changes and events one after the other.

        A PREDICT event is scored; a LEARN event is scored and then learned; an event with both bits is
        scored once and then learned; one with neither is left alone. Splitting a batch anywhere changes no
        bit of the state.
        """
        ...

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities [B] of rows int64 [B, S]; changes nothing."""
        ...

    def state(self) -> State:
        """Weights and optimizer state as named arrays; rows trimmed to those in use."""
        ...

    def load_state(self, state: State) -> None:
        """Become the learner that handed out ``state``.

        Raises:
            StateError: the arrays do not fit this model and optimizer; both shapes are named.
        """
        ...


@runtime_checkable
class Weighted(Protocol):
    """A learner that can hand out less than its whole state."""

    def weights(self) -> State:
        """A copy of what predictions need of ``state()``: no optimizer state."""
        ...


@runtime_checkable
class FreezesWeights(Protocol):
    """A learner whose weights need not be copied to be written."""

    def freeze_weights(self) -> FrozenState:
        """What ``weights()`` gives now, readable in another thread while the learner goes on."""
        ...
