"""Open Bandit Dataset (ZOZOTOWN, 2019): ``{policy}/{campaign}/{campaign}.csv.gz``.

Each row is one item that a logging policy showed at one position, with the probability of that choice.
``item_context.csv.gz`` in the same folder describes the items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import ClassVar

from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.files import Row, bad_value, build_rows, to_float, to_label
from stream_ctr.datasets.read_report import ReadReport
from stream_ctr.datasets.reader import FileReader
from stream_ctr.datasets.table import Table
from stream_ctr.errors import DataError
from stream_ctr.events.records import FeatureValue

USER = tuple(f"user_feature_{number}" for number in range(4))
ITEM = tuple(f"item_feature_{number}" for number in range(1, 4))
OPEN_BANDIT_FIELDS = (
    FieldConfig("item_id"),
    FieldConfig("position"),
    *(FieldConfig(name) for name in USER),
    FieldConfig("affinity", "float", boundaries=(0.5, 1.5, 2.5, 3.5)),
    FieldConfig("item_feature_0", "float", buckets=16),
    *(FieldConfig(name) for name in ITEM),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Round:
    """One decision of the logging policy: the item that it showed and the items that it could have shown."""

    shown: Example
    """The row as an example."""
    context: Mapping[str, FeatureValue]
    """Features that do not depend on the item."""
    items: Mapping[str, Mapping[str, FeatureValue]]
    """Features of every item in item_context, by id."""
    affinities: Mapping[str, str]
    """The row's affinity cells by item id, as in the file. A cell that is not a number is left out of the
    item's features."""

    def candidates(self) -> Iterator[dict[str, FeatureValue]]:
        """Features of each item as if it had been shown, in the order of item_context."""
        for item, own in self.items.items():
            features = {**self.context, "item_id": item, **own}
            with suppress(ValueError):
                features["affinity"] = to_float(self.affinities.get(item, ""))
            yield features


def _absolute(path: str | PathLike[str]) -> Path:
    """The absolute path, whose folders name the policy and the campaign."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a character invalid in paths
        raise DataError(f"cannot read {str(path)!r}: {error}") from None


@dataclass(frozen=True)
class OpenBandit(FileReader):
    """Reads one campaign of one policy, given as its file or its folder.

    Event ids are ``{policy}-{campaign}-{row from 0}``.
    """

    name: ClassVar[str] = "open-bandit"
    fields: ClassVar[tuple[FieldConfig, ...]] = OPEN_BANDIT_FIELDS

    @property
    def about(self) -> str:
        """How users are derived, and the rate of clicks."""
        return (
            "Open Bandit has no user ids: the four user features together identify a 'user', so a 'user' is "
            "a group of people. Clicks are rare (under 1 %): report every figure with its interval. Of all "
            "items' affinities, only the shown item's is a feature."
        )

    def rounds(self, path: str | PathLike[str], limit: int | None = None) -> Iterator[Round]:
        """The rows with every item that could have been shown; same order, ids and errors as ``read``."""
        self.report.clear()
        return islice(self._rounds(_absolute(path)), limit)

    def _examples(self, path: str | PathLike[str]) -> Iterator[Example]:
        for each in self._rounds(_absolute(path)):
            yield each.shown

    def _rounds(self, path: Path) -> Iterator[Round]:
        if path.is_dir():
            path = _table_in(path, path.name)
        items = _items(_table_in(path.parent, "item_context"), self.report)
        prefix = f"{path.parent.parent.name}-{path.parent.name}"
        table = Table(path, report=self.report)
        time_at, item_at, position_at, click, propensity_at = (
            table.index(n) for n in ("timestamp", "item_id", "position", "click", "propensity_score")
        )
        users = [(name, table.index(name)) for name in USER]
        affinities = {
            column.removeprefix("user-item_affinity_"): place
            for place, column in enumerate(table.columns)
            if column.startswith("user-item_affinity_")
        }

        def build(row: Row) -> Round:
            number, line, cells = row
            item = cells[item_at]
            if item not in items:
                raise bad_value(path, line, "item_id", item, "an item of item_context")
            if item not in affinities:
                raise bad_value(path, line, "item_id", item, "an item with a user-item_affinity column")
            context: dict[str, FeatureValue] = {"position": cells[position_at]}
            context.update({name: cells[place] for name, place in users if cells[place]})
            features = {**context, "item_id": item, **items[item]}
            column, text = "click", cells[click]
            try:
                label = to_label(text)
                column, text = "propensity_score", cells[propensity_at]
                propensity = to_float(text)
                column, text = "timestamp", cells[time_at]
                time_ms = _parse_time(text)
                column, text = table.columns[affinities[item]], cells[affinities[item]]
                if text:
                    features["affinity"] = to_float(text)
            except ValueError:
                raise bad_value(path, line, column, text, _EXPECTED.get(column, "a number")) from None
            user = "-".join(cells[place] for _, place in users)
            shown = Example(f"{prefix}-{number}", time_ms, user, features, label, propensity=propensity)
            return Round(shown, context, items, {name: cells[place] for name, place in affinities.items()})

        return build_rows(path, table, build, self.report)


_EXPECTED = {"click": "0 or 1", "timestamp": "a time with a zone, such as 2019-11-24 00:00:34+00:00"}


def _parse_time(text: str) -> int:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None or time < _EPOCH:
        raise ValueError(text)
    return (time - _EPOCH) // _MILLISECOND


def _table_in(folder: Path, stem: str) -> Path:
    for ending in (".csv.gz", ".csv", ".csv.xz", ".csv.zst"):
        if (found := folder / f"{stem}{ending}").exists():
            return found
    raise DataError(
        f"there is no {stem}.csv.gz (or .csv, .csv.xz, .csv.zst) in {folder}; "
        "give the folder of one campaign of one policy, such as random/all"
    )


def _items(path: Path, report: ReadReport) -> dict[str, dict[str, FeatureValue]]:
    table = Table(path, report=report)
    item_at, number_at = table.index("item_id"), table.index("item_feature_0")
    texts = [(name, table.index(name)) for name in ITEM]

    def build(row: Row) -> tuple[str, dict[str, FeatureValue]]:
        _, line, cells = row
        features: dict[str, FeatureValue] = {}
        if cells[number_at]:
            try:
                features["item_feature_0"] = to_float(cells[number_at])
            except ValueError:
                raise bad_value(path, line, "item_feature_0", cells[number_at], "a number") from None
        features.update({name: cells[place] for name, place in texts if cells[place]})
        return cells[item_at], features

    return dict(build_rows(path, table, build, report))
