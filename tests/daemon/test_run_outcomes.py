"""No loss is silent: warnings, metrics, tables and exit status for logs with unusable records."""

from __future__ import annotations

import io
import json
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stream_ctr.cli import main
from stream_ctr.config.experiment import BUCKETS
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.run_outcomes import REPEAT_SECONDS, RunOutcomes
from stream_ctr.events.log import Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.experiments.watcher.users import UserHash
from stream_ctr.joining.daemon import JoinDaemon
from stream_ctr.reporting.progress import Reporter
from stream_ctr.training.trainer import Trainer
from tests.serving.ranking.test_impression_log import eventually

BUCKET_OF = UserHash("s")
START_MS = 1_764_000_000_000
CONFIG = """\
[log]
url = "sqlite:///{folder}/log.db"
[features]
fields = [{{name = "ad"}}]
[order]
idle_seconds = 0.1
[join]
window_seconds = 10.0
horizon_seconds = 60.0
{join}
[learner]
kind = "river"
river = "river-lr"
[experiment]
salt = "s"
[train]
state = "{folder}/state"
poll_seconds = 0.02
snapshot_seconds = 0
metrics_port = -1
[watch]
port = -1
"""
COMMANDS = {"train": ["train"], "join": ["join"], "watch": ["experiment", "watch"]}
USED = {"train": "learned", "join": "written", "watch": "counted"}
Change = Callable[[int, dict[str, Any]], dict[str, Any]]


def as_it_is(number: int, record: dict[str, Any]) -> dict[str, Any]:
    return record


def write(
    folder: Path,
    impression: Change = as_it_is,
    click: Change = as_it_is,
    *,
    events: range = range(200),
    order: Callable[[int], int] = int,
    stamped: bool = True,
) -> str:
    """An impression a second, three of ten clicked; the configuration's path."""
    log = open_log(f"sqlite:///{folder}/log.db", create=True)
    shown, clicks = [], []
    for number in sorted(events, key=order):
        ts_ms = START_MS + 1000 * number
        record = impression(
            number,
            {
                "v": 1,
                "event_id": f"e{number}",
                "ts_ms": ts_ms,
                "user": f"u{number}",
                "features": {"ad": f"a{number % 9}"},
                "salt": "s",
                "assigned_arm": "main",
                "arm": "main",
                "bucket": BUCKET_OF(f"u{number}") % BUCKETS,
                "reason": "assigned",
            },
        )
        shown.append(as_record(record, ts_ms, stamped))
        if number % 10 < 3:
            record = click(number, {"v": 1, "event_id": f"e{number}", "ts_ms": ts_ms + 3000})
            clicks.append(as_record(record, ts_ms + 3000, stamped))
    for topic, records in (("impressions", shown), ("clicks", clicks)):
        log.create_topic(topic, 1)
        log.append(topic, records)
    log.close()
    path = folder / "stream.toml"
    path.write_text(CONFIG.format(folder=folder, join=""), "utf-8")
    return str(path)


def as_record(record: dict[str, Any], ts_ms: int, stamped: bool) -> Record:
    return Record(b"k", json.dumps(record).encode(), ts_ms if stamped else int(record["ts_ms"]))


def run(capsys: pytest.CaptureFixture[str], kind: str, config: str) -> tuple[int, dict[str, Any], list[str]]:
    """Exit status, the run as JSON, and the lines on standard error."""
    status = main([*COMMANDS[kind], "--config", config, "--until-idle", "0", "--json"])
    printed = capsys.readouterr()
    return status, json.loads(printed.out)["run"], printed.err.splitlines()


