"""The canonical form of a value, whatever its source: a text, an integer, a float, or missing.

A categorical value is a text. The rules are the same for a cell of a file, JSON and a tensor:

- A boolean is ``true`` or ``false``; so are the texts ``True``, ``TRUE``, ``False`` and ``FALSE``.
- A whole number is its decimal digits: 3, 3.0, 3e0 and -0.0 are ``3``, ``3``, ``3`` and ``0``. An integer is
  exact up to 63 bits. A float is the number that a double holds.
- Any other number is the shortest text that gives the same double: ``0.1``, ``1e-07``, ``1e+300``.
- A text stays as it is, with its blanks, signs and leading zeros. The one exception is a whole number in the
  notation that programs use for floats, with a point or with ``e+``: ``3.0``, ``3.00``, ``1e+16`` and
  ``1.0E7``. pandas and SQL write whole numbers so. ``1e3`` stays a text, since many hexadecimal ids look like
  it; ``1.10`` stays a text, since it is a version.

A value of an integer or float field is a number, or a text with a number: surrounding blanks, a plus sign and
leading zeros are ignored.

Missing is None, the empty text or an empty list.
"""

from __future__ import annotations

import math
import re
from typing import Final

LARGEST: Final = 2**63 - 1
"""Largest magnitude of a whole number."""
_TAG: Final = "\x01"
_BOOLEANS: Final = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
_FLOATED: Final = r"-?(?:0|[1-9][0-9]{0,18})(?:\.0+|(?:\.[0-9]+)?[eE]\+[0-9]{1,2}|\.[0-9]+E[0-9]{1,2})"
_FLOATED_TEXT: Final = re.compile(_FLOATED)
_REWRITTEN: Final = re.compile(rf"{_TAG}(?:{_FLOATED}|{'|'.join(_BOOLEANS)})(?={_TAG}|\Z)")
_FIRST: Final = frozenset("-0123456789TF")
"""First characters of the texts that :func:`plain_text` may rewrite."""
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MOST_CHARACTERS: Final = 400
"""Longest text that is parsed as a number."""


def may_need_rewriting(tagged: str) -> bool:
    """Whether :func:`plain_text` may change any of several texts; in ``tagged`` a tag precedes each text.

    One search through all texts costs less than a call for each, and a preliminary check for single
    characters costs a tenth of a search.
    """
    suspicious = (
        ("." in tagged and (".0" in tagged or "E" in tagged))
        or "+" in tagged
        or ("T" in tagged and f"{_TAG}T" in tagged)
        or ("F" in tagged and f"{_TAG}F" in tagged)
    )
    return suspicious and _REWRITTEN.search(tagged) is not None


def plain_text(text: str) -> str:
    """The canonical form of a text.

    >>> [plain_text(text) for text in ("3.0", "03", "1e3", "1.10", "True", "1e+16")]
    ['3', '03', '1e3', '1.10', 'true', '10000000000000000']
    """
    if text[:1] not in _FIRST:
        return text
    if _FLOATED_TEXT.fullmatch(text):
        number = float(text)
        if number.is_integer() and abs(number) <= LARGEST:
            return str(int(number))
    return _BOOLEANS.get(text, text)


def text_of(value: object) -> str:
    """The canonical text of a categorical value.

    Raises:
        ValueError: it is not a text, number or boolean, or it is an integer that is too large or a float that
            is not finite; for these two, the message gives the reason.

    >>> [text_of(value) for value in (3.0, 3, "3.0", True, 0.1)]
    ['3', '3', '3', 'true', '0.1']
    """
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(_checked(value))
    if isinstance(value, float):
        number = _finite(value)
        return str(int(number)) if number.is_integer() and abs(number) <= LARGEST else repr(number)
    raise ValueError


def whole_of(value: object) -> int:
    """A value as an integer.

    Raises:
        ValueError: it is not a whole number of at most 63 bits and a sign.

    >>> [whole_of(value) for value in (3, 3.0, "3.0", " +03 ", "1e3")]
    [3, 3, 3, 3, 1000]
    """
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if _DIGITS.fullmatch(text) else _parsed(text)
    if isinstance(value, float):
        if not _finite(value).is_integer():
            raise ValueError
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return _checked(value)


def number_of(value: object) -> float:
    """A value as a float.

    Raises:
        ValueError: it is not a finite number.

    >>> [number_of(value) for value in (3, 0.5, "1e-3", " +03.50")]
    [3.0, 0.5, 0.001, 3.5]
    """
    if isinstance(value, str):
        return _parsed(value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    return _finite(float(_checked(value)) if isinstance(value, int) else value)


def _parsed(text: str) -> float:
    """Parse a number: no underscores, no ``nan``, only the digits 0 to 9."""
    if len(text) > _MOST_CHARACTERS or not _NUMBER.fullmatch(text):
        raise ValueError
    return _finite(float(text))


def _checked(value: int) -> int:
    if abs(value) > LARGEST:
        raise ValueError(
            f"an integer of {value.bit_length()} bits is too large; "
            "send at most 63 bits and a sign, or send it as text"
        )
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number; send a finite number, or null if the value is missing")
    return float(value)
