"""The Avazu reader on files in its format."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stream_ctr.datasets.avazu import AVAZU_FIELDS, Avazu
from stream_ctr.errors import DataError
from tests.support.dataset_files import AVAZU_HEADER, avazu_line, write


def _ms(hour: int) -> int:
    return int(datetime(2014, 10, 21, hour, tzinfo=UTC).timestamp() * 1000)


def test_rows_spread_inside_their_hour_in_order(tmp_path: Path) -> None:
    lines = [avazu_line(str(n)) for n in range(4)] + [avazu_line("9", hour="14102101")]
    path = write(tmp_path / "train.csv", AVAZU_HEADER + "\r\n" + "".join(lines))
    examples = list(Avazu(rows_per_hour=3).read(path))
    times = [example.time_ms for example in examples]
    hour = 3_600_000
    assert times == [_ms(0), _ms(0) + hour // 3, _ms(0) + 2 * hour // 3, _ms(1) - 1, _ms(1)]
    assert [example.event_id for example in examples] == ["0", "1", "2", "3", "9"]


def test_derived_features_and_user(tmp_path: Path) -> None:
    lines = avazu_line("1", click="1", hour="14102123") + avazu_line("2", device="d1")
    path = write(tmp_path / "train.csv", AVAZU_HEADER + "\r\n" + lines)
    first, second = Avazu().read(path)
    assert (first.label, second.label) == (1, 0)
    assert first.features["hour_of_day"] == "23"
    assert first.features["weekday"] == "1"  # 21 October 2014 was a Tuesday
    assert first.user == "device_ip-device_model"
    assert second.user == "d1"
    assert set(first.features) == {field.name for field in AVAZU_FIELDS}
    assert first.features["C21"] == "C21"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (avazu_line("1", click="x"), "line 2, column click: 'x' is not 0 or 1"),
        (avazu_line("1", hour="14132100"), "line 2, column hour: '14132100' is not an hour YYMMDDHH"),
        (avazu_line("1", hour="2014102100"), "column hour"),
        (avazu_line(""), "column id: '' is not an event id"),
        ("1,0\r\n", "line 2 has 2 columns instead of 24"),
    ],
)
def test_bad_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", AVAZU_HEADER + "\r\n" + line)
    with pytest.raises(DataError, match=message):
        list(Avazu().read(path))


def test_the_test_file_without_clicks_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "test.csv", AVAZU_HEADER.replace(",click", "") + "\n")
    with pytest.raises(DataError, match="no column 'click'"):
        list(Avazu().read(path))
