"""State that can be saved and loaded: named arrays and plain JSON values.

Each stateful part of the system exports its state as a :class:`State` and loads it again. Checkpoints
and snapshots are files of such states; nothing is ever pickled. A saved state may be damaged, so its values
are checked when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError

Arrays = dict[str, NDArray[Any]]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class State:
    """Arrays by name and JSON values by name.

    >>> import numpy as np
    >>> inner = State({"counts": np.zeros(2)}, {"seen": 3})
    >>> outer = State.gather({"frequency": inner})
    >>> sorted(outer.arrays), outer.values
    (['frequency.counts'], {'frequency': {'seen': 3}})
    >>> outer.part("frequency").values
    {'seen': 3}
    """

    arrays: Arrays = field(default_factory=dict)
    values: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def gather(cls, parts: Mapping[str, State]) -> State:
        """Join the states of named parts: array names get the prefix ``name.``, values nest."""
        arrays: Arrays = {}
        values: dict[str, Json] = {}
        for name, state in parts.items():
            arrays.update({f"{name}.{key}": array for key, array in state.arrays.items()})
            values[name] = state.values
        return cls(arrays, values)

    def part(self, name: str) -> State:
        """The state of one part of a gathered state."""
        prefix = f"{name}."
        values = self.values.get(name, {})
        if not isinstance(values, dict):
            raise TypeError(f"state values of part {name!r} are {type(values).__name__}, not a table")
        arrays = {key[len(prefix) :]: array for key, array in self.arrays.items() if key.startswith(prefix)}
        return State(arrays, values)

    def equals(self, other: State) -> bool:
        """Whether both are bit-identical: same names, dtypes, shapes, bytes and values."""
        if self.values != other.values or self.arrays.keys() != other.arrays.keys():
            return False
        return all(
            a.dtype == (b := other.arrays[name]).dtype
            and a.shape == b.shape
            and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
            for name, a in self.arrays.items()
        )


class Stateful(Protocol):
    """A part of the system that a checkpoint can hold."""

    def state(self) -> State:
        """A copy of everything that determines future behaviour."""
        ...

    def load_state(self, state: State) -> None:
        """Restore a state that ``state()`` returned."""
        ...


def stored_integer(state: State, name: str) -> int:
    """The count of that name.

    Raises:
        KeyError, ValueError: it is missing or not an integer of at least 0.
    """
    value = state.values[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a count")
    return value


@contextmanager
def damage_is_a_state_error(what: str) -> Iterator[None]:
    """Turn the errors of reading a damaged state into one line that a user can act on."""
    try:
        yield
    except StateError:
        raise
    except KeyError as error:
        raise StateError(f"the saved {what} lack {error}; restore another checkpoint") from None
    except (ValueError, TypeError, IndexError) as error:
        raise StateError(f"the saved {what} are damaged ({error}); restore another checkpoint") from None
