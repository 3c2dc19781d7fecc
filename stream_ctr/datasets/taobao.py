"""Ali Display Ad Click (Taobao, 2017): ``raw_sample.csv`` with two side tables in the same folder.

``ad_feature.csv`` and ``user_profile.csv`` are held in memory, with one text per ad and one shared text
for all users of the same profile; ``raw_sample.csv`` is streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import ClassVar

from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.files import MAX_TIME_MS, Row, bad_value, build_rows, to_float, to_integer, to_label
from stream_ctr.datasets.read_report import ReadReport
from stream_ctr.datasets.reader import FileReader
from stream_ctr.datasets.table import Table
from stream_ctr.errors import DataError
from stream_ctr.events.records import FeatureValue
from stream_ctr.features.keys.values import plain_text

AD = ("cate_id", "campaign_id", "customer", "brand")
PROFILE = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)
TAOBAO_FIELDS = (
    *(FieldConfig(name) for name in ("user", "adgroup_id", "pid", *AD)),
    FieldConfig("price", "float"),
    *(FieldConfig(name) for name in PROFILE),
)
MISSING = ("", "NULL")
"""The tables' spellings of a missing value (an ad without a brand, a user without a level)."""
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Taobao(FileReader):
    """Reads ``raw_sample.csv``, given as that file or as its folder.

    Row n (from 0) is event ``taobao-<n>``.
    """

    name: ClassVar[str] = "taobao"
    fields: ClassVar[tuple[FieldConfig, ...]] = TAOBAO_FIELDS

    @property
    def about(self) -> str:
        """Caveats about the order and the profiles."""
        return (
            "Taobao's raw_sample.csv is not sorted by time: rows keep the order of the file and their own "
            "times; replay --sort sorts them by time. Users without a line in user_profile.csv have no "
            "profile features."
        )

    def _examples(self, path: str | PathLike[str]) -> Iterator[Example]:
        path = Path(path)
        if path.is_dir():
            path = _table_path(path, "raw_sample")
        ads = _side_table(
            _table_path(path.parent, "ad_feature"), "adgroup_id", (*AD, "price"), "price", self.report
        )
        profiles = _side_table(_table_path(path.parent, "user_profile"), "userid", PROFILE, None, self.report)
        table = Table(path, report=self.report)
        user_at, time_at, ad_at, pid_at, no_click, click = (
            table.index(n) for n in ("user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk")
        )

        def build(row: Row) -> Example:
            number, line, cells = row
            # Some programs write the ids of a table as 11.0.
            user, ad = plain_text(cells[user_at]), plain_text(cells[ad_at])
            try:
                label = to_label(cells[click])
            except ValueError:
                raise bad_value(path, line, "clk", cells[click], "0 or 1") from None
            if cells[no_click] != str(1 - label):
                raise bad_value(path, line, "nonclk", cells[no_click], f"1 - clk = {1 - label}")
            try:
                if not 0 <= (time_ms := to_integer(cells[time_at]) * 1000) <= MAX_TIME_MS:
                    raise ValueError
            except ValueError:
                raise bad_value(path, line, "time_stamp", cells[time_at], "seconds since 1970") from None
            features: dict[str, FeatureValue] = {"user": user, "adgroup_id": ad, "pid": cells[pid_at]}
            if ad in ads:
                *names, price = ads[ad].split(_SEPARATOR)
                features.update(_present(AD, names))
                if price not in MISSING:
                    features["price"] = float(price)
            if user in profiles:
                features.update(_present(PROFILE, profiles[user].split(_SEPARATOR)))
            return Example(f"taobao-{number}", time_ms, user, features, label)

        return build_rows(path, table, build, self.report)


def _present(names: tuple[str, ...], cells: list[str]) -> dict[str, FeatureValue]:
    return {name: cell for name, cell in zip(names, cells, strict=True) if cell not in MISSING}


def _table_path(folder: Path, stem: str) -> Path:
    """Path of a table of the dataset, compressed or not."""
    for ending in (".csv", ".csv.gz", ".csv.xz", ".csv.zst"):
        if (found := folder / f"{stem}{ending}").exists():
            return found
    raise DataError(f"there is no {stem}.csv (or .csv.gz, .csv.xz, .csv.zst) in {folder}; put it there")


def _side_table(
    path: Path, key: str, columns: tuple[str, ...], number: str | None, report: ReadReport
) -> dict[str, str]:
    """Joined cells of ``columns`` by key; checks that the column ``number`` holds numbers. Without
    ``number``, equal texts share one object."""
    table = Table(path, report=report)
    key_at = table.index(key)
    places = [table.index(name) for name in columns]
    number_at = table.index(number) if number else None
    shared: dict[str, str] = {}

    def build(row: Row) -> tuple[str, str]:
        _, line, cells = row
        if number_at is not None and cells[number_at] not in MISSING:
            try:
                to_float(cells[number_at])
            except ValueError:
                raise bad_value(path, line, str(number), cells[number_at], "a number") from None
        joined = _SEPARATOR.join([cells[place] for place in places])
        key = plain_text(cells[key_at])
        return key, shared.setdefault(joined, joined) if number is None else joined

    return dict(build_rows(path, table, build, report))
