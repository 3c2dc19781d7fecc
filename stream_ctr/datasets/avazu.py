"""Avazu Click-Through Rate Prediction (2014): ``train.csv``, comma-separated with a header.

The file holds only the hour of an impression. Rows keep their order and are spaced evenly within an
hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from typing import ClassVar, NamedTuple

from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.files import Row, bad_value, build_rows, to_label
from stream_ctr.datasets.reader import FileReader
from stream_ctr.datasets.table import Table
from stream_ctr.errors import UsageError
from stream_ctr.events.records import FeatureValue

RAW = (
    "C1",
    "banner_pos",
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    "device_id",
    "device_ip",
    "device_model",
    "device_type",
    "device_conn_type",
    *(f"C{number}" for number in range(14, 22)),
)
AVAZU_FIELDS = tuple(FieldConfig(name) for name in (*RAW, "hour_of_day", "weekday"))
NO_DEVICE = "a99f214a"
"""The device_id of all impressions without a device id: four fifths of the file."""
HOUR_MS = 3_600_000


class _Hour(NamedTuple):
    text: str
    start_ms: int
    hour_of_day: str
    weekday: str


@dataclass(frozen=True)
class Avazu(FileReader):
    """Reads ``train.csv``; the event id is the file's ``id``.

    Row i of an hour happens i / ``rows_per_hour`` hours after the hour's start.
    """

    rows_per_hour: int = 450_000
    """Upper bound on the rows in an hour; further rows get the hour's last millisecond."""

    name: ClassVar[str] = "avazu"
    fields: ClassVar[tuple[FieldConfig, ...]] = AVAZU_FIELDS

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.rows_per_hour < 1:
            raise UsageError(f"avazu: rows_per_hour must be at least 1, got {self.rows_per_hour}")

    @property
    def about(self) -> str:
        """How times and users are derived."""
        return (
            "Avazu gives only the hour of an impression, read as UTC: rows keep their order and are spaced "
            f"{HOUR_MS / self.rows_per_hour:g} ms apart within an hour (option rows_per_hour). The user is "
            "the device, or address and model if the device is unknown."
        )

    def _examples(self, path: str | PathLike[str]) -> Iterator[Example]:
        table = Table(path, report=self.report)
        id_, click, hour_at = (table.index(name) for name in ("id", "click", "hour"))
        places = [(name, table.index(name)) for name in RAW]
        device, address, model = (table.index(n) for n in ("device_id", "device_ip", "device_model"))
        hour = _Hour("", 0, "", "")
        first = 0  # number of the hour's first row; bad rows count too, so they do not shift the times

        def build(row: Row) -> Example:
            nonlocal hour, first
            number, line, cells = row
            if cells[hour_at] != hour.text:
                try:
                    hour = _parse_hour(cells[hour_at])
                except ValueError:
                    raise bad_value(path, line, "hour", cells[hour_at], "an hour YYMMDDHH") from None
                first = number
            try:
                label = to_label(cells[click])
            except ValueError:
                raise bad_value(path, line, "click", cells[click], "0 or 1") from None
            if not cells[id_]:
                raise bad_value(path, line, "id", "", "an event id")
            features: dict[str, FeatureValue] = {name: cells[i] for name, i in places if cells[i]}
            features["hour_of_day"] = hour.hour_of_day
            features["weekday"] = hour.weekday
            offset_ms = min((number - first) * HOUR_MS // self.rows_per_hour, HOUR_MS - 1)
            known = cells[device] and cells[device] != NO_DEVICE
            user = cells[device] if known else f"{cells[address]}-{cells[model]}"
            return Example(cells[id_], hour.start_ms + offset_ms, user, features, label)

        return build_rows(path, table, build, self.report)


def _parse_hour(text: str) -> _Hour:
    """Time, hour of day (00 to 23) and weekday (0 Monday) of YYMMDDHH, as UTC."""
    if len(text) != 8 or not text.isascii() or not text.isdigit():
        raise ValueError(text)
    year, month, day, hour = (int(text[i : i + 2]) for i in range(0, 8, 2))
    time = datetime(2000 + year, month, day, hour, tzinfo=UTC)
    return _Hour(text, int(time.timestamp()) * 1000, text[6:], str(time.weekday()))
