"""Lines of plain and compressed files, and all their faults."""

from __future__ import annotations

import csv
import gzip
import io
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.datasets.files import MAX_LINE_BYTES, read_lines, to_float, to_integer
from stream_ctr.datasets.table import Table, read_rows
from stream_ctr.errors import DataError
from tests.support.dataset_files import COMPRESS

TEXT = "first\nsecond é\r\n\nlast"
LINES = [(0, 1, "first"), (1, 2, "second é"), (2, 4, "last")]


@pytest.mark.parametrize("kind", COMPRESS)
def test_compression_is_detected_from_the_content_whatever_the_name(kind: str, tmp_path: Path) -> None:
    for name in ("data.txt", "data.gz", "data.zst"):
        (tmp_path / name).write_bytes(COMPRESS[kind](TEXT.encode()))
        assert list(read_lines(tmp_path / name)) == LINES


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_concatenated_members_are_one_text(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(COMPRESS[kind](b"one\ntw") + COMPRESS[kind](b"o\nthree\n"))
    assert [row.text for row in read_lines(path)] == ["one", "two", "three"]


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_a_truncated_file_is_an_error_wherever_it_is_cut(kind: str, tmp_path: Path) -> None:
    whole = COMPRESS[kind](b"".join(b"line %d\n" % (n * 7919 % 10007) for n in range(2000)))
    path = tmp_path / "data"
    for length in (len(whole) - 1, len(whole) // 2, 20, 8):
        path.write_bytes(whole[:length])
        with pytest.raises(
            DataError, match=r"data, after line \d+: its \w+ data ends in the middle: the file is truncated"
        ):
            list(read_lines(path))


def test_a_zstd_file_of_two_frames_cut_in_the_second_is_truncated(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor().compress(b"x\n" * 1000)
    (tmp_path / "data").write_bytes(frame + frame[:-3])
    with pytest.raises(DataError, match="truncated"):
        list(read_lines(tmp_path / "data"))


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_damage_is_an_error(kind: str, tmp_path: Path) -> None:
    whole = bytearray(COMPRESS[kind](b"".join(b"%d\n" % (n * n) for n in range(5000))))
    middle = len(whole) // 2
    whole[middle : middle + 40] = bytes(b ^ 0xFF for b in whole[middle : middle + 40])
    (tmp_path / "data").write_bytes(whole)
    with pytest.raises(DataError, match=r"damaged|truncated|not UTF-8"):
        list(read_lines(tmp_path / "data"))


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*absent: No such file"):
        list(read_lines(tmp_path / "absent"))
    with pytest.raises(DataError, match="cannot read"):
        list(read_lines(tmp_path))
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="empty"):
        list(read_lines(tmp_path / "empty"))
    (tmp_path / "latin").write_bytes(b"good\nbad \xe9\n")
    with pytest.raises(DataError, match="line 2: byte 0xe9 is not UTF-8"):
        list(read_lines(tmp_path / "latin"))


def test_a_line_without_end_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "data.gz", "wb", compresslevel=1) as file:
        for _ in range(3):
            file.write(bytes(MAX_LINE_BYTES))
    with pytest.raises(DataError, match="line 1 is longer than"):
        list(read_lines(tmp_path / "data.gz"))


def test_reading_holds_no_more_than_some_buffers(tmp_path: Path) -> None:
    line = b"x" * 65_535 + b"\n"
    with gzip.open(tmp_path / "data.gz", "wb", compresslevel=1) as file:
        for _ in range(1000):
            file.write(line)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_lines(tmp_path / "data.gz")) == 1000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_the_first_lines_are_read_before_the_end_of_the_file(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"%d\n" % (n * n) for n in range(1_000_000)), 1)
    (tmp_path / "data.gz").write_bytes(whole[: len(whole) // 2])
    lines = read_lines(tmp_path / "data.gz")
    assert [next(lines).text for _ in range(3)] == ["0", "1", "4"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("\ufeffa,b\n1,2\n".encode())
    assert Table(tmp_path / "data.csv").columns == ["a", "b"]


def test_tables_name_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n1,2\n3\n")
    table = Table(path)
    with pytest.raises(DataError, match=r"no column 'c'; its columns are a, b"):
        table.index("c")
    with pytest.raises(DataError, match="line 3 has 1 column instead of 2"):
        list(table)
    path.write_text("a,a\n1,2\n")
    with pytest.raises(DataError, match="'a' 2 times"):
        Table(path).index("a")
    path.write_text('a,b\n"1,2\n')
    with pytest.raises(DataError, match="line 2"):
        list(Table(path))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=4), min_size=1))
def test_delimited_rows_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    path = tmp_path_factory.mktemp("rows") / "data.csv"
    path.write_bytes(text.getvalue().encode())
    assert [row.cells for row in read_rows(path)] == rows


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_integers_round_trip(value: int) -> None:
    assert to_integer(str(value)) == value


@pytest.mark.parametrize("text", ["", " ", "-", "1.5", "1_0", "٣", "9" * 19, "--1", "0x1", "1e400", "nan"])
def test_invalid_integers(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        to_integer(text)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "1e999", "1_0", "x"])
def test_invalid_and_non_finite_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        to_float(text)
