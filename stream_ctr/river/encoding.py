"""From raw dicts to 64-bit keys, without a declared schema: features are added as they appear in the stream.

The type of each value, in each event, determines its keys:

===================  ===============================================================================
text, bool           its text, as everywhere (:mod:`stream_ctr.features.keys.values`)
number               two keys: its quantile bucket among the values of the feature so far, and its rounding
                     to three significant bits, which is informative from the first event on
list, tuple, set     each element as its text; at most ``max_values`` of them
None, NaN, NA, NaT,  missing: an ordinary value of a feature that has appeared before
the empty text
===================  ===============================================================================

The network has a fixed number of fields. Each feature gets its own field when it is first learned; new
features of one event are ordered by name. When only the last field is left, all further features share it,
like a list of (name, value) pairs. Sharing mixes their embeddings but not their keys.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import RecordError, StateError, UsageError
from stream_ctr.features.keys.canonical import CANONICAL_MISSING, canonical_bucket
from stream_ctr.features.keys.column import MAX_BUCKETS, shown
from stream_ctr.features.keys.quantiles import QuantileBuckets
from stream_ctr.features.keys.values import plain_text, text_of
from stream_ctr.kernels.xxhash64 import hash_keys, hash_text
from stream_ctr.state.state import Json, State

SHARED_SLOTS: Final = 32
"""Maximum number of values of the shared field in one event."""
NUMBER_SLOTS: Final = 2
"""Keys of one number."""
_TEXT_TAG, _ROUNDED_TAG = b"\x01", b"\x04"
_SIGNIFICANT: Final = 8
"""Rounding steps from one power of two to the next; sign and zero are separate."""

Features = Mapping[Hashable, Any]
Parsed = dict[Hashable, "float | list[bytes]"]
"""Present features of one event: each a number, or the canonical bytes of its values."""


@dataclass(slots=True)
class _Place:
    """A feature with its own field."""

    seed: int
    missing: int
    """Key of the missing value."""
    summary: QuantileBuckets
    """Quantile summary of the feature's numbers; empty if it has had none."""
    buckets: dict[int, int] = field(default_factory=dict)
    """Cache of bucket keys."""


