"""The benchmark of the whole daemon: its results and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_ctr.bench.stream.data import fill_log, stream_examples
from stream_ctr.bench.stream.measure import OPTIMIZERS, STAGES, Measured, StreamBench
from stream_ctr.bench.stream.report import as_json, print_table
from stream_ctr.cli import main
from stream_ctr.events.log import TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.pipeline.decoding.records import RecordDecoder


def test_ratios_are_those_of_the_same_round(capsys: pytest.CaptureFixture[str]) -> None:
    measured = Measured(
        "default",
        impressions=1000,
        entries=1200,
        rows=10_000,
        daemon_seconds=[1.0, 4.0, 2.0],
        learner_seconds=[0.5, 3.0, 1.8],
        stage_seconds={name: [0.001, 0.003, 0.002] for name in STAGES},
        peak_bytes=500_000_000,
        log_loss=0.5,
    )
    bench = StreamBench("sqlite", "Zipf rows", [measured])
    (row,) = as_json(bench)["rows"]
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (0.75, 0.5, 0.9)
    assert (row["events_per_second"], row["learner_events_per_second"]) == (500.0, 555.6)
    assert row["stage_cpu_microseconds"]["learn"] == 2.0
    assert row["allowed_bytes"] == (4 * 32 + 48) * 10_000 + 600_000_000
    print_table(bench)
    assert "0.75 (0.50 to 0.90)" in capsys.readouterr().out


def test_the_log_holds_every_example_once(tmp_path: Path) -> None:
    fields, examples, _ = stream_examples(None, 40)
    log = open_log(f"sqlite:///{tmp_path}/log.db", create=True)
    config = fill_log(log, examples)
    ends = {topic: log.end_offsets(topic) for topic in (config.impressions, config.clicks)}
    reader = log.reader({TopicPartition(topic, p): 0 for topic in ends for p in ends[topic]})
    decoder = RecordDecoder(config.impressions)
    entries = [entry for _ in range(6) for entry in reader.poll(1000, 0.0)]
    reader.close()
    log.close()
    assert all(decoder.entry(entry)[0] is not None for entry in entries)
    shown = [decoder.impression(e.value) for e in entries if e.topic == config.impressions]
    clicked = {decoder.click(e.value).event_id for e in entries if e.topic == config.clicks}
    assert sorted(item.event_id for item in shown) == sorted(example.event_id for example in examples)
    assert clicked == {example.event_id for example in examples if example.label}
    assert {len(item.features) for item in shown} == {len(fields)}


@pytest.mark.parametrize("option", ["--events", "--rounds"])
def test_sizes_below_one_are_rejected(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "stream", option, "0"]) == 2
    assert f"{option} 0: must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_daemon_and_learner_alone_learn_the_same_impressions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "stream", "--events", "700", "--rounds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["optimizer"] for row in rows] == list(OPTIMIZERS)
    for row in rows:
        assert row["impressions"] == 700
        assert row["events_per_second"] > 0
        assert row["learner_events_per_second"] > 0
        assert list(row["stage_cpu_microseconds"]) == list(STAGES)
        assert row["peak_bytes"] > 10_000_000
