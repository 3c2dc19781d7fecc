"""Types and ranges of the configuration's keys, and pydantic's validation errors as one line of text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

Path = Sequence[str | int]
"""Keys of tables and positions in lists, such as ``("experiment", "arms", 0, "name")``."""

TYPES: Final = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "object": "a table",
}
"""What a user calls the types of JSON schema."""
UNKNOWN: Final = ("extra_forbidden", "unexpected_keyword_argument")
"""Pydantic's error types for a key that a table does not have."""
LONGEST: Final = 80
"""Characters of a wrong value that an error repeats."""


class Keys:
    """The keys below a settings class, as its JSON schema describes them."""

    def __init__(self, settings: type[BaseModel]) -> None:
        self.schema = settings.model_json_schema()

    def node(self, path: Path) -> dict[str, Any] | None:
        """JSON schema of the value at a path, references resolved; None if there is no such key."""
        found = self._declared(path)
        return None if found is None else self._resolved(found)

    def meaning(self, path: Path) -> str:
        """Docstring of a key; if the schema has none for the key, that of its table."""
        declared, node = self._declared(path) or {}, self.node(path) or {}
        return " ".join((declared.get("description") or node.get("description", "")).split())

    def _declared(self, path: Path) -> dict[str, Any] | None:
        """JSON schema at a path, the last reference not resolved."""
        found: dict[str, Any] | None = self.schema
        for part in path:
            owner = self._resolved(found or {})
            found = owner.get("items") if isinstance(part, int) else owner.get("properties", {}).get(part)
        return found

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        for choice in node.get("anyOf", ()):  # a table that may be left out
            if choice.get("type") != "null":
                node = choice
        if "$ref" in node:
            found: dict[str, Any] = self.schema["$defs"][node["$ref"].rpartition("/")[2]]
            return found
        return node

    def unknown(self, path: Path, table: Mapping[str, Any]) -> str:
        """Error message for a key that does not exist, with the nearest one that does."""
        *above, key = path
        owner = self.node(above) or {}
        known = owner.get("properties", {})
        where = key_name(above, table)
        in_list = any(isinstance(part, int) for part in above)
        prefix = f"{where}." if where and not in_list else ""
        message = f"unknown key '{prefix}{key}'" + (f" in {where.rstrip(':')}" if in_list else "")
        if owner.get("type") == "array":
            return f"{message}; {where} is a list: give all of it, as JSON"
        if not known:
            return f"{message}; {where} has no keys of its own"
        match = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        if match:
            return f"{message}; did you mean '{prefix}{match[0]}'?"
        return f"{message}; known here: {', '.join(known)}"

    def explain(self, error: Mapping[str, Any], table: Mapping[str, Any]) -> str:
        """One of pydantic's validation errors in the words of the configuration file.

        Args:
            error: an entry of ``ValidationError.errors()``.
            table: what was validated; entries of a list are called by their ``name``.
        """
        path = error["loc"]
        if error["type"] in UNKNOWN:
            return self.unknown(path, table)
        name, node = key_name(path, table), self.node(path) or {}
        if error["type"] == "missing":
            return f"{name} is missing; add it"
        value = _shown(error["input"], node)
        if "enum" in node:
            *others, last = map(repr, node["enum"])
            match = difflib.get_close_matches(str(error["input"]), node["enum"], n=1)
            hint = f"; did you mean {match[0]!r}?" if match else ""
            return f"{name} must be {', '.join(others)} or {last}, got {value}{hint}"
        limits = _limits(node)
        if error["type"].startswith(("greater_than", "less_than")):
            return f"{name} must be {limits}, got {value}"
        expected = f"{TYPES[node['type']]} {limits}".rstrip()
        return f"{name} must be {expected}, got {value}"


def key_name(path: Path, table: Any) -> str:
    """A path as the configuration file spells it; an entry of a list is called by its name, if it has one.

    >>> key_name(("experiment", "arms", 0, "weight"), {"experiment": {"arms": [{"name": "a"}]}})
    "experiment.arms 'a': weight"
    >>> key_name(("model", "hidden", 1), {"model": {"hidden": [8, 0]}})
    'model.hidden[1]'
    """
    text = ""
    for part in path:
        try:
            table = table[part]
        except (LookupError, TypeError):
            table = None
        if isinstance(part, int):
            name = table.get("name") if isinstance(table, Mapping) else None
            text += f" {name!r}:" if isinstance(name, str) else f"[{part}]"
        else:
            text += f" {part}" if text.endswith(":") else f".{part}" if text else part
    return text


def _limits(node: Mapping[str, Any]) -> str:
    """The values that a number may have.

    >>> _limits({"minimum": 1, "maximum": 4096}), _limits({"exclusiveMinimum": 0, "maximum": 1.0})
    ('between 1 and 4,096', 'above 0 and at most 1')
    >>> _limits({"minimum": 0.01}), _limits({})
    ('at least 0.01', '')
    """
    above, low, high = (node.get(name) for name in ("exclusiveMinimum", "minimum", "maximum"))
    if low is not None and high is not None:
        return f"between {_number(low)} and {_number(high)}"
    words = (("above", above), ("at least", low), ("at most", high))
    return " and ".join(f"{word} {_number(limit)}" for word, limit in words if limit is not None)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _shown(value: Any, node: Mapping[str, Any]) -> str:
    """A wrong value. A string in the place of a table stays unprinted: it may be an address with a login."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, str) and node.get("type") == "object":
        return "a string"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
