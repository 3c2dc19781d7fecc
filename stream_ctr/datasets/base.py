"""The contract of dataset readers, and the registry of readers and field presets.

A dataset is a class of keyword options with ``name``, ``fields``, ``note`` and ``read``. Readers stream:
memory does not grow with the file, except for the side tables of some formats. A configuration lists its
fields or names a dataset's preset.
"""

from __future__ import annotations

import difflib
import importlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields as dataclass_fields
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.registry import DATASETS, find, names
from stream_ctr.errors import ConfigError, UsageError
from stream_ctr.events.records import FeatureValue

READERS = {
    "criteo": "stream_ctr.datasets.criteo:Criteo",
    "avazu": "stream_ctr.datasets.avazu:Avazu",
    "taobao": "stream_ctr.datasets.taobao:Taobao",
    "open-bandit": "stream_ctr.datasets.open_bandit:OpenBandit",
    "delimited": "stream_ctr.datasets.delimited:Delimited",
    "jsonl": "stream_ctr.datasets.jsonl:JsonLines",
}
PRESETS = {
    "criteo": "stream_ctr.datasets.criteo:CRITEO_FIELDS",
    "avazu": "stream_ctr.datasets.avazu:AVAZU_FIELDS",
    "taobao": "stream_ctr.datasets.taobao:TAOBAO_FIELDS",
    "open-bandit": "stream_ctr.datasets.open_bandit:OPEN_BANDIT_FIELDS",
    "world": "stream_ctr.datasets.world:WORLD_FIELDS",
}
WITHOUT_PATH = frozenset({"world"})
"""Datasets that are generated, not read, and so take no path."""


class Example(NamedTuple):
    """One impression with its outcome. A missing feature has no entry in ``features``."""

    event_id: str
    time_ms: int
    user: str
    features: dict[str, FeatureValue]
    label: int
    """1 clicked, 0 not."""
    bid: float = 0.0
    click_delay_ms: int | None = None
    """Time from impression to click, at least 1; None if unknown."""
    truth: float | None = None
    """Ground-truth click probability of a simulator, else None; for measurement only."""
    propensity: float | None = None
    """Probability with which the logging policy showed this item; None if it was not logged."""


class Dataset(Protocol):
    """A reader with its options."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        ...

    @property
    def fields(self) -> tuple[FieldConfig, ...]:
        """The preset schema of the dataset."""
        ...

    @property
    def note(self) -> str:
        """Caveats that a report must state: synthesised times, order, missing tables."""
        ...

    def read(self, path: str | PathLike[str], limit: int | None = None) -> Iterator[Example]:
        """The first ``limit`` examples in file order, or all of them.

        Raises:
            DataError: the file is unreadable or truncated, or a line does not match the format.
        """
        ...


def dataset_names() -> tuple[str, ...]:
    """Names that :func:`open_dataset` accepts.

    >>> "criteo" in dataset_names()
    True
    """
    return (*READERS, *(name for name in names(DATASETS) if name not in READERS))


def open_dataset(
    name: str, path: str | PathLike[str] | None = None, options: Mapping[str, str] | None = None
) -> Dataset:
    """The reader of that name with its options, given as text.

    ``path`` is the path that the caller is about to read. It is only checked for existence, so that a wrong
    path fails early; None skips the check.

    Raises:
        UsageError: the dataset, the option or the path does not exist, or an option's value has the wrong
            type.
    """
    reader = _reader(name)
    if path is not None and name not in WITHOUT_PATH and not Path(path).exists():
        raise UsageError(f"no such file or folder: {path}; give the path of the {name} data")
    dataset: Dataset = reader(**convert_options(name, reader, options or {}))
    return dataset


def preset_fields(name: str) -> tuple[FieldConfig, ...]:
    """The preset fields of the dataset of that name.

    >>> preset_fields("criteo")[0].name
    'I1'

    Raises:
        UsageError: no dataset of that name has a preset.
    """
    where = PRESETS.get(name)
    if where is None and find(DATASETS, name) is not None:
        return open_dataset(name).fields
    if where is None:
        raise UsageError(f"no preset named {name!r}{_suggestion(name, PRESETS)}; known: {', '.join(PRESETS)}")
    preset: tuple[FieldConfig, ...] = _load(where)
    return preset


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """Parse the command line's ``KEY=VALUE`` texts.

    >>> parse_options(["rows=137139"])
    {'rows': '137139'}

    Raises:
        UsageError: a text has no ``=``, or a key is repeated.
    """
    options: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"option {text!r} is not KEY=VALUE")
        if key in options:
            raise UsageError(f"option {key!r} is repeated; give it once")
        options[key] = value
    return options


def _load(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _reader(name: str) -> Any:
    if name in READERS:
        return _load(READERS[name])
    added = find(DATASETS, name)
    if added is not None:
        return added
    known = dataset_names()
    raise UsageError(f"no dataset named {name!r}{_suggestion(name, known)}; known: {', '.join(known)}")


def convert_options(name: str, reader: Any, options: Mapping[str, str]) -> dict[str, Any]:
    """Convert option texts to the types of a dataclass's fields.

    Raises:
        UsageError: the dataclass has no such option, or the text cannot be converted to its type.
    """
    types = typing.get_type_hints(reader)
    known = [item.name for item in dataclass_fields(reader) if item.init]
    converted: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            listed = f"; known: {', '.join(known)}" if known else "; it has no options"
            raise UsageError(f"dataset {name} has no option {key!r}{_suggestion(key, known)}{listed}")
        kind = next((kind for kind in (int, float) if types[key] in (kind, kind | None)), str)
        try:
            converted[key] = kind(text)
        except ValueError:
            word = "a whole number" if kind is int else "a number"
            raise UsageError(f"dataset {name}: option {key} = {text!r} is not {word}") from None
    return converted


def _suggestion(name: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def resolve_fields(features: FeaturesConfig) -> tuple[FieldConfig, ...]:
    """The fields of the configuration, or of the preset that it names.

    Raises:
        ConfigError: neither or both are given, or a name is repeated.
    """
    if features.fields and features.preset:
        raise ConfigError("features.preset and features.fields are both set; keep one of them")
    fields = features.fields or (preset_fields(features.preset) if features.preset else ())
    if not fields:
        raise ConfigError(
            "the configuration names no features: write a [[features.fields]] table with a name for each "
            f"feature of your impressions, or set [features] preset to one of {', '.join(PRESETS)} "
            '("world" for `stream-ctr simulate`)'
        )
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"features.fields: the name {name!r} appears twice")
    return fields
