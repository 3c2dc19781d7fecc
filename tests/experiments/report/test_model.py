"""The report's JSON: the example that readers are built against, and invalid reports."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from stream_ctr.errors import DataError
from stream_ctr.experiments.report.model import REPORT_VERSION, decode_report, encode_report, read_report

EXAMPLE = Path(__file__).parent / "report_example.json"


def test_the_example_report_survives_a_round_trip() -> None:
    report = read_report(EXAMPLE)
    assert decode_report(encode_report(report)) == report
    # Nothing in the file is unknown to the structs: what a reader finds there is documented.
    assert msgspec.to_builtins(report) == json.loads(EXAMPLE.read_bytes())


def test_the_example_covers_the_special_cases() -> None:
    report = read_report(EXAMPLE)
    named = {definition.name for definition in report.definitions}
    assert [arm.control for arm in report.arms] == [True, False, False]
    assert any(arm.shadow for arm in report.arms)
    assert [point.final for point in report.series[-2:]] == [True, False]
    for comparison in report.comparisons:
        assert comparison.figures.keys() <= named
        assert comparison.arm in {arm.name for arm in report.arms}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"v": 1}', b"\xff", b"[" * 100_000])
def test_an_invalid_report_is_rejected_in_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^here: not an experiment report") as refused:
        decode_report(content, "here")
    assert "\n" not in str(refused.value)


def test_a_newer_version_is_rejected_and_an_added_field_is_not() -> None:
    table = json.loads(EXAMPLE.read_bytes())
    assert decode_report(json.dumps({**table, "addition": 1}).encode()).salt == "main-2"
    table["v"] = REPORT_VERSION + 1
    with pytest.raises(DataError, match="newer than 2"):
        decode_report(json.dumps(table).encode())


def test_a_missing_report_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file.*experiment watch"):
        read_report(tmp_path / "report.json")
