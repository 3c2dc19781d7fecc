"""The learner's thread: learns chunks in order while the trainer's loop reads and prepares the next ones.

The loop's preparation does not depend on the learner. One read of the log gives several chunks, so several
may be queued; with a queue of one, the learner would idle between reads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from stream_ctr.daemon.background import Background
from stream_ctr.learners.base import FreezesWeights, Learner, LearnResult, Weighted
from stream_ctr.pipeline.stream import Applied
from stream_ctr.state.frozen import FrozenState
from stream_ctr.training.core import Core, Step

MAX_QUEUED: Final = 8
"""Maximum number of chunks given to the learner whose results were not collected."""
MAX_QUEUED_SECONDS: Final = 0.25
"""Maximum learning time in seconds of the chunks queued behind the one being learned, because a stop and a
checkpoint wait for them."""


class Learned(NamedTuple):
    """A chunk, and what the learner returned for it."""

    applied: Applied
    result: LearnResult


class FrozenWeights(NamedTuple):
    """The learner's weights between two chunks, to be written while it continues."""

    state: FrozenState


class LearnerThread:
    """Runs a core's learner in its own thread; the core's metrics are updated in the caller's thread.

    Args:
        core: the core with the learner.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._queue = Background[Learned | FrozenWeights]("learn", max_pending=MAX_QUEUED)
        self._done: deque[Learned | FrozenWeights] = deque()
        self._chunk_seconds = MAX_QUEUED_SECONDS

    @property
    def busy(self) -> bool:
        """Whether the learner has chunks whose results were not collected."""
        return self._queue.busy

    def give(self, applied: Applied) -> None:
        """Queue a chunk to be learned after those before it; waits while the queue is full."""
        self._put(lambda: self._learn(applied))

    def freeze_weights(self) -> None:
        """Queue a copy of the weights; :meth:`completed` yields it between the chunks given before this call
        and those given after it."""
        self._put(lambda: FrozenWeights(_frozen_weights(self._core.learner)))

    def completed(self, *, wait: bool = False) -> Iterator[Step | FrozenWeights]:
        """Yield the results since the last call, in order; each chunk is measured when it is yielded.

        Args:
            wait: wait until everything is learned; then pipeline, learner and metrics are at one position.

        Raises the learner's exception; the chunks after the failed one are discarded.
        """
        while self._done or (self._queue.busy and (wait or self._queue.done)):
            if not self._done:
                self._collect()
                continue
            done = self._done.popleft()
            yield done if isinstance(done, FrozenWeights) else self._core.measure(done.applied, done.result)

    def close(self) -> None:
        """End the thread; the next start reads the chunks that were not learned again."""
        self._queue.close()
        self._done.clear()

    def _put(self, task: Callable[[], Learned | FrozenWeights]) -> None:
        while self._queue.busy and (len(self._queue) == MAX_QUEUED or self._too_long() or self._queue.done):
            self._collect()
        self._queue.start(task)

    def _too_long(self) -> bool:
        behind = len(self._queue) - 1
        return behind > 0 and behind * self._chunk_seconds > MAX_QUEUED_SECONDS

    def _learn(self, applied: Applied) -> Learned:
        began = time.monotonic()
        result = self._core.learner.learn(applied.batch)
        self._chunk_seconds = time.monotonic() - began
        return Learned(applied, result)

    def _collect(self) -> None:
        """Wait for the oldest result; :meth:`completed` measures it later."""
        done = self._queue.take()
        if done is not None:
            self._done.append(done)


def _frozen_weights(learner: Learner) -> FrozenState:
    if isinstance(learner, FreezesWeights):
        return learner.freeze_weights()
    state = learner.weights() if isinstance(learner, Weighted) else learner.state()
    return FrozenState(dict(state.arrays), state.values)
