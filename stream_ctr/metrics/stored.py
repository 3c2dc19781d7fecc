"""Taking values out of a saved state, which may be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stream_ctr.errors import StateError
from stream_ctr.state.state import State


def stored_integer(state: State, name: str) -> int:
    """The value of that name, a count.

    Raises:
        KeyError, ValueError: it is missing, or not a whole number of at least 0.
    """
    value = state.values[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a count")
    return value


@contextmanager
def damage_is_a_state_error(what: str) -> Iterator[None]:
    """Turn whatever reading a damaged state runs into into one line that a user can act on."""
    try:
        yield
    except StateError:
        raise
    except KeyError as error:
        raise StateError(f"the saved {what} lack {error}; go back to another checkpoint") from None
    except (ValueError, TypeError, IndexError) as error:
        raise StateError(f"the saved {what} are damaged ({error}); go back to another checkpoint") from None
