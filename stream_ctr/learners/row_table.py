"""Embedding rows with their optimizer state: grows by doubling, and only touched rows are read or written."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ctr.errors import StateError
from stream_ctr.frozen import FrozenRows, Watch
from stream_ctr.optim.rules import Rule
from stream_ctr.state import State

FIRST_CAPACITY = 1024
CACHE_LINE_BYTES = 64


class RowTable:
    """Rows 0 to ``used`` - 1 of weights, accumulators, step counts and times of the last touch.

    ``weight`` and each accumulator are [capacity, width]; ``step`` and ``touched`` are int64 [capacity, 1].
    Where the last column, the first-order weight, has a rule of its own, the accumulators are those of the
    other columns, [capacity, width - 1], and then its own, [capacity, 1]. Rows are initialised before they
    are used; the first ``used`` ones start at zero.
    """

    def __init__(
        self,
        width: int,
        rule: Rule,
        used: int,
        device: torch.device,
        dtype: torch.dtype,
        first_order: Rule | None = None,
    ) -> None:
        self.used = used
        self._names = list(rule.accumulators)
        self._initial = [rule.initial] * len(self._names)
        widths = [width if first_order is None else width - 1] * len(self._names)
        if first_order is not None:
            self._names += [f"first_order_{name}" for name in first_order.accumulators]
            self._initial += [first_order.initial] * len(first_order.accumulators)
            widths += [1] * len(first_order.accumulators)
        capacity = max(FIRST_CAPACITY, used)
        self.weight = torch.zeros((capacity, width), device=device, dtype=dtype)
        self.accumulators = [
            torch.full((capacity, columns), initial, device=device, dtype=dtype)
            for columns, initial in zip(widths, self._initial, strict=True)
        ]
        self.step = torch.zeros((capacity, 1), device=device, dtype=torch.int64)
        self.touched = torch.zeros((capacity, 1), device=device, dtype=torch.int64)
        self._spare = 0
        self.watch = Watch()
        """States that were frozen and must be told of writes."""

    def keep_spare(self) -> None:
        """From now on the last row of the memory is never in use: whoever asked may write anything there."""
        self._spare = 1
        self.reserve(self.used)

    def reserve(self, used: int) -> None:
        """Have at least ``used`` rows."""
        self.used = max(self.used, used)
        capacity, needed = self.weight.shape[0], self.used + self._spare
        if needed <= capacity:
            return
        while capacity < needed:
            capacity *= 2
        # One array at a time, and each old one let go of at once: never all of them twice.
        self.weight = _grown(self.weight, capacity)
        self.step = _grown(self.step, capacity)
        self.touched = _grown(self.touched, capacity)
        for index in range(len(self.accumulators)):
            self.accumulators[index] = _grown(self.accumulators[index], capacity)

    def initialise(self, index: Tensor, values: Tensor, now: int) -> None:
        """Start rows ``index`` [K] afresh at ``values`` [K, width], as if last touched at event ``now``."""
        self.weight.index_copy_(0, index, values)
        for array, initial in zip(self.accumulators, self._initial, strict=True):
            array.index_fill_(0, index, initial)
        self.step.index_fill_(0, index, 0)
        self.touched.index_fill_(0, index, now)

    def state(self) -> State:
        """Copies of all arrays, trimmed to the rows in use."""
        return State({name: _copied(array[: self.used]) for name, array in self._arrays().items()}, {})

    def freeze(self, names: Collection[str] = ()) -> FrozenRows:
        """The arrays of :meth:`state` (``names``: these alone) as they are now, on the CPU. From here on
        whoever writes to rows calls ``watch.keep`` before, until the frozen rows are closed."""
        arrays = {name: array.numpy() for name, array in self._arrays().items()}
        chosen = {name: array for name, array in arrays.items() if not names or name in names}
        return self.watch.add(FrozenRows(chosen, self.used))

    def weights(self) -> NDArray[np.generic]:
        """A copy of the weights of the rows in use."""
        return _copied(self.weight[: self.used])

    def load_state(self, state: State) -> None:
        """Take the rows of ``state``, after checking that it has the arrays and widths of this table.

        Raises:
            StateError: an array is missing, of another width or type, or the arrays differ in length.
        """
        arrays = self._arrays()
        if arrays.keys() != state.arrays.keys():
            raise StateError(
                f"the saved rows hold {', '.join(sorted(state.arrays))}, this optimizer needs "
                f"{', '.join(sorted(arrays))}; resume with the optimizer that saved them"
            )
        used = len(state.arrays["weight"])
        for name, array in arrays.items():
            check_array(f"rows.{name}", state.arrays[name], (used, array.shape[1]), array.dtype)
        self.used = 0
        # before there is more room: what is new is zero, and takes no memory yet
        for array in arrays.values():
            array.zero_()
        self.reserve(used)
        for name, array in self._arrays().items():
            array[:used] = torch.from_numpy(np.ascontiguousarray(state.arrays[name])).to(array.device)

    def _arrays(self) -> dict[str, Tensor]:
        named = dict(zip(self._names, self.accumulators, strict=True))
        return {"weight": self.weight, "step": self.step, "touched": self.touched, **named}


def check_array(name: str, array: NDArray[np.generic], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse a saved array that does not fit.

    Raises:
        StateError: its shape or type is not the expected one; both are named.
    """
    expected = str(dtype).removeprefix("torch.")
    if array.shape != shape or array.dtype.name != expected:
        raise StateError(
            f"the saved array {name} is {array.dtype.name} {list(array.shape)}, this model needs "
            f"{expected} {list(shape)}; resume with the model and optimizer that saved it"
        )


def _zeros(like: Tensor, capacity: int) -> Tensor:
    """Zeros [capacity, width] of the type and device of ``like``, from the beginning of a cache line on."""
    shape = (capacity, like.shape[1])
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    # numpy asks the system for zeros and torch writes them: so rows that nobody uses yet take no memory
    dtype = like.numpy().dtype
    room = np.zeros(capacity * like.shape[1] * dtype.itemsize + CACHE_LINE_BYTES, np.uint8)
    start = -room.ctypes.data % CACHE_LINE_BYTES
    return torch.from_numpy(room[start : start + room.size - CACHE_LINE_BYTES].view(dtype).reshape(shape))


def _grown(array: Tensor, capacity: int) -> Tensor:
    grown = _zeros(array, capacity)
    grown[: array.shape[0]] = array
    return grown


def _copied(array: Tensor) -> NDArray[np.generic]:
    copy: NDArray[np.generic] = array.detach().cpu().numpy().copy()
    return copy
