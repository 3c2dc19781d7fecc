"""The report for users: table, JSON, plot, and sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.config.settings import load_settings
from stream_ctr.experiments.report.model import (
    Bounded,
    Comparison,
    Figure,
    Report,
    decode_report,
    read_report,
)
from stream_ctr.experiments.report.plot import plot_report
from stream_ctr.experiments.report.text import notes, sentence, split_fault, verdict
from stream_ctr.experiments.watcher.output import file_of
from tests.support.experiment_logs import World, watch, write_config, write_log

EXAMPLE = Path(__file__).parent / "report_example.json"


def example() -> Report:
    return read_report(EXAMPLE)


def test_the_table_shows_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "report", "--state", str(EXAMPLE)]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    report = example()
    for line in [*report.verdict, *report.notes]:
        assert line in text
    for definition in report.definitions[:-1]:
        assert definition.title in text
    new = report.comparisons[0].figures["ctr_uplift"]
    assert f"{100 * (new.low or 0):+.1f} % to {100 * (new.high or 0):+.1f} %" in text
    assert "not significant yet" in text
    assert "role control treatment shadow" in re.sub(r"[│ ]+", " ", text)


def test_json_is_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "report", "--state", str(EXAMPLE), "--json"]) == 0
    assert decode_report(capsys.readouterr().out.encode()) == example()


def test_the_plot_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "report.png"
    assert main(["experiment", "report", "--state", str(EXAMPLE), "--plot", str(picture)]) == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    report = example()
    report.series = [point for point in report.series if not point.final]
    from stream_ctr.errors import UsageError

    with pytest.raises(UsageError, match="nothing to draw: the report has 0 closed windows"):
        plot_report(report, tmp_path / "none.png")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--state", "{folder}/gone"], "cannot read the report"),
        (["--state", "{folder}", "--salt", "gone"], "experiment/earlier/gone.json"),
        (["--config", "{folder}/gone.toml"], "cannot read the configuration file"),
        (["--state", str(EXAMPLE), "--plot", "{folder}/no/such/folder.png"], "cannot write the plot"),
    ],
)
def test_wrong_arguments_give_one_line(
    tmp_path: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(folder=tmp_path) for each in arguments]
    assert main(["experiment", "report", *given]) in (1, 2)
    told = capsys.readouterr().err
    assert text in told
    assert told.count("\n") == 1


def test_the_command_watches_a_log_to_its_end_and_the_report_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    write_log(tmp_path, load_settings(config), World(1_500, uplift=0.3))
    assert main(["experiment", "watch", "--config", str(config), "--until-idle", "0", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    run = shown.pop("run")
    assert (run["read"]["impressions"], run["counted"]) == (1_500, 1_500)
    assert sum(arm["impressions"] for arm in shown["arms"]) == 1_500
    assert main(["experiment", "report", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == shown
    assert main(["experiment", "watch", "--config", str(config), "--until-idle", "-1"]) == 2
    assert "--until-idle must be a number of seconds of at least 0, got -1" in capsys.readouterr().err


def compared(**figures: Figure) -> Comparison:
    return Comparison(arm="helen", control="control", level=0.05, figures=figures)


def test_sentences_say_what_the_intervals_say() -> None:
    report = example()
    assert sentence(compared(), report) == "helen vs control: no verdict yet: no window has closed."
    found = sentence(
        compared(
            ctr=Figure(estimate=0.002, low=0.001, high=0.003, verdict="better"),
            ctr_uplift=Figure(estimate=0.05, low=0.01, high=0.09, verdict="better"),
            advv=Figure(estimate=-0.2, low=-0.9, high=0.5, verdict="unknown"),
            advv_uplift=Figure(estimate=-0.02, low=-0.09, high=0.05, verdict="unknown"),
            log_loss=Figure(estimate=0.01, low=0.005, high=0.015, verdict="worse"),
        ),
        report,
    )
    assert found == (
        "helen vs control: CTR is better (+5.0 %, 95 % CI +1.0 % to +9.0 %); ADVV difference not "
        "significant yet (-2.0 %, 95 % CI -9.0 % to +5.0 %); log loss is worse (+0.0100 nats, 95 % CI "
        "+0.0050 to +0.0150)."
    )
    unbounded = compared(
        ctr=Figure(estimate=0.02, low=0.01, high=0.03, verdict="better"),
        ctr_uplift=Figure(),
        log_loss=Figure(),
    )
    assert "CTR is better (+2.000 pp, 95 % CI +1.000 pp to +3.000 pp)" in sentence(unbounded, report)
    early = sentence(compared(ctr=Figure(estimate=0.5, why="3 of 100"), log_loss=Figure(why="x")), report)
    assert early == "helen vs control: CTR: no verdict yet: 3 of 100; log loss: no verdict yet: x."
    hidden = sentence(compared(log_loss=Figure(verdict="withheld", why="because")), report)
    assert hidden == "helen vs control: withheld: because."


def test_the_split_comes_first_and_alone_when_it_is_not_sound() -> None:
    report = example()
    split = report.sample_ratio
    split.sound, split.p = False, 1e-9
    split.why = split_fault(split, report.exclusions)
    (only,) = verdict(report)
    assert only.startswith(
        "The traffic split is not sound: sample-ratio mismatch, users per arm (control 4,021, helen 3,978) "
        "do not match the expected shares"
    )
    report.arms = report.arms[:1]
    report.sample_ratio.sound = True
    assert verdict(report) == ["control is the only arm: there is nothing to compare."]


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        (("all", "all", "all"), "Arms learn from all traffic"),
        (("own", "own", "own"), "Each arm learns only from the impressions that it served"),
        (("all", "own", "all"), "Learning from their own impressions only: helen. The other arms"),
    ],
)
def test_the_report_says_what_arms_learn_from(sources: tuple[str, ...], text: str) -> None:
    report = example()
    for arm, source in zip(report.arms, sources, strict=True):
        arm.learn_from = source
    assert notes(report)[0].startswith(text)


def test_notes_name_the_pre_registered_look_and_an_unavailable_log() -> None:
    report = example()
    assert any("at 200,000 impressions; 173,930 so far" in note for note in notes(report))
    for comparison in report.comparisons:
        assert comparison.horizon is not None
        comparison.horizon.reached_ms = 0
    report.progress.log_up = False
    found = notes(report)
    assert any("it was taken at 1970-01-01 00:00:00 UTC and is final" in note for note in found)
    assert found[-1].startswith("The log is unavailable")


def test_different_salts_give_different_file_names() -> None:
    names = [
        file_of(salt) for salt in ("main-1", "main/1", "main_1", "main 1", "", "x" * 300, "x" * 301, "..")
    ]
    assert len(set(names)) == len(names)
    assert names[0] == "main-1.json"
    assert all("/" not in name and len(name) < 120 for name in names)


def test_a_figure_without_an_interval_is_shown_without_one() -> None:
    from stream_ctr.experiments.report.table import figure_text

    assert figure_text(Bounded(estimate=0.0314), "share") == "3.140 %"
    assert figure_text(Bounded(estimate=0.0314, low=0.03, high=0.0328), "share") == "3.140 ± 0.140 %"
    assert figure_text(None, "share") == figure_text(Bounded(), "share") == ""


def test_a_watched_log_can_be_plotted(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_log(tmp_path, load_settings(config), World(3_000, uplift=0.3))
    report, _ = watch(config)
    plot_report(report, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_notes_count_what_the_joiner_left_out() -> None:
    report = example()
    before = notes(report)
    report.progress.outcomes = {
        "impressions_late": 2,
        "impressions_ahead": 1,
        "clicks_too_late": 4,
        "rejected": 5,
        "positives": 6,
    }
    added = " ".join(note for note in notes(report) if note not in before)
    assert "3 impressions arrived too late" in added
    assert "4 clicks were in time" in added
    assert "5 log entries are invalid records" in added
