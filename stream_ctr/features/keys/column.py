"""One field of the schema at run time: its slots and the conversion of its values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from stream_ctr.config.features import FieldConfig
from stream_ctr.errors import ConfigError, RecordError
from stream_ctr.features.keys.canonical import CANONICAL_MISSING, TEXT_TAG, canonical_bucket, canonical_text
from stream_ctr.features.keys.quantiles import QuantileBuckets
from stream_ctr.features.keys.values import may_need_rewriting, number_of, text_of, whole_of
from stream_ctr.kernels.xxhash64 import ABSENT_KEY, hash_keys, hash_text

MAX_BUCKETS = 1 << 16

V = TypeVar("V")


class Column:
    """A field, its seed and its precomputed keys.

    The methods convert a logged value to the form that is hashed, or raise RecordError.
    """

    def __init__(self, config: FieldConfig, slot: int) -> None:
        self.name = config.name
        self.kind = config.kind
        self.slot = slot
        """The field's first slot."""
        self.width = config.max_values if config.kind == "multi" else 1
        """Number of slots of the field."""
        self.keeps_last = config.keep == "last"
        """Whether a list above ``max_values`` keeps its last values instead of its first."""
        self.seed = hash_text(config.name)
        self.missing_key = hash_keys([CANONICAL_MISSING], [self.seed])[0]
        self.boundaries = config.boundaries
        learns = config.kind == "float" and not config.boundaries
        self.learned = QuantileBuckets(config.buckets) if learns else None
        buckets = range(config.buckets if learns else len(config.boundaries) + 1)
        self.bucket_keys = hash_keys([canonical_bucket(b) for b in buckets], [self.seed] * len(buckets))

    def text(self, value: object) -> str:
        """Text of a categorical value; see :mod:`stream_ctr.features.keys.values`."""
        return self._converted(text_of, value)

    def integer(self, value: object) -> int:
        """An integer before its transformation."""
        return self._converted(whole_of, value)

    def number(self, value: object) -> float:
        """A float value."""
        return self._converted(number_of, value)

    def list_keys(self, value: object) -> tuple[list[int], int]:
        """Keys of a list for the field's slots, ascending, and the number of values without a slot.

        Each distinct value counts once. The first or the last values of the list are kept; apart from that,
        their order does not matter.
        """
        if value is None or value == "" or value == []:
            return self._padded([self.missing_key]), 0
        if not isinstance(value, list):
            raise self._rejection(value)
        keys = self._item_keys(value)
        kept = keys[-self.width :] if self.keeps_last else keys[: self.width]
        return self._padded(sorted(kept)), len(keys) - len(kept)

    def _item_keys(self, items: list[Any]) -> list[int]:
        """Distinct keys of the values of a list, in order of their first or, with ``keep = last``, last
        occurrence."""
        texts = [item for item in items if item is not None and item != ""]
        if not texts:
            return [self.missing_key]
        try:
            rewritten = may_need_rewriting(TEXT_TAG + TEXT_TAG.join(texts))
        except TypeError:  # some items are not texts
            rewritten = True
        if rewritten:
            texts = [self.text(item) for item in texts]
        if self.keeps_last:
            texts.reverse()
        texts = list(dict.fromkeys(texts))
        try:
            tagged = [canonical_text(text) for text in texts]
        except UnicodeEncodeError:
            for text in texts:
                self.check_unicode(text)
            raise
        keys = list(dict.fromkeys(hash_keys(tagged, [self.seed] * len(texts))))
        return keys[::-1] if self.keeps_last else keys

    def _padded(self, keys: list[int]) -> list[int]:
        """The keys, followed by ABSENT_KEY for the remaining slots."""
        return keys + [ABSENT_KEY] * (self.width - len(keys))

    def check_unicode(self, text: str) -> None:
        """Raises RecordError if a lone surrogate leaves the text without a UTF-8 form."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RecordError(
                f"field {self.name!r}: the text {shown(text)} is not valid Unicode; send valid UTF-8"
            ) from error

    def _converted(self, convert: Callable[[object], V], value: object) -> V:
        try:
            return convert(value)
        except ValueError as error:
            if error.args and isinstance(value, (int, float)):
                raise RecordError(f"field {self.name!r}: {error}") from None
            raise self._rejection(value) from None

    def _rejection(self, value: object) -> RecordError:
        expected = {
            "categorical": "a text, number or boolean",
            "multi": "a list of texts, numbers or booleans",
            "integer": "a whole number",
            "float": "a number",
        }[self.kind]
        return RecordError(
            f"field {self.name!r}: expected {expected}, got {shown(value)} ({type(value).__name__}); "
            "send null if the value is missing"
        )


def check_fields(fields: tuple[FieldConfig, ...]) -> None:
    """Check that the fields form a valid schema.

    Raises:
        ConfigError: no fields, a repeated name, or a setting outside its range.
    """
    if not fields:
        raise ConfigError("features.fields is empty: name at least one field, or a preset")
    names: set[str] = set()
    for item in fields:
        where = f"features.fields {item.name!r}"
        if not item.name or item.name in names:
            raise ConfigError(f"{where}: a field's name must not be empty and must occur once")
        names.add(item.name)
        if item.max_values < 1:
            raise ConfigError(f"{where}: max_values must be at least 1, got {item.max_values}")
        if item.keep != "first" and item.kind != "multi":
            raise ConfigError(f"{where}: keep applies only to multi fields, this field is {item.kind}")
        if not 2 <= item.buckets <= MAX_BUCKETS:
            raise ConfigError(f"{where}: buckets must be between 2 and {MAX_BUCKETS}, got {item.buckets}")
        if item.boundaries and item.kind != "float":
            raise ConfigError(f"{where}: boundaries apply only to float fields, this field is {item.kind}")
        ascending = all(a < b for a, b in zip(item.boundaries, item.boundaries[1:], strict=False))
        if not ascending or not all(map(math.isfinite, item.boundaries)):
            raise ConfigError(f"{where}: boundaries {list(item.boundaries)} must be finite and ascend")


def shown(value: object) -> str:
    """The value for a message, truncated so that the message stays one readable line."""
    text = ascii(value[:60] if isinstance(value, (str, list)) else value)
    return text if len(text) <= 60 else text[:60] + "..."