def seconds(number: int, record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "ts_ms": record["ts_ms"] // 1000}


def unknown_key(number: int, record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "surprise": number}


def lost(of: dict[str, Any]) -> dict[str, int]:
    return {name: loss["count"] for name, loss in of["losses"].items() if loss["count"]}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_good_log_has_no_loss_and_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    config = write(tmp_path)
    status, run_of, reported = run(capsys, kind, config)
    assert (status, run_of["read"], run_of[USED[kind]]) == (0, {"impressions": 200, "clicks": 60}, 200)
    assert (lost(run_of), run_of["warnings"], run_of["positives"]) == ({}, [], 60)
    assert not [line for line in reported if "warning" in line]
    # No new entries are not a failure, and neither are clicks that come too late.
    assert run(capsys, kind, config)[0] == 0
    write(tmp_path, events=range(200, 201))  # the last event, and no click
    assert run(capsys, kind, config)[:1] == (0,)


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_log_of_dead_letters_fails_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    status, run_of, reported = run(capsys, kind, write(tmp_path, unknown_key))
    assert status == 1
    assert run_of["losses"]["dead_impressions"] == {"count": 200, "share": 1.0, "of": "impressions"}
    (reason,) = run_of["dead_letters"]["reasons"]
    assert (reason["count"], reason["first"]) == (200, "impressions[0] offset 0")
    assert "surprise" in reason["reason"]
    expected = (
        f"read 200 impressions and 60 clicks, but no impression was {USED[kind]}: 200 became dead letters"
    )
    assert expected in reported[-1]
    # The watcher writes no dead letters, so its message must not refer to any.
    assert ("`stream-ctr dead-letters list`" in reported[-1]) == (kind != "watch")
    # Clicks without an impression are counted even if the log ends before their horizon.
    assert lost(run_of)["clicks_orphaned"] + lost(run_of)["clicks_waiting"] == 60


@pytest.mark.parametrize(
    ("impression", "click", "found"),
    [
        (as_it_is, seconds, {"dead_clicks": 60}),
        (seconds, seconds, {"dead_clicks": 60, "dead_impressions": 200}),
        (seconds, as_it_is, {"dead_impressions": 200}),
    ],
)
def test_times_in_seconds_are_rejected_if_the_log_contradicts_them(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    impression: Change,
    click: Change,
    found: dict[str, int],
) -> None:
    status, run_of, reported = run(capsys, "train", write(tmp_path, impression, click))
    assert status == int("dead_impressions" in found)
    dead = {name: count for name, count in lost(run_of).items() if name.startswith("dead")}
    assert dead == found
    assert all(
        "looks like seconds; write milliseconds" in e["reason"] for e in run_of["dead_letters"]["reasons"]
    )
    assert any("looks like seconds" in line and '"warning"' in line for line in reported)


def test_times_in_seconds_give_a_warning_if_nothing_contradicts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run_of, reported = run(capsys, "train", write(tmp_path, seconds, seconds, stamped=False))
    assert (status, run_of["learned"]) == (0, 200)
    (warning,) = [each for each in run_of["warnings"] if each["loss"] == "time_unit"]
    assert (
        "ts_ms = 1764000000 (impressions[0] offset 0) is a date in 1970; it looks like seconds"
        in warning["reason"]
    )
    assert any('"time_unit"' in line for line in reported)


def test_small_relative_times_give_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def since_the_start(number: int, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "ts_ms": record["ts_ms"] - START_MS}

    status, run_of, _ = run(capsys, "train", write(tmp_path, since_the_start, since_the_start))
    assert (status, run_of["warnings"], run_of["positives"]) == (0, [], 60)


def test_a_log_out_of_order_gives_a_warning_with_the_delay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, events=range(2600), order=lambda number: (number - 1300) % 2600)
    status, run_of, reported = run(capsys, "train", config)
    assert status == 0
    warned = {each["loss"]: each["reason"] for each in run_of["warnings"]}
    assert "the log is out of order by up to" in warned["impressions_late"]
    assert "join.horizon_seconds = 60" in warned["impressions_late"]
    behind = int(warned["impressions_late"].split("by up to ")[1].split()[0].replace(",", ""))
    assert 2500 < behind < 2600
    assert any('"loss": "impressions_late"' in line for line in reported)


def test_clicks_with_unknown_event_ids_give_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, click=lambda number, record: {**record, "event_id": f"other-{number}"})
    status, run_of, _ = run(capsys, "train", config)
    assert (status, run_of["learned"], run_of["positives"]) == (0, 200, 0)
    assert lost(run_of)["clicks_orphaned"] + lost(run_of)["clicks_waiting"] == 60
    assert {"clicks_orphaned", "clicks_waiting"} <= {each["loss"] for each in run_of["warnings"]}


def test_a_run_with_only_unusable_new_impressions_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path)
    assert run(capsys, "train", config)[0] == 0
    write(tmp_path, unknown_key, events=range(200, 300))
    status, run_of, _ = run(capsys, "train", config)
    assert (status, run_of["read"]["impressions"], run_of["learned"]) == (1, 100, 0)
    assert run(capsys, "train", config)[0] == 0  # they are not read again


def test_an_arm_without_its_own_impressions_fails_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(write(tmp_path))
    arms = 'arms = [{name = "main", weight = 0.5}, {name = "new", weight = 0.5, learn_from = "own"}]'
    config.write_text(config.read_text("utf-8").replace('salt = "s"', f'salt = "s"\n{arms}'), "utf-8")
    assert main(["train", "--config", str(config), "--arm", "new", "--until-idle", "0"]) == 1
    printed = capsys.readouterr()
    assert "200 were answered by other arms, and learn_from is 'own'" in printed.err.splitlines()[-1]


def test_a_watcher_that_counted_nothing_fails_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, lambda number, record: {**record, "salt": "another"})
    status, run_of, reported = run(capsys, "watch", config)
    assert (status, run_of["counted"], run_of["positives"]) == (1, 0, 60)
    assert reported[-1].endswith("but no impression was counted: 200 are excluded as other_salt")