class DictEncoder:
    """Keys of raw dicts; :meth:`keys` adds new features to the schema, :meth:`peek` changes nothing.

    >>> encoder = DictEncoder(fields=3, max_values=2, buckets=16)
    >>> first = encoder.keys(encoder.parse({"site": "news", "price": 9.5}))
    >>> encoder.names
    ['price', 'site']
    >>> again = encoder.peek(encoder.parse({"price": 9.5, "site": "news"}))
    >>> bool((first == again).all())
    True
    """

    def __init__(self, fields: int, max_values: int, buckets: int) -> None:
        """Raises UsageError if a setting is out of range."""
        for name, value, least in (("fields", fields, 2), ("max_values", max_values, NUMBER_SLOTS)):
            if value < least:
                raise UsageError(f"{name} must be at least {least}, got {value}")
        if not 2 <= buckets <= MAX_BUCKETS:
            raise UsageError(f"buckets must be between 2 and {MAX_BUCKETS}, got {buckets}")
        self.fields, self.max_values, self.buckets = fields, max_values, buckets
        own = np.repeat(np.arange(fields - 1, dtype=np.int32), max_values)
        self.slot_field = np.append(own, np.full(SHARED_SLOTS, fields - 1, np.int32))
        """[S] field index of each slot."""
        self.truncated = 0
        """Number of values dropped because no slot was free."""
        self._places: dict[Hashable, _Place] = {}

    @property
    def names(self) -> list[Hashable]:
        """Features with their own field, in the order of the fields."""
        return list(self._places)

    def parse(self, x: Features) -> Parsed:
        """The present features of an event; changes nothing.

        Raises:
            RecordError: a name or value has an unsupported type; the message gives both.
        """
        parsed: Parsed = {}
        for name, value in x.items():
            if name not in self._places:
                _json_name(name)  # raises if the name cannot be saved
            found = _parse_value(name, value)
            if found is not None:
                parsed[name] = found
        return parsed

    def keys(self, parsed: Parsed) -> NDArray[np.uint64]:
        """Keys uint64 [S] of the next event of the stream; 0 in empty slots.

        The numbers of an event are assigned to buckets before they update the quantiles.
        """
        new = [name for name in parsed if name not in self._places]
        free = self.fields - 1 - len(self._places)
        for name in sorted(new, key=_text_name)[:free]:
            self._add(name)
        keys, truncated = self._keys(parsed)
        self.truncated += truncated
        for name, value in parsed.items():
            if isinstance(value, float) and math.isfinite(value) and name in self._places:
                self._places[name].summary.observe(value)
        return keys

    def peek(self, parsed: Parsed) -> NDArray[np.uint64]:
        """Keys uint64 [S] of an event under the current schema; new features use the shared field."""
        return self._keys(parsed)[0]

    def _add(self, name: Hashable) -> None:
        seed = hash_text(_text_name(name))
        missing = hash_keys([CANONICAL_MISSING], [seed])[0]
        self._places[name] = _Place(seed, missing, QuantileBuckets(self.buckets))

    def _keys(self, parsed: Parsed) -> tuple[NDArray[np.uint64], int]:
        """Keys [S], and the number of values without a slot."""
        keys = np.zeros(len(self.slot_field), np.uint64)
        texts: list[bytes] = []
        seeds: list[int] = []
        spans: list[tuple[int, int, list[int]]] = []  # first slot, number of hashes, known keys
        for index, (name, place) in enumerate(self._places.items()):
            value, start = parsed.get(name), index * self.max_values
            if value is None:
                keys[start] = place.missing
                continue
            known: list[int] = []
            values = value if isinstance(value, list) else [_rounded(value)]
            if isinstance(value, float):
                known.append(self._bucket_key(place, value))
            texts += values
            seeds += [place.seed] * len(values)
            spans.append((start, len(values), known))
        shared = 0
        for name in sorted(parsed.keys() - self._places.keys(), key=_text_name):
            value, seed = parsed[name], hash_text(_text_name(name))
            values = value if isinstance(value, list) else [_rounded(value)]
            texts += values
            seeds += [seed] * len(values)
            shared += len(values)
        spans.append(((self.fields - 1) * self.max_values, shared, []))
        return keys, self._place_hashes(keys, spans, hash_keys(texts, seeds))

    def _place_hashes(
        self, keys: NDArray[np.uint64], spans: Sequence[tuple[int, int, list[int]]], hashes: list[int]
    ) -> int:
        """Write the first keys of each span into its slots, ascending; returns the number without a slot."""
        done = truncated = 0
        last = spans[-1][0]
        for start, count, known in spans:
            room = SHARED_SLOTS if start == last else self.max_values
            found = list(dict.fromkeys([*hashes[done : done + count], *known]))
            done += count
            truncated += max(0, len(found) - room)
            taken = sorted(found[:room])
            keys[start : start + len(taken)] = taken
        return truncated

    def _bucket_key(self, place: _Place, value: float) -> int:
        bucket = place.summary.bucket(value)
        key = place.buckets.get(bucket)
        if key is None:
            key = place.buckets[bucket] = hash_keys([canonical_bucket(bucket)], [place.seed])[0]
        return key

    def state(self) -> State:
        """Names in the order of the fields, with the quantile summary of each."""
        parts = {f"field{index}": place.summary.state() for index, place in enumerate(self._places.values())}
        gathered = State.gather(parts)
        names: list[Json] = [_json_name(name) for name in self._places]
        own: dict[str, Json] = {"names": names, "truncated": self.truncated}
        return State(gathered.arrays, {**gathered.values, **own})

    def load_state(self, state: State) -> None:
        """Restore the encoder that produced ``state``; on an error the encoder is unchanged.

        Raises:
            StateError: the state is damaged, or belongs to other settings.
        """
        names, truncated = state.values.get("names"), state.values.get("truncated")
        if not isinstance(names, list) or len(names) >= self.fields or not isinstance(truncated, int):
            raise StateError(f"the saved schema has the names {shown(names)} for {self.fields} fields")
        fresh = DictEncoder(self.fields, self.max_values, self.buckets)
        for index, saved in enumerate(names):
            name = _from_json_name(saved)
            fresh._add(name)
            fresh._places[name].summary.load_state(state.part(f"field{index}"))
        self._places, self.truncated = fresh._places, truncated


