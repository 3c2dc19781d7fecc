"""Learning beside the loop: chunks that are prepared wait in line, so that the learner need not.

Nothing of what the loop prepares depends on what is learned. It prepares in bursts (one read of the log is
several chunks), so with one chunk in line the learner would stand still at every burst.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from stream_ctr.learners.base import LearnResult
from stream_ctr.pipeline.stream import Applied
from stream_ctr.training.background import Background
from stream_ctr.training.core import Core, Step

MOST_CHUNKS: Final = 8
"""Chunks that the learner has been given and that are not measured yet."""
MOST_SECONDS: Final = 0.25
"""What they may last beyond the one at work: a stop, a snapshot and a checkpoint wait for them."""


class _Learned(NamedTuple):
    result: LearnResult
    seconds: float


class Ahead:
    """Gives chunks to the learner in its own thread, and takes in what became of them, in order.

    Args:
        core: whose learner it is; its metrics follow the results.
        on_step: told of every chunk, in the loop's thread.
    """

    def __init__(self, core: Core, on_step: Callable[[Step], None]) -> None:
        self._core, self._on_step = core, on_step
        self._learning = Background[_Learned]("learn", most=MOST_CHUNKS)
        self._line: deque[Applied] = deque()
        self._learned: deque[tuple[Applied, LearnResult]] = deque()
        """Learned and not measured yet."""
        self._chunk_seconds = MOST_SECONDS

    @property
    def at_work(self) -> bool:
        """Whether a chunk was given that is not measured yet."""
        return bool(self._line)

    def give(self, applied: Applied) -> None:
        """Have a chunk learned after those before it; waits while the line is as long as it may be."""
        while self._line and (len(self._line) == MOST_CHUNKS or self._too_long() or self._learning.done):
            self._take()
        # In line before anybody is told of those before it: whoever is may settle, and save what is applied.
        self._line.append(applied)
        self._learning.start(lambda: self._learn(applied))
        self._measure()

    def settle(self) -> None:
        """Wait until all of it is learned and measured: only then do pipeline, learner and metrics agree."""
        while self._line:
            self._take()
        self._measure()

    def close(self) -> None:
        """End the thread; what was not learned is left, for the next start to read again."""
        self._learning.close()
        self._line.clear()
        self._learned.clear()

    def _too_long(self) -> bool:
        return len(self._line) > 1 and (len(self._line) - 1) * self._chunk_seconds > MOST_SECONDS

    def _learn(self, applied: Applied) -> _Learned:
        began = time.monotonic()
        result = self._core.learner.learn(applied.batch)
        return _Learned(result, time.monotonic() - began)

    def _take(self) -> None:
        learned = self._learning.take()
        applied = self._line.popleft()
        if learned is not None:
            self._chunk_seconds = learned.seconds
            self._learned.append((applied, learned.result))

    def _measure(self) -> None:
        """Measure what is learned, in order, also when one who is told of a chunk settles."""
        while self._learned:
            self._on_step(self._core.measure(*self._learned.popleft()))
