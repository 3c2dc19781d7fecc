"""A background thread with a task queue; errors are raised where results are collected."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

R = TypeVar("R")


class Background(Generic[R]):
    """One thread that runs tasks in the order in which they were started.

    Args:
        name: prefix of the thread's name.
        max_pending: tasks that may be started before their results are taken.

    >>> background = Background[int]("example", max_pending=2)
    >>> background.start(lambda: 6 * 7)
    >>> background.start(lambda: 1)
    >>> background.take(), background.take(), background.take()
    (42, 1, None)
    >>> background.close()
    """

    def __init__(self, name: str, max_pending: int = 1) -> None:
        self._name = name
        self._max_pending = max_pending
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: deque[Future[R]] = deque()
        self._failed = False

    def __len__(self) -> int:
        """Started tasks whose results were not taken yet."""
        return len(self._tasks)

    @property
    def busy(self) -> bool:
        """Whether any result was not taken yet."""
        return bool(self._tasks)

    @property
    def done(self) -> bool:
        """Whether :meth:`take` would return at once: the oldest task has finished."""
        return bool(self._tasks) and self._tasks[0].done()

    def start(self, task: Callable[[], R]) -> None:
        """Queue a task.

        Raises:
            RuntimeError: ``max_pending`` results were not taken yet.
        """
        if len(self._tasks) >= self._max_pending:
            raise RuntimeError("the result of an earlier task was not taken")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._tasks.append(self._threads.submit(self._run, task))

    def take(self) -> R | None:
        """Wait for the oldest task and return its result; None without tasks.

        Raises the task's exception, and then discards the tasks queued after it, which depend on it.
        """
        if not self._tasks:
            return None
        try:
            return self._tasks.popleft().result()
        except BaseException:
            self._discard()
            raise

    def close(self) -> None:
        """Wait for the running task, and discard results and tasks that have not begun.

        A later :meth:`start` opens a new thread.
        """
        self._discard()
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def _run(self, task: Callable[[], R]) -> R:
        if self._failed:
            raise CancelledError
        try:
            return task()
        except BaseException:
            self._failed = True  # the queued tasks depend on this one
            raise

    def _discard(self) -> None:
        for task in reversed(self._tasks):
            task.cancel()
        wait(self._tasks)
        self._tasks.clear()
        self._failed = False
