"""A configuration as TOML that loads as the same configuration, with each key's docstring as a comment."""

from __future__ import annotations

import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Final

import tomlkit
from pydantic import ConfigDict
from tomlkit.items import AoT, Item, Table

from stream_ctr.config.keys import Keys, Path
from stream_ctr.config.settings import Settings

WIDTH: Final = 98
"""Columns of a comment, without its mark."""
HEADER: Final = "Every key with its meaning, value and default. In a list, the first entry explains the keys."


class _Documented(Settings):
    """The settings with the docstrings of their keys.

    Reading them takes a tenth of a second, which only this module needs to spend.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)


def as_toml(settings: Settings) -> str:
    """All keys with their meaning, value and default.

    >>> print(as_toml(Settings()).partition("[losses]")[2].partition("# While")[0].strip())
    # When to warn about records that were read but not used.
    <BLANKLINE>
    # Largest share of the impressions (or clicks) read that may be dead letters, late, orphaned or
    # otherwise dropped without a warning; 1 never warns.
    warn_share = 0.01  # default
    """
    keys, document = _keys(), tomlkit.document()
    document.add(tomlkit.comment(HEADER))
    for name in type(settings).model_fields:
        document.add(tomlkit.nl())
        document.add(name, _table(getattr(settings, name), keys, (name,)))
    return tomlkit.dumps(document)


@cache
def _keys() -> Keys:
    return Keys(_Documented)


def _table(owner: Any, keys: Keys, path: Path, explained: bool = True) -> Table:
    """A dataclass as a table. Inner tables come last: a key after one of them would belong to it."""
    table = tomlkit.table()
    if explained:
        of_list = f"{keys.meaning(path[:-1])} " if isinstance(path[-1], int) else ""
        _explain(table, of_list + (keys.node(path) or {}).get("description", ""))
    for field in sorted(fields(owner), key=lambda field: _is_table(getattr(owner, field.name))):
        name, value = field.name, getattr(owner, field.name)
        if explained and not _is_table(value):
            table.add(tomlkit.nl())
            _explain(table, keys.meaning((*path, name)))
        if value is None:
            table.add(tomlkit.comment(f"{name} is not set"))
        elif is_dataclass(value):
            table.add(name, _table(value, keys, (*path, name), explained))
        elif _is_table(value):
            entries = (
                _table(entry, keys, (*path, name, index), explained and index == 0)
                for index, entry in enumerate(value)
            )
            table.add(name, AoT(list(entries)))
        else:
            table.add(name, _with_default(_item(value), field))
    return table


def _is_table(value: Any) -> bool:
    return is_dataclass(value) or (isinstance(value, tuple) and any(map(is_dataclass, value)))


def _item(value: Any) -> Item:
    item: Item = tomlkit.item(list(value) if isinstance(value, tuple) else value)
    return item


def _with_default(item: Item, field: Field[Any]) -> Item:
    """The value with its default, or a mark that it is the default, behind it."""
    if field.default is not MISSING:
        default = _item(field.default).as_string()
        item.comment("default" if item.as_string() == default else f"default: {default}")
        item.trivia.comment_ws = "  "
    return item


def _explain(table: Table, docstring: str) -> None:
    text = " ".join(docstring.replace("``", "`").split())
    for line in textwrap.wrap(text, WIDTH):
        table.add(tomlkit.comment(line))
