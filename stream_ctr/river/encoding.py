"""From raw dicts to 64-bit keys, over a schema that nobody declared and that grows with the stream.

How a value becomes keys is decided by its own type, event by event:

===================  ===============================================================================
text, bool           its text, as everywhere (:mod:`stream_ctr.features.keys.values`)
number               two keys: its quantile bucket among the feature's values so far, and its rounding to
                     three significant bits, which means something from the first event on
list, tuple, set     each of its elements, as its text; the first ``max_values`` count
None, NaN, pandas'   missing: an ordinary value of a feature that was seen before
own, the empty text
===================  ===============================================================================

The network has a fixed number of fields. Each feature gets a field of its own when it is first learned,
in the order of their names within an event; features that come when all but one are taken share the last
field, as a list of (name, value) pairs would. Sharing mixes their embeddings, never their keys.
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
"""Values that the shared field can hold in one event."""
NUMBER_SLOTS: Final = 2
"""Keys of one number."""
_TEXT_TAG, _ROUNDED_TAG = b"\x01", b"\x04"
_SIGNIFICANT: Final = 8
"""Steps of a rounded number from one power of two to the next, sign and zero apart."""

Features = Mapping[Hashable, Any]
Parsed = dict[Hashable, "float | list[bytes]"]
"""Present features of one event: a number, or the canonical bytes of its values."""


@dataclass(slots=True)
class _Place:
    """A feature that has a field of its own."""

    seed: int
    missing: int
    """Key of the missing value."""
    summary: QuantileBuckets
    """Of the feature's numbers; empty for a feature that has none."""
    buckets: dict[int, int] = field(default_factory=dict)
    """Keys of the buckets that were needed so far."""


class DictEncoder:
    """Keys of raw dicts; :meth:`keys` takes an event into the schema, :meth:`peek` changes nothing.

    >>> encoder = DictEncoder(fields=3, max_values=2, buckets=16)
    >>> first = encoder.keys(encoder.parse({"site": "news", "price": 9.5}))
    >>> encoder.names
    ['price', 'site']
    >>> again = encoder.peek(encoder.parse({"price": 9.5, "site": "news"}))
    >>> bool((first == again).all())
    True
    """

    def __init__(self, fields: int, max_values: int, buckets: int) -> None:
        """Raises UsageError for numbers that make no schema."""
        for name, value, least in (("fields", fields, 2), ("max_values", max_values, NUMBER_SLOTS)):
            if value < least:
                raise UsageError(f"{name} = {value} is too small; choose at least {least}")
        if not 2 <= buckets <= MAX_BUCKETS:
            raise UsageError(f"buckets = {buckets} is outside 2 to {MAX_BUCKETS}")
        self.fields, self.max_values, self.buckets = fields, max_values, buckets
        own = np.repeat(np.arange(fields - 1, dtype=np.int32), max_values)
        self.slot_field = np.append(own, np.full(SHARED_SLOTS, fields - 1, np.int32))
        """[S] index of the field of each slot."""
        self.truncated = 0
        """Values that found no slot."""
        self._places: dict[Hashable, _Place] = {}

    @property
    def names(self) -> list[Hashable]:
        """Features that have a field of their own, in the order of the fields."""
        return list(self._places)

    def parse(self, x: Features) -> Parsed:
        """The present features of an event; pure.

        Raises:
            RecordError: a name or value is of a type that has no meaning here; both are named.
        """
        parsed: Parsed = {}
        for name, value in x.items():
            if name not in self._places:
                _json_name(name)  # refuses what cannot be saved
            found = _parse_value(name, value)
            if found is not None:
                parsed[name] = found
        return parsed

    def keys(self, parsed: Parsed) -> NDArray[np.uint64]:
        """Keys uint64 [S] of an event that takes its place in the stream; 0 in empty slots.

        An event's own numbers are bucketed before they are observed.
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
        """The keys uint64 [S] of an event as things stand; a feature never learned has none."""
        return self._keys(parsed)[0]

    def _add(self, name: Hashable) -> None:
        seed = hash_text(_text_name(name))
        missing = hash_keys([CANONICAL_MISSING], [seed])[0]
        self._places[name] = _Place(seed, missing, QuantileBuckets(self.buckets))

    def _keys(self, parsed: Parsed) -> tuple[NDArray[np.uint64], int]:
        """Keys [S], and how many values found no slot."""
        keys = np.zeros(len(self.slot_field), np.uint64)
        texts: list[bytes] = []
        seeds: list[int] = []
        spans: list[tuple[int, int, list[int]]] = []  # first slot, hashes to come, keys that are known
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
        """Write the first keys of each span into its slots, ascending; how many found no slot."""
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
        """Names in the order of the fields, and each one's quantile summary."""
        parts = {f"field{index}": place.summary.state() for index, place in enumerate(self._places.values())}
        gathered = State.gather(parts)
        names: list[Json] = [_json_name(name) for name in self._places]
        own: dict[str, Json] = {"names": names, "truncated": self.truncated}
        return State(gathered.arrays, {**gathered.values, **own})

    def load_state(self, state: State) -> None:
        """Become the encoder that handed out ``state``; on an error the encoder is as it was.

        Raises:
            StateError: it is damaged, or of other settings.
        """
        names, truncated = state.values.get("names"), state.values.get("truncated")
        if not isinstance(names, list) or len(names) >= self.fields or not isinstance(truncated, int):
            raise StateError(f"the saved schema names {shown(names)} for {self.fields} fields")
        fresh = DictEncoder(self.fields, self.max_values, self.buckets)
        for index, saved in enumerate(names):
            name = _from_json_name(saved)
            fresh._add(name)
            fresh._places[name].summary.load_state(state.part(f"field{index}"))
        self._places, self.truncated = fresh._places, truncated


