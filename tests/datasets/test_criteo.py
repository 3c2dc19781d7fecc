"""The Criteo reader on files in its format."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.datasets.criteo import CATEGORIES, CRITEO_FIELDS, INTEGERS, Criteo
from stream_ctr.errors import DataError, UsageError
from tests.support.dataset_files import COMPRESS, criteo_line, write

HEX = st.text("0123456789abcdef", min_size=8, max_size=8)
ROW = st.tuples(
    st.integers(0, 1),
    st.lists(st.none() | st.integers(-3, 10**7), min_size=13, max_size=13),
    st.lists(st.none() | HEX, min_size=26, max_size=26),
)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=5),
    kind=st.sampled_from(list(COMPRESS)),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_rows_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, list[int | None], list[str | None]]],
    kind: str,
    end: str,
) -> None:
    cells = [[label, *numbers, *texts] for label, numbers, texts in rows]
    text = "".join("\t".join("" if cell is None else str(cell) for cell in row) + end for row in cells)
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    path.write_bytes(COMPRESS[kind](text.encode()))
    examples = list(Criteo().read(path))
    assert [example.label for example in examples] == [label for label, _, _ in rows]
    names = (*INTEGERS, *CATEGORIES)
    for example, row in zip(examples, cells, strict=True):
        wanted = dict(zip(names, row[1:], strict=True))
        assert example.features == {name: value for name, value in wanted.items() if value is not None}


def test_times_come_from_the_row_number_and_the_note_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", criteo_line() * 5)
    examples = list(Criteo(rows=5, span_seconds=10.0, start_ms=1000).read(path))
    assert [example.time_ms for example in examples] == [1000, 3000, 5000, 7000, 9000]
    assert [example.event_id for example in examples] == [f"criteo-{n}" for n in range(5)]
    note = Criteo(rows=137_139).note
    assert "no times" in note
    assert "137,139 rows" in note
    assert "7 days" in note


def test_kinds_of_the_fields() -> None:
    assert [field.kind for field in CRITEO_FIELDS] == ["integer"] * 13 + ["categorical"] * 26


def test_limit_stops_before_a_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", criteo_line() * 2 + "rubbish\n")
    assert len(list(Criteo().read(path, limit=2))) == 2
    with pytest.raises(DataError, match="line 3 has 1 column instead of 40"):
        list(Criteo().read(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (criteo_line(label="2"), "line 2, column label: '2' is not 0 or 1"),
        (criteo_line(label=""), "column label: '' is not 0 or 1"),
        (criteo_line(integers={3: "1.5"}), "line 2, column I3: '1.5' is not a whole number"),
        (criteo_line()[2:], "39 columns instead of 40"),
    ],
)
def test_bad_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", criteo_line() + line)
    with pytest.raises(DataError, match=message) as caught:
        list(Criteo().read(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_invalid_span_is_rejected() -> None:
    with pytest.raises(UsageError, match="must be above 0, got 0 and"):
        Criteo(rows=0)
    with pytest.raises(UsageError, match=r"must be above 0, got .* and 0"):
        Criteo(span_seconds=0)
