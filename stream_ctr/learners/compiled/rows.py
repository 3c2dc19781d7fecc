"""Embedding rows with their optimizer state. Tables grow by doubling; updates access only touched rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stream_ctr.errors import StateError
from stream_ctr.learners.state_check import check_array
from stream_ctr.optim.moments import bits_of
from stream_ctr.optim.rules import Rule
from stream_ctr.state.frozen import FrozenRows, Watch
from stream_ctr.state.state import State

FIRST_CAPACITY: Final = 1024
CACHE_LINE_BYTES: Final = 64

A = TypeVar("A")
"""Array type of the rows: numpy arrays or torch tensors."""


class Rows(ABC, Generic[A]):
    """Rows 0 to ``used`` - 1 of weights, accumulators, step counts and times of the last touch.

    ``weight`` and each accumulator are [capacity, width]; ``step`` and ``touched`` are int64 [capacity, 1].
    If the last column, the first-order weight, has its own rule, the accumulators of the other columns are
    [capacity, width - 1], followed by those of the last column, [capacity, 1]. Rows must be initialised
    before use; the rows present at construction start at zero.
    """

    def __init__(
        self,
        width: int,
        rule: Rule,
        used: int,
        dtype: DTypeLike,
        half: bool = False,
        first_order: Rule | None = None,
    ) -> None:
        """``dtype`` is the type of the weights and, unless ``half`` selects 16 bits, of the accumulators."""
        self.used = used
        self._names = list(rule.accumulators)
        initial = [rule.initial] * len(self._names)
        widths = [width if first_order is None else width - 1] * len(self._names)
        if first_order is not None:
            self._names += [f"first_order_{name}" for name in first_order.accumulators]
            initial += [first_order.initial] * len(first_order.accumulators)
            widths += [1] * len(first_order.accumulators)
        self.capacity = max(FIRST_CAPACITY, used)
        self.weight = self._full((self.capacity, width), 0, dtype)
        self._fill: list[float] = [bits_of(each) if half else each for each in initial]
        kind = np.uint16 if half else dtype
        self.accumulators = [
            self._full((self.capacity, columns), each, kind)
            for columns, each in zip(widths, self._fill, strict=True)
        ]
        self.step = self._full((self.capacity, 1), 0, np.int64)
        self.touched = self._full((self.capacity, 1), 0, np.int64)
        self._spare = 0
        self.watch = Watch()
        """Frozen states, which must be notified before rows are written."""

    @abstractmethod
    def _full(self, shape: tuple[int, int], value: float, dtype: DTypeLike) -> A:
        """An array filled with ``value``."""

    @abstractmethod
    def _grown(self, array: A, capacity: int) -> A:
        """The array extended by zeros to [capacity, width]; they use no memory until they are written."""

    @abstractmethod
    def _host(self, array: A, rows: int) -> NDArray[Any]:
        """The first ``rows`` rows as a numpy array: the same memory, or a copy if they are on a device."""

    @abstractmethod
    def _clear(self, array: A) -> None:
        """Write zeros to all rows."""

    @abstractmethod
    def _write(self, array: A, values: NDArray[Any]) -> None:
        """Write ``values`` [n, width] to the first n rows."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the accumulators."""
        return tuple(self._names)

    def keep_spare(self) -> None:
        """Reserve the last row of the memory as a spare row, which the caller may overwrite freely."""
        self._spare = 1
        self.reserve(self.used)

    def reserve(self, used: int) -> None:
        """Grow to at least ``used`` rows."""
        self.used = max(self.used, used)
        needed = self.used + self._spare
        if needed <= self.capacity:
            return
        while self.capacity < needed:
            self.capacity *= 2
        # One array at a time, freeing each old one at once, so that never all of them exist twice.
        self.weight = self._grown(self.weight, self.capacity)
        self.step = self._grown(self.step, self.capacity)
        self.touched = self._grown(self.touched, self.capacity)
        for index in range(len(self.accumulators)):
            self.accumulators[index] = self._grown(self.accumulators[index], self.capacity)

    def state(self) -> State:
        """Copies of all arrays, limited to the rows in use."""
        return State({name: self._host(each, self.used).copy() for name, each in self._arrays().items()}, {})

    def freeze(self, names: Collection[str] = ()) -> FrozenRows:
        """A snapshot of the arrays of :meth:`state`, or of those in ``names``, on the CPU.

        Until the frozen rows are closed, callers must call ``watch.keep`` before they write to rows.
        """
        arrays = {name: self._host(array, self.capacity) for name, array in self._arrays().items()}
        chosen = {name: array for name, array in arrays.items() if not names or name in names}
        return self.watch.add(FrozenRows(chosen, self.used))

    def weights(self) -> NDArray[Any]:
        """A copy of the weights of the rows in use."""
        return self._host(self.weight, self.used).copy()

    def load_state(self, state: State) -> None:
        """Load the rows of ``state`` after checking its arrays.

        Raises:
            StateError: an array is missing or has another width or type, or the arrays differ in length.
        """
        arrays = self._arrays()
        if arrays.keys() != state.arrays.keys():
            raise StateError(
                f"the saved rows hold {', '.join(sorted(state.arrays))}, this optimizer needs "
                f"{', '.join(sorted(arrays))}; resume with the optimizer that saved them"
            )
        used = len(state.arrays["weight"])
        for name, array in arrays.items():
            like = self._host(array, 0)
            check_array(f"rows.{name}", state.arrays[name], (used, like.shape[1]), like.dtype)
        self.used = 0
        # Clear before growing: new rows are zero anyway and use no memory until they are written.
        for array in arrays.values():
            self._clear(array)
        self.reserve(used)
        for name, array in self._arrays().items():
            self._write(array, state.arrays[name])

    def _arrays(self) -> dict[str, A]:
        named = dict(zip(self._names, self.accumulators, strict=True))
        return {"weight": self.weight, "step": self.step, "touched": self.touched, **named}


class NumpyRows(Rows[NDArray[Any]]):
    """Rows as numpy arrays that start on a cache line."""

    def _full(self, shape: tuple[int, int], value: float, dtype: DTypeLike) -> NDArray[Any]:
        array = zeros(shape, dtype)
        if value:
            array[:] = value
        return array

    def _grown(self, array: NDArray[Any], capacity: int) -> NDArray[Any]:
        return grown(array, capacity)

    def _host(self, array: NDArray[Any], rows: int) -> NDArray[Any]:
        return array[:rows]

    def _clear(self, array: NDArray[Any]) -> None:
        array[:] = 0

    def _write(self, array: NDArray[Any], values: NDArray[Any]) -> None:
        array[: len(values)] = values


def zeros(shape: tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros that start on a cache line; they use no memory until they are written."""
    kind = np.dtype(dtype)
    size = shape[0] * shape[1] * kind.itemsize
    room = np.zeros(size + CACHE_LINE_BYTES, np.uint8)
    start = -room.ctypes.data % CACHE_LINE_BYTES
    return room[start : start + size].view(kind).reshape(shape)


def grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    """A copy of the array, extended by zeros to [capacity, width]."""
    larger = zeros((capacity, array.shape[1]), array.dtype)
    larger[: len(array)] = array
    return larger