def _parse_value(name: Hashable, value: Any) -> float | list[bytes] | None:
    """A number, canonical bytes of texts, or None where the value is missing."""
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
        if isinstance(value, set | frozenset):  # no element of it comes first
            elements.sort(key=lambda element: element or b"")
        return [element for element in elements if element is not None] or None
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise RecordError(
        f"feature {shown(name)}: {shown(value)} ({type(value).__name__}) where a text, bool, number or list "
        "of these is due; turn it into one of them"
    )


def _element_bytes(name: Hashable, element: Any) -> bytes | None:
    """Canonical bytes of one element of a list; None where it is missing."""
    if isinstance(element, str | bool | np.bool_):
        return None if element == "" else _text_bytes(element)
    if isinstance(element, numbers.Integral):
        return _text_bytes(int(element))  # every digit of an id counts
    if isinstance(element, list | tuple | set | frozenset):
        raise RecordError(
            f"feature {shown(name)}: its list holds {shown(element)} ({type(element).__name__}); "
            "an element must be a text, bool or number"
        )
    number = _parse_value(name, element)
    if not isinstance(number, float):
        return None
    return _text_bytes(number)


def _text_bytes(value: object) -> bytes:
    """Canonical bytes of a text, boolean or number; integers and infinities have no bounds here."""
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
    """The number to three significant bits, as bytes; stateless, so any two streams agree on it."""
    if value == 0.0 or not math.isfinite(value):
        return _ROUNDED_TAG + repr(value + 0.0).encode()  # -0.0 is 0.0
    mantissa, exponent = math.frexp(value)  # 0.5 <= |mantissa| < 1
    return _ROUNDED_TAG + f"{math.trunc(mantissa * 2 * _SIGNIFICANT)}e{exponent}".encode()


def _json_name(name: Hashable) -> Json:
    """A feature's name as JSON: texts, numbers, bools, None, and tuples of them as lists.

    Raises:
        RecordError: it is none of these.
    """
    if name is None or isinstance(name, str | bool | int | float):
        return name
    if isinstance(name, numbers.Integral):
        return int(name)
    if isinstance(name, tuple):
        return [_json_name(part) for part in name]
    raise RecordError(
        f"the feature's name {shown(name)} ({type(name).__name__}) is not a text, number or tuple of these"
    )


def _from_json_name(saved: Json) -> Hashable:
    if isinstance(saved, list):
        return tuple(_from_json_name(part) for part in saved)
    if isinstance(saved, dict):
        raise StateError(f"the saved schema holds the name {shown(saved)}")
    return saved


def _text_name(name: Hashable) -> str:
    """A name's text: what its seed is made of, and what names are ordered by."""
    return json.dumps(_json_name(name))
