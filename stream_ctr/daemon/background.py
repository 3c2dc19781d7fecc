"""Work beside the daemon's loop: tasks one after the other, and their errors where results are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

R = TypeVar("R")


class Background(Generic[R]):
    """One thread that does its tasks in the order in which they were given.

    >>> beside = Background[int]("example", most=2)
    >>> beside.start(lambda: 6 * 7)
    >>> beside.start(lambda: 1)
    >>> beside.take(), beside.take(), beside.take()
    (42, 1, None)
    >>> beside.close()
    """

    def __init__(self, name: str, most: int = 1) -> None:
        """``most`` tasks may have been started without their results taken."""
        self._name = name
        self._most = most
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: deque[Future[R]] = deque()
        self._failed = False

    def __len__(self) -> int:
        """Tasks that were started and whose results were not taken."""
        return len(self._tasks)

    @property
    def busy(self) -> bool:
        """Whether there is such a task."""
        return bool(self._tasks)

    @property
    def done(self) -> bool:
        """Whether a result waits to be taken."""
        return bool(self._tasks) and self._tasks[0].done()

    def start(self, task: Callable[[], R]) -> None:
        """Begin a task, or put it in line; where there is no room, results have to be taken first."""
        if len(self._tasks) >= self._most:
            raise RuntimeError("the result of the task before was not taken")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._tasks.append(self._threads.submit(self._do, task))

    def take(self) -> R | None:
        """Wait for the oldest task and hand out its result; None when there is none.

        Raises what the task raised; those in line behind it are then given up: they came after it.
        """
        if not self._tasks:
            return None
        try:
            return self._tasks.popleft().result()
        except BaseException:
            self._give_up()
            raise

    def close(self) -> None:
        """Wait for the thread's end; results that nobody took are gone, and so is what has not begun.
        Another :meth:`start` is allowed."""
        self._give_up()
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def _do(self, task: Callable[[], R]) -> R:
        if self._failed:
            raise CancelledError
        try:
            return task()
        except BaseException:
            self._failed = True  # what is in line was meant to come after it
            raise

    def _give_up(self) -> None:
        for task in reversed(self._tasks):
            task.cancel()
        wait(self._tasks)
        self._tasks.clear()
        self._failed = False
