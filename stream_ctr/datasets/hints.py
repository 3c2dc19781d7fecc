"""Remedies for files that do not match their schema: guesses for error messages, never for reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

SEPARATORS: Final = ("\t", "::", ";", "|", ",", " ")
_SHOWN: Final = {"\t": r'"\t"'}
_LABELS: Final = (
    ("True", "False"),
    ("TRUE", "FALSE"),
    ("1.0", "0.0"),
    ("1", "-1"),
    ("+1", "-1"),
    ("yes", "no"),
    ("Yes", "No"),
    ("YES", "NO"),
    ("y", "n"),
    ("Y", "N"),
    ("t", "f"),
    ("T", "F"),
    ("click", "no click"),
    ("clicked", "not clicked"),
    ("positive", "negative"),
)
"""How other programs write click and no click."""


def looks_like_separator(text: str, used: str, columns: int = 0, wanted: Iterable[str] = ()) -> str | None:
    """The likely separator, as TOML, of a line that ``used`` does not split; None without a candidate.

    It must yield ``columns`` cells or, if ``columns`` is 0, one of ``wanted``.

    >>> looks_like_separator("click;ad", ",", wanted=["click"])
    '";"'
    """
    names = set(wanted)
    for separator in SEPARATORS:
        cells = [cell.strip().strip('"') for cell in text.split(separator)]
        if separator == used or len(cells) == 1:
            continue
        if (len(cells) == columns) if columns else names & set(cells):
            return _SHOWN.get(separator, f'"{separator}"')
    return None


def no_such_column(name: str, columns: Sequence[str], delimiter: str, schema: bool) -> str:
    """The remedy for a missing column; ``schema`` tells whether the user wrote a schema."""
    if len(columns) == 1 and (found := looks_like_separator(columns[0], delimiter, wanted=[name])):
        if schema:
            return f"its columns seem to be separated by {found}; set delimiter = {found} in the schema"
        return f"its columns seem to be separated by {found} instead of {delimiter!r}; convert the file"
    if not schema:
        return "is it the right file?"
    if columns and columns[0].startswith("{"):
        return "its first line looks like JSON; read the file as the dataset jsonl"
    if f'"{name}"' in columns:
        return 'its names are in quotes; set quoting = "minimal" in the schema'
    listed = "[" + ", ".join(f'"c{number}"' for number in range(1, min(len(columns), 3) + 1))
    listed += ", ...]" if len(columns) > 3 else "]"
    return (
        "correct the name in the schema; or, if the file has no header line, name its columns there: "
        f"columns = {listed}"
    )


def label_remedy(value: object, positive: Sequence[str], negative: Sequence[str]) -> str:
    """The change to the schema for a label that is neither positive nor negative.

    >>> label_remedy("True", ["1"], ["0"])
    'set positive = ["True"] and negative = ["False"] in the schema'
    """
    text = value if isinstance(value, str) else None
    if text is None or not text.strip():
        return "a row needs a label; correct or remove it, or skip bad rows with --option on_bad_row=skip"
    if text.strip('"') in (*positive, *negative):
        return 'the label is in quotes; set quoting = "minimal" in the schema'
    for yes, no in _LABELS:
        if text in (yes, no):
            return f'set positive = ["{yes}"] and negative = ["{no}"] in the schema'
    shown = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        "if it is a label, add it to positive or negative in the schema, for instance "
        f"positive = [{_listed([*positive, shown])}]; otherwise correct or remove the line, or skip bad rows "
        "with --option on_bad_row=skip"
    )


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)
