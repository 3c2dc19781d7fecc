"""Learning beside the loop: chunks that are prepared wait in line, so that the learner need not.

Nothing of what the loop prepares depends on what is learned. It prepares in bursts (one read of the log is
several chunks), so with one chunk in line the learner would stand still at every burst.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from stream_ctr.daemon.background import Background
from stream_ctr.pipeline.stream import Applied
from stream_ctr.training.core import Core, Step

Frozen = TypeVar("Frozen")

MOST_CHUNKS: Final = 8
"""Chunks that the learner has been given and that are not measured yet."""
MOST_SECONDS: Final = 0.25
"""What they may last beyond the one at work: a stop and a checkpoint wait for them."""


class Ahead:
    """Gives chunks to the learner in its own thread, and takes in what became of them, in order.

    Args:
        core: whose learner it is; its metrics follow the results.
        on_step: told of every chunk, in the loop's thread.
    """

    def __init__(self, core: Core, on_step: Callable[[Step], None]) -> None:
        self._core, self._on_step = core, on_step
        self._line = Background[Callable[[], None]]("learn", most=MOST_CHUNKS)
        """What each comes to is what is then to be done about it in the loop's thread."""
        self._done: deque[Callable[[], None]] = deque()
        self._chunk_seconds = MOST_SECONDS

    @property
    def at_work(self) -> bool:
        """Whether something is in line whose result was not taken in yet."""
        return self._line.busy

    def give(self, applied: Applied) -> None:
        """Have a chunk learned after those before it; waits while the line is as long as it may be."""
        self._put(lambda: self._learn(applied))

    def freeze(self, freeze: Callable[[], Frozen], then: Callable[[Frozen], None]) -> None:
        """Freeze something of the learner after all chunks that were given and before any other, without
        waiting for them. ``then`` has it in the loop's thread, when those chunks are measured and no other.
        """

        def frozen() -> Callable[[], None]:
            return partial(then, freeze())

        self._put(frozen)

    def settle(self) -> None:
        """Wait until all of it is learned and measured: only then do pipeline, learner and metrics agree."""
        while self._line.busy:
            self._take()
        self._finish()

    def close(self) -> None:
        """End the thread; what was not learned is left, for the next start to read again."""
        self._line.close()
        self._done.clear()

    def _put(self, task: Callable[[], Callable[[], None]]) -> None:
        while self._line.busy and (len(self._line) == MOST_CHUNKS or self._too_long() or self._line.done):
            self._take()
        # In line before anybody is told of those before it: whoever is may settle, and save what is applied.
        self._line.start(task)
        self._finish()

    def _too_long(self) -> bool:
        waiting = len(self._line) - 1
        return waiting > 0 and waiting * self._chunk_seconds > MOST_SECONDS

    def _learn(self, applied: Applied) -> Callable[[], None]:
        began = time.monotonic()
        result = self._core.learner.learn(applied.batch)
        self._chunk_seconds = time.monotonic() - began
        return lambda: self._on_step(self._core.measure(applied, result))

    def _take(self) -> None:
        done = self._line.take()
        if done is not None:
            self._done.append(done)

    def _finish(self) -> None:
        """Measure what is learned, in order, also when one who is told of a chunk settles."""
        while self._done:
            self._done.popleft()()