def _parse_value(name: Hashable, value: Any) -> float | list[bytes] | None:
    """A number, the canonical bytes of texts, or None if the value is missing."""
    if isinstance(value, str | bool | np.bool_):
        return None if value == "" else [_text_bytes(value)]
    if isinstance(value, numbers.Real):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf if value > Fraction(0) else -math.inf
        return None if math.isnan(number) else number
    if isinstance(value, list | tuple | set | frozenset):
        elements = [_element_bytes(name, element) for element in value]
        if isinstance(value, set | frozenset):  # sets have no order
            elements.sort(key=lambda element: element or b"")
        return [element for element in elements if element is not None] or None
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise RecordError(
        f"feature {shown(name)}: {shown(value)} ({type(value).__name__}) is not a text, bool, number or list "
        "of these; convert it"
    )


def _element_bytes(name: Hashable, element: Any) -> bytes | None:
    """Canonical bytes of one element of a list; None if it is missing."""
    if isinstance(element, str | bool | np.bool_):
        return None if element == "" else _text_bytes(element)
    if isinstance(element, numbers.Integral):
        return _text_bytes(int(element))  # keep every digit of an id
    if isinstance(element, list | tuple | set | frozenset):
        raise RecordError(
            f"feature {shown(name)}: list element {shown(element)} ({type(element).__name__}) must be a "
            "text, bool or number"
        )
    number = _parse_value(name, element)
    if not isinstance(number, float):
        return None
    return _text_bytes(number)


def _text_bytes(value: object) -> bytes:
    """Canonical bytes of a text, boolean or number; integers of any size and infinities are allowed."""
    if isinstance(value, str):
        text = plain_text(value)
    elif isinstance(value, bool | np.bool_):
        text = text_of(bool(value))
    elif isinstance(value, float) and math.isfinite(value):
        text = text_of(value)
    else:
        text = str(value)
    return _TEXT_TAG + text.encode("utf-8", "surrogatepass")


def _rounded(value: float) -> bytes:
    """The number rounded to three significant bits, as bytes; the same in every stream."""
    if value == 0.0 or not math.isfinite(value):
        return _ROUNDED_TAG + repr(value + 0.0).encode()  # -0.0 is 0.0
    mantissa, exponent = math.frexp(value)  # 0.5 <= |mantissa| < 1
    return _ROUNDED_TAG + f"{math.trunc(mantissa * 2 * _SIGNIFICANT)}e{exponent}".encode()


def _json_name(name: Hashable) -> Json:
    """A feature's name as JSON: texts, numbers, bools, None, and tuples of these as lists.

    Raises:
        RecordError: the name has another type.
    """
    if name is None or isinstance(name, str | bool | int | float):
        return name
    if isinstance(name, numbers.Integral):
        return int(name)
    if isinstance(name, tuple):
        return [_json_name(part) for part in name]
    raise RecordError(
        f"feature name {shown(name)} ({type(name).__name__}) is not a text, number or tuple of these"
    )


def _from_json_name(saved: Json) -> Hashable:
    if isinstance(saved, list):
        return tuple(_from_json_name(part) for part in saved)
    if isinstance(saved, dict):
        raise StateError(f"the saved schema contains the invalid name {shown(saved)}")
    return saved


def _text_name(name: Hashable) -> str:
    """A name as text; it determines the seed of its keys and the order of names."""
    return json.dumps(_json_name(name))
