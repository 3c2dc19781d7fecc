"""State frozen at one moment, read piece by piece while its owner keeps changing it.

A copy of a large state would double the memory at every checkpoint. Instead, a row is copied just before
its first write since the state was frozen, and the copy is kept only until the reader has passed the row. The
owner calls :meth:`FrozenRows.keep` before each write; nothing else in the owner changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel
from stream_ctr.state.state import Arrays, Json, State, Stateful

PIECE_BYTES: Final = 1 << 20
"""Size of the pieces of a large array, and so the memory that reading the array takes."""


class Pieces(Protocol):
    """An array that can be read once, in consecutive pieces along its first axis."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def pieces(self) -> Iterator[NDArray[Any]]:
        """The pieces; each is valid until the next one is requested."""
        ...


Source: TypeAlias = NDArray[Any] | Pieces


class FrozenRows:
    """The first rows of several arrays of equal length, as of the construction of this object.

    One thread writes to the arrays and calls :meth:`keep` with the rows before each write; another thread
    reads the pieces.

    >>> live = np.arange(6.0).reshape(3, 2)
    >>> frozen = FrozenRows({"weight": live}, 2)
    >>> frozen.keep(np.array([1]))
    >>> live[:] = -1.0
    >>> whole(frozen["weight"])[1].tolist()
    [2.0, 3.0]
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], rows: int) -> None:
        self.closed = False
        """Whether reading has ended, so that writers need no longer call :meth:`keep`."""
        self._arrays = {name: array[:rows] for name, array in arrays.items()}
        self._known = np.zeros(rows, np.bool_)
        """[rows] whether :meth:`keep` has been called with the row."""
        self._lock = Lock()
        self._kept: dict[str, list[tuple[NDArray[np.int64], NDArray[Any]]]] = {name: [] for name in arrays}
        self._passed = dict.fromkeys(arrays, 0)
        """Number of rows of each array that were read."""
        self.keep(np.zeros(0, np.int64))  # compiles or loads the kernel now rather than during a write

    def __getitem__(self, name: str) -> Pieces:
        """The array of that name."""
        return _FrozenArray(self, name, self._arrays[name])

    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._arrays)

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Announce writes to rows, int64 of any shape; rows that are not frozen are ignored."""
        new = np.empty(rows.size, np.int64)
        new = np.sort(new[: _first_seen(np.ascontiguousarray(rows).reshape(-1), self._known, new)])
        if not len(new):
            return
        with self._lock:
            for name, kept in self._kept.items():
                ahead = new[np.searchsorted(new, self._passed[name]) :]
                if len(ahead):
                    kept.append((ahead, self._arrays[name][ahead]))

    def close(self) -> None:
        """Release all memory; no pieces may be read afterwards."""
        with self._lock:
            self.closed = True
            self._kept = {}
            self._arrays = {}

    def pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """The array in consecutive pieces; may be read once."""
        live = self._arrays[name]
        step = max(1, PIECE_BYTES // max(1, live.dtype.itemsize * (live[0].size if len(live) else 1)))
        room = np.empty((min(step, len(live)), *live.shape[1:]), live.dtype)
        for start in range(0, len(live), step):
            stop = min(start + step, len(live))
            piece = room[: stop - start]
            piece[:] = live[start:stop]
            # Rows written in the meantime were kept before: restore their kept values.
            with self._lock:
                for rows, values in self._kept.get(name, ()):
                    first, last = np.searchsorted(rows, (start, stop))
                    piece[rows[first:last] - start] = values[first:last]
                self._passed[name] = stop
            yield piece
        with self._lock:
            self._kept.pop(name, None)


@dataclass(frozen=True, slots=True)
class _FrozenArray:
    rows: FrozenRows
    name: str
    live: NDArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.live.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.live.shape

    def pieces(self) -> Iterator[NDArray[Any]]:
        return self.rows.pieces(self.name)


class Watch:
    """Passes write announcements to the frozen states that are still being read.

    The owner of the arrays calls :meth:`add` and :meth:`keep`, while no thread writes to the arrays.
    """

    def __init__(self) -> None:
        self._frozen: list[FrozenRows] = []

    def add(self, frozen: FrozenRows) -> FrozenRows:
        """Pass all further announcements to ``frozen``."""
        self._frozen.append(frozen)
        return frozen

    @property
    def active(self) -> bool:
        """Whether :meth:`keep` has to be called."""
        if self._frozen:
            self._frozen = [frozen for frozen in self._frozen if not frozen.closed]
        return bool(self._frozen)

    def keep(self, *rows: NDArray[np.int64]) -> None:
        """Announce writes to these rows."""
        for frozen in self._frozen:
            for each in rows:
                frozen.keep(each)


@dataclass(frozen=True, slots=True)
class FrozenState:
    """A :class:`~stream_ctr.state.state.State` whose large arrays can be read once, in pieces.

    A context manager that releases the kept rows at its end.
    """

    arrays: dict[str, Source]
    values: dict[str, Json] = field(default_factory=dict)
    views: tuple[FrozenRows, ...] = ()
    """The frozen rows behind the arrays, to be closed."""

    @classmethod
    def of(cls, part: Stateful) -> FrozenState:
        """The current state of a part; a copy if the part cannot be frozen."""
        if isinstance(part, Freezable):
            return part.freeze()
        state = part.state()
        return cls(dict(state.arrays), state.values)

    @classmethod
    def gather(cls, parts: Mapping[str, FrozenState | State]) -> FrozenState:
        """Join the states of named parts like :meth:`.state.State.gather`."""
        arrays: dict[str, Source] = {}
        values: dict[str, Json] = {}
        views: list[FrozenRows] = []
        for name, part in parts.items():
            arrays.update({f"{name}.{key}": array for key, array in part.arrays.items()})
            values[name] = part.values
            if isinstance(part, FrozenState):
                views += part.views
        return cls(arrays, values, tuple(views))

    def thaw(self) -> State:
        """The whole state in memory."""
        arrays: Arrays = {name: whole(source) for name, source in self.arrays.items()}
        return State(arrays, self.values)

    def __enter__(self) -> FrozenState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the kept rows."""
        for view in self.views:
            view.close()


@runtime_checkable
class Freezable(Protocol):
    """A part whose state can be written without a copy."""

    def freeze(self) -> FrozenState:
        """The result of ``state()`` now, readable in another thread while the part keeps changing."""
        ...


def pieces_of(source: Source) -> Iterator[NDArray[Any]]:
    """The pieces of a source; an array is one piece."""
    if isinstance(source, np.ndarray):
        yield source
    else:
        yield from source.pieces()


def whole(source: Source) -> NDArray[Any]:
    """All pieces in one new array; an array is returned unchanged."""
    if isinstance(source, np.ndarray):
        return source
    array = np.empty(source.shape, source.dtype)
    at = 0
    for piece in source.pieces():
        array[at : at + len(piece)] = piece
        at += len(piece)
    return array


@kernel
def _first_seen(rows: NDArray[np.int64], known: NDArray[np.bool_], new: NDArray[np.int64]) -> int:
    """Write to ``new`` the entries of rows [N] that are not marked in known [V], and mark them; returns their
    number."""
    count = 0
    for row in rows:
        if 0 <= row < len(known) and not known[row]:
            known[row] = True
            new[count] = row
            count += 1
    return count
