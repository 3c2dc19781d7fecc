"""State as it was at one moment, read piece by piece while its owner goes on.

A copy of a large state would double the memory at every checkpoint. Instead rows are copied when they are
about to be written for the first time since the state was frozen, and only until the reader has passed
them. The owner calls :meth:`FrozenRows.keep` before each write; nothing else of it changes.
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
"""Size of the pieces in which large arrays are handed out: all the memory that reading one takes."""


class Pieces(Protocol):
    """An array that is handed out in pieces along its first axis, in order, once."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def pieces(self) -> Iterator[NDArray[Any]]:
        """The pieces; each is valid until the next is asked for."""
        ...


Source: TypeAlias = NDArray[Any] | Pieces


class FrozenRows:
    """The first rows of some arrays of one length, as they were when this was made.

    One thread writes to the arrays, and calls :meth:`keep` with the rows before it does; another reads the
    pieces.

    >>> live = np.arange(6.0).reshape(3, 2)
    >>> frozen = FrozenRows({"weight": live}, 2)
    >>> frozen.keep(np.array([1]))
    >>> live[:] = -1.0
    >>> whole(frozen["weight"])[1].tolist()
    [2.0, 3.0]
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], rows: int) -> None:
        self.closed = False
        """Nothing more is read: whoever writes need not :meth:`keep` any longer."""
        self._arrays = {name: array[:rows] for name, array in arrays.items()}
        self._known = np.zeros(rows, np.bool_)
        """[rows] what :meth:`keep` was told of."""
        self._lock = Lock()
        self._kept: dict[str, list[tuple[NDArray[np.int64], NDArray[Any]]]] = {name: [] for name in arrays}
        self._passed = dict.fromkeys(arrays, 0)
        """Rows of each array that were handed out."""
        self.keep(np.zeros(0, np.int64))  # compiled, or loaded from disk, before anybody waits for it

    def __getitem__(self, name: str) -> Pieces:
        """One of the arrays."""
        return _FrozenArray(self, name, self._arrays[name])

    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._arrays)

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Rows int64 of any shape are about to be written; those that are not frozen do not matter."""
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
        """Let go of everything; pieces are no longer to be read."""
        with self._lock:
            self.closed = True
            self._kept = {}
            self._arrays = {}

    def pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """The array in pieces, in order, once."""
        live = self._arrays[name]
        step = max(1, PIECE_BYTES // max(1, live.dtype.itemsize * (live[0].size if len(live) else 1)))
        room = np.empty((min(step, len(live)), *live.shape[1:]), live.dtype)
        for start in range(0, len(live), step):
            stop = min(start + step, len(live))
            piece = room[: stop - start]
            piece[:] = live[start:stop]
            # What was being written meanwhile was kept before: that comes on top.
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
    """What has to be told of writes: the states that were frozen and are still being read.

    :meth:`add` and :meth:`keep` are for the owner of the arrays, while nobody writes to them.
    """

    def __init__(self) -> None:
        self._frozen: list[FrozenRows] = []

    def add(self, frozen: FrozenRows) -> FrozenRows:
        """Have it told from now on."""
        self._frozen.append(frozen)
        return frozen

    @property
    def active(self) -> bool:
        """Whether :meth:`keep` has to be called."""
        if self._frozen:
            self._frozen = [frozen for frozen in self._frozen if not frozen.closed]
        return bool(self._frozen)

    def keep(self, *rows: NDArray[np.int64]) -> None:
        """These rows are about to be written."""
        for frozen in self._frozen:
            for each in rows:
                frozen.keep(each)


@dataclass(frozen=True, slots=True)
class FrozenState:
    """A :class:`~stream_ctr.state.state.State` whose large arrays come in pieces, once.

    It is a context: at its end nothing is kept for it any longer.
    """

    arrays: dict[str, Source]
    values: dict[str, Json] = field(default_factory=dict)
    views: tuple[FrozenRows, ...] = ()
    """What some of the arrays are pieces of."""

    @classmethod
    def of(cls, part: Stateful) -> FrozenState:
        """The present state of a part; a copy where it cannot be frozen."""
        if isinstance(part, Freezable):
            return part.freeze()
        state = part.state()
        return cls(dict(state.arrays), state.values)

    @classmethod
    def gather(cls, parts: Mapping[str, FrozenState | State]) -> FrozenState:
        """Join the states of named parts as :meth:`.state.State.gather` does."""
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
        """The whole state at once."""
        arrays: Arrays = {name: whole(source) for name, source in self.arrays.items()}
        return State(arrays, self.values)

    def __enter__(self) -> FrozenState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Keep nothing for it any longer."""
        for view in self.views:
            view.close()


@runtime_checkable
class Freezable(Protocol):
    """A part whose state need not be copied to be written."""

    def freeze(self) -> FrozenState:
        """What ``state()`` gives now, readable in another thread while the part goes on."""
        ...


def pieces_of(source: Source) -> Iterator[NDArray[Any]]:
    """A source piece by piece; an array is one piece."""
    if isinstance(source, np.ndarray):
        yield source
    else:
        yield from source.pieces()


def whole(source: Source) -> NDArray[Any]:
    """All pieces in one array of its own; an array is handed back as it is."""
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
    """Write those of rows [N] to new that are not known [V] yet, and know them; how many they are."""
    count = 0
    for row in rows:
        if 0 <= row < len(known) and not known[row]:
            known[row] = True
            new[count] = row
            count += 1
    return count
