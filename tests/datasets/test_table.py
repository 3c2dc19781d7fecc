"""Separators, quotes and headers of delimited files, and the messages about mismatches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.datasets.base import Example, open_dataset
from stream_ctr.datasets.read_report import ReadReport
from stream_ctr.datasets.table import Layout, read_rows
from stream_ctr.errors import ConfigError, DataError, RowError
from tests.support.dataset_files import write

SCHEMA = 'label = "click"\nfields = [{ name = "ad" }]\n'
TSV = SCHEMA + 'delimiter = "\\t"\n'


def _read(folder: Path, text: str, schema: str = SCHEMA) -> list[Example]:
    path = write(folder / "data", text)
    dataset = open_dataset("delimited", path, {"schema": str(write(folder / "schema.toml", schema))})
    return list(dataset.read(path))


def _headlines(quoted: dict[int, str], separator: str) -> str:
    """1,000 rows of click, title and ad; some titles are given."""
    rows = (f"{n % 2}{separator}{quoted.get(n, f'title {n}')}{separator}a{n}\n" for n in range(1000))
    return separator.join(("click", "title", "ad")) + "\n" + "".join(rows)


def test_quotes_in_tsv_are_text(tmp_path: Path) -> None:
    text = _headlines({100: '"Best of', 900: 'the show"', 901: ' "x"', 902: '"'}, "\t")
    schema = TSV.replace('{ name = "ad" }', '{ name = "ad" }, { name = "title" }')
    found = _read(tmp_path, text, schema)
    assert [example.features["ad"] for example in found] == [f"a{n}" for n in range(1000)]
    assert [found[n].features["title"] for n in (100, 900, 901, 902)] == [
        '"Best of',
        'the show"',
        ' "x"',
        '"',
    ]


def test_an_unclosed_quote_is_an_error_that_names_its_line_and_the_key(tmp_path: Path) -> None:
    text = _headlines({100: '"Best of', 900: 'the show"'}, ",")
    for schema in (SCHEMA, TSV.replace("\\t", ",") + 'quoting = "minimal"\n'):
        with pytest.raises(DataError, match=r'line 102: .*not closed within 100 lines.*quoting = "none"'):
            _read(tmp_path, text, schema)
    assert len(_read(tmp_path, text, SCHEMA + 'quoting = "none"\n')) == 1000
    with pytest.raises(DataError, match=r'line 902: .*is not closed; .*quoting = "none"'):
        _read(tmp_path, _headlines({900: '"Best of'}, ","), SCHEMA + "max_row_lines = 999\n")


def test_a_skipped_row_with_a_stray_quote_loses_no_other_row(tmp_path: Path) -> None:
    text = _headlines({100: '"Best of', 900: 'the show"', 950: '"x"y'}, ",")
    found = _read(tmp_path, text, SCHEMA + 'on_bad_row = "skip"\n')
    assert [example.event_id for example in found] == [
        f"data-{n}" for n in range(1000) if n not in (100, 950)
    ]


def test_rows_of_several_lines_are_read_and_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "data", 'click,title,ad\n1,"two\nlines",a\n0,x,b\n1,"three\n\nlines",c\n')
    dataset = open_dataset("delimited", path, {"schema": str(write(tmp_path / "s.toml", SCHEMA))})
    found = list(dataset.read(path))
    assert [(example.event_id, example.features["ad"]) for example in found] == [
        ("data-0", "a"),
        ("data-1", "b"),
        ("data-2", "c"),
    ]
    assert "join several lines into one row, 2 times; the longest is 3 lines, from line 5" in dataset.note
    assert 'quoting = "none"' in dataset.note


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from('ab",\n\r é'), max_size=60), most=st.integers(1, 4))
def test_any_text_ends_in_rows_or_bad_rows_and_skipping_always_ends(
    tmp_path_factory: pytest.TempPathFactory, text: str, most: int
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "data", "head\n" + text + "\n")
    bad: dict[int, int] = {}

    class Recording(ReadReport):
        def skip(self, error: RowError, number: int) -> None:
            bad[number] = error.line

    rows = list(read_rows(path, Layout(max_row_lines=most), Recording("skip")))
    lines = {**{row.number: row.line for row in rows}, **bad}
    assert sorted(lines) == list(range(len(rows) + len(bad)))  # each row is good or bad, and has a number
    in_order = [lines[number] for number in sorted(lines)]
    assert in_order == sorted(set(in_order))


def test_blank_lines_are_not_rows_and_do_not_shift_row_numbers(tmp_path: Path) -> None:
    plain = _read(tmp_path, "click,ad\n1,a\n0,b\n")
    assert _read(tmp_path, "\nclick,ad\n\n1,a\n \r\n0,b\n\n\n") == plain
    tsv = _read(tmp_path, "click\tad\n1\ta\n\n0\tb\n\n", TSV)
    assert tsv == plain


@pytest.mark.parametrize("delimiter", ["::", "||", " | "])
def test_separators_of_several_characters(delimiter: str, tmp_path: Path) -> None:
    text = "click,ad\n1,a:b\n0,\n".replace(",", delimiter)
    found = _read(tmp_path, text, SCHEMA + f'delimiter = "{delimiter}"\n')
    assert [(example.label, example.features) for example in found] == [(1, {"ad": "a:b"}), (0, {})]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ('delimiter = "::"\nquoting = "minimal"\n', r"'::' cannot be used with quoting = .minimal"),
        ('delimiter = "\\n"\n', "is empty or a line end"),
        ('quoting = "all"\n', "quoting"),
        ("max_row_lines = 0\n", "max_row_lines must be at least 1, got 0"),
        ('on_bad_row = "drop"\n', "on_bad_row"),
        ("max_bad_share = 0.0\n", "max_bad_share must be above 0"),
    ],
)
def test_invalid_layouts_are_rejected(schema: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, "click,ad\n", SCHEMA + schema)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("click,ad\nTrue,a\n", r"'True' is not .*; set positive = \[.True.\] and negative = \[.False.\]"),
        ("click,ad\n1.0,a\n", r"set positive = \[.1\.0.\] and negative = \[.0\.0.\]"),
        ("click,ad\n-1,a\n", r"set positive = \[.1.\] and negative = \[.-1.\]"),
        ("click,ad\nyes,a\n", r"set positive = \[.yes.\] and negative = \[.no.\]"),
        ("click,ad\n3,a\n", r"add it to positive or negative.*positive = \[.1., .true., .3.\]"),
        ("click,ad\n,a\n", "a row needs a label"),
        ("click;ad\n1;a\n", r"has no column 'click'.*set delimiter = .;. in the schema"),
        ("click\tad\n1\ta\n", r"set delimiter = .\\t. in the schema"),
        ("click::ad\n1::a\n", r"set delimiter = .::. in the schema"),
        ("1,a\n0,b\n", r"no header line, name its columns there: columns = \[.c1., .c2.\]"),
        ("click,ad,ad\n1,a,b\n", "names the column 'ad' 2 times"),
        ("click,ad\n1,a,b\n", "line 2 has 3 columns instead of 2; correct or remove the line"),
        ("click,\x1b[2Jx\n1,a\n", r"its columns are click, \\x1b\[2Jx: "),
        ("click,ad\n1,a\rb\n", "line 2: the row contains a carriage return"),
        ("\n\n", "holds only blank lines"),
        ('{"click": 1, "ad": "a"}\n', "looks like JSON; read the file as the dataset jsonl"),
    ],
)
def test_a_message_names_the_key_that_helps(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, text)
    assert str(caught.value).isprintable()


def test_named_columns_and_a_header_cannot_be_combined(tmp_path: Path) -> None:
    schema = SCHEMA + 'columns = ["click", "ad"]\n'
    with pytest.raises(DataError, match="its first line is a header, but the schema names columns"):
        _read(tmp_path, "click,ad\n1,a\n", schema)
    with pytest.raises(
        DataError, match=r"line 1 has 1 column instead of 2; set delimiter = .;. in the schema"
    ):
        _read(tmp_path, "1;a\n0;b\n", schema)


def test_errors_about_quoted_names_and_labels_suggest_quoting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names are in quotes; set quoting = .minimal."):
        _read(tmp_path, '"click"\t"ad"\n"1"\t"a"\n', TSV)
    with pytest.raises(DataError, match=r"the label is in quotes; set quoting = .minimal."):
        _read(tmp_path, 'click\tad\n"1"\t"a"\n', TSV)


def test_a_repeated_column_that_is_not_used_does_not_matter(tmp_path: Path) -> None:
    (example,) = _read(tmp_path, "click,ad,x,x\n1,a,2,3\n")
    assert example.features == {"ad": "a"}


def test_a_bad_label_of_a_format_without_schema_names_no_schema(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(open_dataset("avazu").read(write(tmp_path / "a.csv", "id;click\n1;0\n")))
    assert "schema" not in str(caught.value)