def test_missing_and_repeated_labelled_records_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(write(tmp_path))
    assert main(["join", "--config", str(config), "--until-idle", "0"]) == 0
    text = CONFIG.format(folder=tmp_path, join='input = "labelled"')
    config.write_text(text, "utf-8")
    log = open_log(f"sqlite:///{tmp_path}/log.db")
    (last,) = log.reader({TopicPartition("labelled", 0): 199}).poll(9, 1.0)
    value = json.loads(last.value or b"")
    for sequence in (199, 210):  # a repeat, and one after ten missing numbers
        value["sequence"] = sequence
        log.append("labelled", [Record(b"k", json.dumps(value).encode(), last.timestamp_ms)])
    log.close()
    capsys.readouterr()
    status, run_of, _ = run(capsys, "train", str(config))
    assert (status, run_of["read"], run_of["learned"]) == (0, {"impressions": 202, "clicks": 0}, 201)
    assert lost(run_of) == {"labelled_missing": 10, "labelled_repeated": 1}
    assert [each["loss"] for each in run_of["warnings"]] == ["labelled_missing"]


def test_a_running_joining_process_publishes_its_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(write(tmp_path, unknown_key))
    text = config.read_text("utf-8").replace("metrics_port = -1", "join_metrics_port = 0")
    config.write_text(text, "utf-8")
    settings, reported, stop = load_settings(config), io.StringIO(), threading.Event()
    log, page = open_log(settings.log.url), ""
    with Reporter("join", stream=reported) as reporter:
        daemon = JoinDaemon(settings, log, reporter)
        thread = threading.Thread(target=daemon.run, args=(stop,))
        thread.start()
        try:
            eventually(lambda: '"metrics"' in reported.getvalue())
            lines = map(json.loads, reported.getvalue().splitlines())
            url = next(line["url"] for line in lines if line["event"] == "metrics")

            def warned() -> bool:
                nonlocal page
                with urllib.request.urlopen(url, timeout=20) as answer:
                    page = answer.read().decode()
                return 'stream_ctr_join_loss_warning{loss="dead_impressions"} 1.0' in page

            eventually(warned)
        finally:
            stop.set()
            thread.join()
    log.close()
    assert 'stream_ctr_join_read_records_total{kind="impressions"}' in page


def test_the_table_is_plain_text_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, lambda n, record: record if n % 10 else {**record, "bid": "much"})
    assert main(["train", "--config", config, "--until-idle", "0"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["impressions", "read", "200"] in lines
    assert ["learned", "180"] in lines
    assert ["dead", "letters", "20", "10.00%", "of", "impressions,", "above", "limit"] in lines
    assert ["clicks", "read", "60"] in lines
    assert ["joined", "40", "66.67%", "of", "clicks"] in lines
    assert any("20" in line and "offset" in line for line in lines)


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, unknown_key, seconds))
    log = open_log(settings.log.url)
    with Reporter("test", quiet=True, stream=io.StringIO()) as reporter:
        summary = Trainer(settings, settings.arm(None), log, reporter).run(threading.Event(), 0.0)
    log.close()
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, color_system=None)
    summary.outcomes.print("train main", console)
    table = shown.getvalue().split("Dead letters by reason")[0]
    assert "…" not in table
    assert "above limit" in table


class Pipeline:
    """Counters that the test sets."""

    def __init__(self) -> None:
        self.outcomes = {"impressions": 0, "impressions_late": 0, "clicks_late": 0, "clicks_orphaned": 0}


def test_other_counters_have_rows_too(tmp_path: Path) -> None:
    pipeline = Pipeline()
    settings = load_settings(write(tmp_path))
    outcomes = RunOutcomes(settings, pipeline, Reporter("test", stream=io.StringIO()))
    pipeline.outcomes |= {"values_cut": 3, "skipped": 5, "clicks_joined": 2}
    rows = outcomes.finish(0, "learned", ever=0, ended=False).rows()
    assert [(row.title, row.records) for row in rows][-2:] == [
        ("values cut", 3),
        ("entries deleted by retention", 5),
    ]


def test_a_warning_is_repeated_only_after_a_while_and_its_end_is_reported(tmp_path: Path) -> None:
    settings, reported, now = load_settings(write(tmp_path)), io.StringIO(), [0.0]
    pipeline = Pipeline()
    outcomes = RunOutcomes(settings, pipeline, Reporter("test", stream=reported), lambda: now[0])
    read = outcomes._read
    for second in range(3000):
        now[0] = float(second)
        read["clicks"] += 100
        pipeline.outcomes["clicks_orphaned"] += 50 if 1000 <= second < 2000 else 0
        outcomes.check_losses()
    events = [json.loads(line) for line in reported.getvalue().splitlines()]
    assert [event["event"] for event in events[:-1]] == ["warning"] * (1 + int(1100 // REPEAT_SECONDS))
    assert events[-1]["event"] == "warning-ended"
    assert outcomes.warning_flags()["clicks_orphaned"] is False
