"""Skipping bad rows in every reader: counted, reported, limited; no other row changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.datasets.base import open_dataset
from stream_ctr.datasets.read_report import CHECKED_ROWS, ReadReport
from stream_ctr.datasets.reader import read_report
from stream_ctr.errors import DataError, RowError, UsageError
from tests.support.dataset_files import (
    AVAZU_HEADER,
    avazu_line,
    criteo_line,
    open_bandit_folder,
    taobao_folder,
    write,
)

SCHEMA = 'label = "y"\nfields = [{ name = "x", kind = "integer" }]\n'
OPEN_BANDIT = "2019-11-24 00:00:{:02}+00:00,{},1,{},0.5,u,v,w,z,0.1,0.2"


def _criteo(folder: Path, bad: bool) -> tuple[str, Path, dict[str, str]]:
    lines = [criteo_line(str(n % 2), {1: str(n)}) for n in range(6)]
    if bad:
        lines[1], lines[3] = criteo_line("7"), "short\n"
    return "criteo", write(folder / "train.txt", "".join(lines)), {}


def _avazu(folder: Path, bad: bool) -> tuple[str, Path, dict[str, str]]:
    lines = [avazu_line(str(n), str(n % 2)) for n in range(6)]
    if bad:
        lines[1], lines[3] = avazu_line("1", "x"), "1,0\r\n"
    return "avazu", write(folder / "train.csv", AVAZU_HEADER + "\r\n" + "".join(lines)), {}


def _taobao(folder: Path, bad: bool) -> tuple[str, Path, dict[str, str]]:
    lines = [f"501,149413764{n},11,p,{1 - n % 2},{n % 2}\n" for n in range(6)]
    if bad:
        lines[1], lines[3] = "501,soon,11,p,1,0\n", "501\n"
    return "taobao", taobao_folder(folder, "".join(lines)), {}


def _open_bandit(folder: Path, bad: bool) -> tuple[str, Path, dict[str, str]]:
    rows = [OPEN_BANDIT.format(n, n % 2, n % 2) for n in range(6)]
    if bad:
        rows[1], rows[3] = OPEN_BANDIT.format(1, 9, 0), "2019"
    return "open-bandit", open_bandit_folder(folder, rows), {}


def _delimited(folder: Path, bad: bool) -> tuple[str, Path, dict[str, str]]:
    lines = [f"{n % 2},{n}\n" for n in range(6)]
    if bad:
        lines[1], lines[3] = "1,one\n", "1,3,3\n"
    path = write(folder / "data", "y,x\n" + "".join(lines))
    return "delimited", path, {"schema": str(write(folder / "s.toml", SCHEMA))}


def _jsonl(folder: Path, bad: bool) -> tuple[str, Path, dict[str, str]]:
    lines = [json.dumps({"y": n % 2, "x": n}) + "\n" for n in range(6)]
    if bad:
        lines[1], lines[3] = '{"y": 1, "x": "one"}\n', "{\n"
    path = write(folder / "data", "".join(lines))
    return "jsonl", path, {"schema": str(write(folder / "s.toml", SCHEMA))}


Make = Callable[[Path, bool], tuple[str, Path, dict[str, str]]]
READERS = [_criteo, _avazu, _taobao, _open_bandit, _delimited, _jsonl]


@pytest.mark.parametrize("make", READERS)
def test_good_rows_are_the_same_as_without_bad_ones(make: Make, tmp_path: Path) -> None:
    name, path, options = make(tmp_path / "good", False)
    wanted = list(open_dataset(name, path, options).read(path))
    name, path, options = make(tmp_path / "bad", True)
    with pytest.raises(RowError, match=r"skip bad rows with --option on_bad_row=skip"):
        list(open_dataset(name, path, options).read(path))
    dataset = open_dataset(name, path, {**options, "on_bad_row": "skip"})
    for _ in range(2):  # a second read counts from zero
        assert list(dataset.read(path)) == [wanted[n] for n in (0, 2, 4, 5)]
        report = read_report(dataset)
        assert report.skipped == 2
        assert [reason.rows for reason in report.reasons.values()] == [1, 1]
    assert "2 bad rows skipped: 1 x " in dataset.note


@pytest.mark.parametrize("make", READERS)
def test_blank_lines_are_not_rows(make: Make, tmp_path: Path) -> None:
    name, path, options = make(tmp_path, False)
    wanted = list(open_dataset(name, path, options).read(path))
    if path.is_dir():
        return  # the same table reader as below
    lines = path.read_text().splitlines(keepends=True)
    write(path, "\n" + lines[0] + "\r\n" + "\n \n".join(lines[1:]) + "\n\n")
    assert list(open_dataset(name, path, options).read(path)) == wanted


def test_a_line_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    for name, text in (
        ("delimited", b"y,x\n1,1\n0,\xff\n0,3\n"),
        ("jsonl", b'{"y":1,"x":1}\n\xff\n{"y":0,"x":3}\n'),
    ):
        path = tmp_path / "data"
        path.write_bytes(text)
        options = {"schema": str(write(tmp_path / "s.toml", SCHEMA + 'on_bad_row = "skip"\n'))}
        dataset = open_dataset(name, path, options)
        assert [example.event_id for example in dataset.read(path)] == ["data-0", "data-2"]
        assert list(read_report(dataset).reasons) == ["a byte that is not UTF-8"]


def test_too_many_bad_rows_end_the_run(tmp_path: Path) -> None:
    def read(bad: int, rows: int, share: str = "") -> int:
        text = "".join(("x,1\n" if n < bad else f"{n % 2},{n}\n") for n in range(rows))
        path = write(tmp_path / "data", "y,x\n" + text)
        options = {"schema": str(write(tmp_path / "s.toml", SCHEMA)), "on_bad_row": "skip"}
        if share:
            options["max_bad_share"] = share
        return sum(1 for _ in open_dataset("delimited", path, options).read(path))

    assert read(9, 10) == 1  # too few rows for the check
    assert read(900, 999) == 99
    assert read(CHECKED_ROWS - 1, 2 * CHECKED_ROWS) == CHECKED_ROWS + 1  # bad at first, and never again
    with pytest.raises(
        DataError, match=r"1,001 of the first 1,001 rows|1,000 of the first 1,000 rows are bad"
    ):
        read(CHECKED_ROWS + 1, 2 * CHECKED_ROWS)
    assert read(CHECKED_ROWS + 1, 2 * CHECKED_ROWS, "1") == CHECKED_ROWS - 1
    with pytest.raises(
        DataError, match=r"all 5 rows are bad, above max_bad_share = 0\.01; most often: column y"
    ):
        read(5, 5)


def test_reasons_are_bounded() -> None:
    report = ReadReport("skip", 1.0)
    for n in range(1000):
        report.skip(RowError("f", n, ": x", f"reason {n}"), n)
    assert len(report.reasons) == 51
    assert sum(reason.rows for reason in report.reasons.values()) == report.skipped == 1000


@pytest.mark.parametrize("option", [{"on_bad_row": "drop"}, {"max_bad_share": "0"}, {"max_bad_share": "nan"}])
def test_invalid_options_are_rejected(option: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        open_dataset("criteo", None, option)


def test_evaluate_reports_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, path, options = _delimited(tmp_path, True)
    command = ["evaluate", name, str(path), "--option", f"schema={options['schema']}", "--json"]
    assert main(command) == 1
    assert "--option on_bad_row=skip" in capsys.readouterr().err
    assert main([*command, "--on-bad-row", "skip"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["events"], found["bad_rows"]["skipped"]) == (4, 2)
    assert found["bad_rows"]["reasons"][0]["example"].endswith(
        "line 3, column x: 'one' is not a whole number"
    )
    assert '"event": "bad_rows"' in captured.err
