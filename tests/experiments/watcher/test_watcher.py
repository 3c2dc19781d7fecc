"""The watcher over real logs with a known ground truth: figures, verdicts, restarts."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Unpack

import msgspec
import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.checkpoint import CheckpointStore, Loaded
from stream_ctr.errors import ConfigError, StateError
from stream_ctr.events.dead_letters import held_entries
from stream_ctr.events.log import Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import Click, Impression
from stream_ctr.experiments.report.model import Progress, Report, read_report
from stream_ctr.experiments.shared_files import Sums, read_sums
from stream_ctr.experiments.watcher.daemon import Watcher
from stream_ctr.experiments.watcher.report_builder import build_report
from stream_ctr.joining.daemon import JoinDaemon
from stream_ctr.reporting.progress import Reporter
from tests.support.experiment_logs import (
    SHADOW,
    START_MS,
    STEP_MS,
    Change,
    World,
    make,
    watch,
    write_config,
    write_log,
)

WINDOW_MS = 20_000


def planted(folder: Path, world: World, **settings: Unpack[Change]) -> tuple[Path, Report, Watcher]:
    """A world's log, watched to its end."""
    config = write_config(folder, **settings)
    write_log(folder, load_settings(config), world)
    return config, *watch(config)


def excluded_zero(report: Report, arm: str = "new") -> set[str]:
    """Figures whose interval ever excluded zero."""
    found = set()
    for point in report.series:
        for name, figure in point.comparisons.get(arm, {}).items():
            if figure.low is not None and figure.high is not None and not figure.low <= 0.0 <= figure.high:
                found.add(name)
    return found


def slow_figures(config: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Figure and standard error of each arm and of new less control, from the log in plain loops."""
    settings = load_settings(config)
    log = open_log(settings.log.url)
    try:
        shown = [
            msgspec.json.decode(e.value or b"", type=Impression) for e in held_entries(log, "impressions")
        ]
        clicks = [msgspec.json.decode(e.value or b"", type=Click) for e in held_entries(log, "clicks")]
    finally:
        log.close()
    clicked = {click.event_id: click.ts_ms for click in clicks}
    labels = {
        each.event_id: float(clicked.get(each.event_id, math.inf) - each.ts_ms <= 5_000) for each in shown
    }

    def textbook(pairs: list[tuple[int | None, float, float]]) -> tuple[float, float]:
        """Ratio of sums by bucket and its standard error by the delta method."""
        tops: dict[int | None, float] = defaultdict(float)
        bottoms: dict[int | None, float] = defaultdict(float)
        for bucket, top, bottom in pairs:
            tops[bucket] += top
            bottoms[bucket] += bottom
        count, value = len(tops), sum(tops.values()) / sum(bottoms.values())
        squares = sum((tops[b] - value * bottoms[b]) ** 2 for b in tops)
        return value, math.sqrt(count / (count - 1) * squares) / sum(bottoms.values())

    def loss(each: Impression, arm: str) -> float:
        return -math.log(each.p[arm] if labels[each.event_id] else 1.0 - each.p[arm])

    found: dict[str, dict[str, tuple[float, float]]] = {"control": {}, "new": {}, "less": {}}
    for arm in ("control", "new"):
        own = [each for each in shown if each.assigned_arm == arm]
        found[arm]["ctr"] = textbook([(each.bucket, labels[each.event_id], 1.0) for each in own])
        worth = [(each.bucket, 1000 * each.bid * labels[each.event_id], 1.0) for each in own]
        found[arm]["advv"] = textbook(worth)
        found[arm]["log_loss"] = textbook([(each.bucket, loss(each, arm), 1.0) for each in shown])
        found[arm]["calibration"] = textbook([(e.bucket, e.p[arm], labels[e.event_id]) for e in shown])
    found["less"]["log_loss"] = textbook(
        [(each.bucket, loss(each, "new") - loss(each, "control"), 1.0) for each in shown]
    )
    for name in ("ctr", "advv"):
        (one, spread), (other, its) = found["new"][name], found["control"][name]
        found["less"][name] = one - other, math.hypot(spread, its)
        relative = math.hypot(spread, one / other * its) / other
        found["less"][f"{name}_uplift"] = one / other - 1, relative
    return found


def test_a_true_uplift_is_detected_and_every_figure_matches_loops_over_the_log(tmp_path: Path) -> None:
    config, report, watcher = planted(tmp_path, World(12_000, uplift=0.5), arms=SHADOW)
    expected = slow_figures(config)
    for arm in report.arms[:2]:
        for name, (value, _) in expected[arm.name].items():
            assert arm.figures[name].estimate == pytest.approx(value, rel=1e-9), (arm.name, name)
    new, quiet = report.comparisons
    factors = set()
    for name, (value, spread) in expected["less"].items():
        figure = new.figures[name]
        assert figure.estimate == pytest.approx(value, rel=1e-9)
        assert figure.low is not None
        assert figure.high is not None
        if name.endswith("_uplift"):
            continue  # a quotient's interval is not symmetrical
        assert figure.high - value == pytest.approx(value - figure.low)
        factors.add(round((value - figure.low) / spread, 6))
        assert figure.final
    assert len(factors) == 1  # one boundary for all, as all rest on the same impressions
    assert factors.pop() > 2.24  # wider than an ordinary interval at the level of one of two comparisons
    for name in ("ctr", "ctr_uplift", "advv", "advv_uplift", "log_loss", "auc", "normalized_entropy"):
        assert new.figures[name].verdict == "better", name
    assert new.figures["ctr_uplift"].low or 0 < 0.5 < (new.figures["ctr_uplift"].high or 0)
    assert {name: figure.verdict for name, figure in quiet.figures.items()} == {
        "log_loss": "worse",
        "normalized_entropy": "worse",
        "auc": "worse",
    }
    assert new.level == quiet.level == 0.025
    assert report.sample_ratio.sound
    assert sum(arm.impressions for arm in report.arms) == 12_000
    assert "CTR is better" in " ".join(report.verdict)
    assert read_report(watcher.folder / "report.json").comparisons == report.comparisons


def test_without_a_true_difference_none_is_detected(tmp_path: Path) -> None:
    _, report, _ = planted(tmp_path, World(8_000, noise=0.0, seed=3))
    assert len(report.series) == 8
    assert excluded_zero(report) == set()
    assert report.comparisons[0].figures["ctr"].verdict == "unknown"
    assert "not significant yet" in " ".join(report.verdict)


def test_an_unsound_split_withholds_every_effect(tmp_path: Path) -> None:
    _, report, _ = planted(tmp_path, World(8_000, uplift=0.5, drop=0.25))
    assert not report.sample_ratio.sound
    assert report.sample_ratio.p < 0.001
    assert {figure.verdict for figure in report.comparisons[0].figures.values()} == {"withheld"}
    assert {figure.estimate for figure in report.comparisons[0].figures.values()} == {None}
    assert excluded_zero(report) == set()
    assert report.arms[1].figures["ctr"].estimate is not None  # what was seen of each arm stays visible
    assert report.verdict[0].startswith("The traffic split is not sound")


def test_the_pre_registered_look_is_taken_once_and_never_changes(tmp_path: Path) -> None:
    config, report, _ = planted(tmp_path, World(6_000, uplift=0.3), watch="horizon_impressions = 3500")
    horizon = report.comparisons[0].horizon
    assert horizon is not None
    # The first end of a window by which 3,500 impressions of 20 ms were shown: 4 windows of 20 s.
    assert horizon.reached_ms == START_MS // WINDOW_MS * WINDOW_MS + 4 * WINDOW_MS
    assert horizon.figures["ctr"].impressions <= 4_000
    point = next(each for each in report.series if each.end_ms == horizon.reached_ms)
    once, always = horizon.figures["log_loss"], point.comparisons["new"]["log_loss"]
    assert once.estimate == always.estimate
    assert (once.high or 0.0) - (once.low or 0.0) < 0.8 * ((always.high or 0.0) - (always.low or 0.0))
    write_log(tmp_path, load_settings(config), World(3_000), start=6_000)
    later, _ = watch(config)
    assert later.comparisons[0].horizon == horizon
    assert later.comparisons[0].figures != report.comparisons[0].figures


def final(folder: Path, state: str) -> Loaded:
    loaded = CheckpointStore(folder / state / "experiment" / "checkpoints", 1000).load()
    assert loaded is not None
    return loaded


def assert_equal_bits(one: Loaded, other: Loaded) -> None:
    assert one.manifest.positions == other.manifest.positions
    assert one.parts.keys() == other.parts.keys()
    for name, state in one.parts.items():
        assert state.values == other.parts[name].values, name
        assert state.equals(other.parts[name]), name


def test_a_watcher_killed_between_checkpoints_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Three processes that die by SIGKILL, one that ends, against one that was never disturbed."""
    disturbed = write_config(tmp_path, "disturbed", chunk=64)
    write_log(tmp_path, load_settings(disturbed), World(3_000, uplift=0.2))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_watchers", str(disturbed), "9", "5", "10", "20"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["-9"] * 3, done.stderr
    report, _ = watch(disturbed)
    undisturbed = write_config(tmp_path, "undisturbed")
    folder = tmp_path / "undisturbed" / "experiment"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "disturbed" / "experiment" / "journal", folder / "journal")
    whole, _ = watch(undisturbed)
    assert_equal_bits(final(tmp_path, "disturbed"), final(tmp_path, "undisturbed"))
    assert report.comparisons == whole.comparisons
    assert report.series == whole.series
    assert report.sample_ratio == whole.sample_ratio


def test_a_window_is_final_only_when_its_label_window_closed(tmp_path: Path) -> None:
    """Late labels: a click at the last moment counts, one later does not; before that nothing is final."""
    config = write_config(tmp_path)
    settings = load_settings(config)
    shown, _ = make(settings, World(1_400, partitions=1, rate=0.0001))
    log = open_log(settings.log.url, create=True)
    for topic in ("impressions", "clicks"):
        log.create_topic(topic, 1)
    log.append("impressions", shown)
    end_ms = START_MS // WINDOW_MS * WINDOW_MS + WINDOW_MS
    last = (end_ms - 1 - START_MS) // STEP_MS  # the last impression of the first window
    at_ms = START_MS + STEP_MS * last + 5_000

    def click(event: int, ts_ms: int) -> Record:
        value = msgspec.json.encode(Click(v=1, event_id=f"e{event}", ts_ms=ts_ms))
        return Record(f"e{event}".encode(), value, ts_ms)

    log.append("clicks", [click(last, at_ms), click(last - 1, at_ms)])
    log.close()
    stop = threading.Event()
    seen: list[Report] = []

    def look(watcher: Watcher) -> None:
        watermark_ms = watcher.core.pipeline.stage.watermark_ms
        latest = build_report(watcher.core.experiment, settings, Progress(), now_ms=0)
        seen.append(latest)
        first = latest.series[0]
        assert first.final == (watermark_ms >= end_ms + 6_000), watermark_ms - end_ms
        if watermark_ms >= START_MS + STEP_MS * 1_399:
            stop.set()

    config = write_config(tmp_path, chunk=8)
    report, _ = watch(config, look, stop)
    before = [each.series[0] for each in seen if not each.series[0].final]
    assert len(before) > 10
    # Provisional figures are of settled labels only, so that they are not biased by clicks to come.
    arms = before[-1].arms
    assert 0 < sum(arm.impressions for arm in arms.values()) < sum(arm.shown for arm in arms.values())
    assert all(not arm.total for arm in arms.values())
    assert before[-1].comparisons == {}
    first = report.series[0]
    assert first.final
    assert first.end_ms == end_ms
    assert sum(arm.clicks for arm in first.arms.values()) == 1
    assert report.progress.final_until_ms == end_ms
    assert sum(arm.impressions for arm in report.arms) == last + 1
    assert not report.series[-1].final


def test_a_new_salt_is_a_new_experiment_and_the_old_report_is_kept(tmp_path: Path) -> None:
    config, before, watcher = planted(tmp_path, World(3_000))
    config = write_config(tmp_path, salt="two/ä")
    write_log(tmp_path, load_settings(config), World(2_000, seed=1), start=3_000)
    after, _ = watch(config)
    assert after.salt == "two/ä"
    assert sum(arm.impressions for arm in after.arms) == 2_000
    assert after.earlier == ["one"]
    kept = read_report(watcher.folder / "earlier" / "one.json")
    assert (kept.salt, kept.comparisons) == ("one", before.comparisons)
    alone = write_config(tmp_path, "alone", salt="two/ä")
    fresh, _ = watch(alone)
    assert fresh.excluded["other_salt"] == 3_000
    assert fresh.sample_ratio == after.sample_ratio
    assert [(arm.impressions, arm.users) for arm in fresh.arms] == [
        (arm.impressions, arm.users) for arm in after.arms
    ]


def test_a_new_salt_does_not_inherit_open_labels(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_log(tmp_path, load_settings(config), World(2_000))
    stop = threading.Event()
    watch(config, lambda watcher: stop.set() if watcher.core.stage.progress.applied > 1_200 else None, stop)
    _, watcher = watch(write_config(tmp_path, salt="two", arms=SHADOW))
    assert watcher.core.pipeline.outcomes["impressions"] == 2_000
    assert sum(arm.impressions for arm in read_report(watcher.folder / "report.json").arms) == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"watch": "level = 0.1"}, r"level = 0\.05, the configuration has 0\.1"),
        ({"arms": SHADOW}, r"was declared with arms"),
        ({"watch": "horizon_impressions = 5"}, "horizon_impressions = 0"),
        ({"watch": "user_impressions = 5"}, "user_impressions = 1000"),
        ({"watch": "max_excluded = 0.5"}, r"max_excluded = 0\.01"),
    ],
)
def test_the_declaration_cannot_change_under_a_salt(tmp_path: Path, change: Change, text: str) -> None:
    planted(tmp_path, World(300))
    with pytest.raises(StateError, match=text + r".*start a new experiment with a new experiment\.salt"):
        watch(write_config(tmp_path, **change))


def test_the_coverage_can_be_raised_in_a_running_experiment(tmp_path: Path) -> None:
    _, report, _ = planted(tmp_path, World(2_000), experiment="coverage = 0.2")
    assert report.excluded["not_enrolled"] > 1_000
    config = write_config(tmp_path, experiment="coverage = 1.0")
    write_log(tmp_path, load_settings(config), World(2_000), start=2_000)
    raised, _ = watch(config)
    assert raised.coverage == 1.0
    assert raised.excluded["not_enrolled"] == report.excluded["not_enrolled"]
    assert sum(arm.impressions for arm in raised.arms) == 4_000 - report.excluded["not_enrolled"]
    assert raised.sample_ratio.sound


def test_which_impressions_enter_a_comparison(tmp_path: Path) -> None:
    """Fallback and killed count as assigned; not enrolled, testers and what does not fit count nowhere."""
    config = write_config(tmp_path, watch="max_excluded = 0.1")
    settings = load_settings(config)
    base, _ = make(settings, World(400, partitions=1))
    table = [json.loads(record.value or b"") for record in base]
    new = [number for number, each in enumerate(table) if each["assigned_arm"] == "new"]
    for number in new[:20]:
        table[number] |= {"reason": "fallback", "arm": "control"}
    for number in new[-30:]:
        table[number] |= {"reason": "killed", "arm": "control"}
    changes = [
        {"reason": "override", "arm": "new"},
        {"reason": "not_enrolled", "assigned_arm": "", "arm": "control"},
        {"reason": "sampled", "assigned_arm": "", "arm": "new"},
        {"user": ""},
        {"assigned_arm": "gone"},
        {"salt": "other"},
        {"bucket": (table[new[26]]["bucket"] + 1) % 10_000},
        {"assigned_arm": "control"},
    ]
    for number, change in zip(new[20:28], changes, strict=True):
        table[number] |= change
    log = open_log(settings.log.url, create=True)
    for topic in ("impressions", "clicks"):
        log.create_topic(topic, 1)
    log.append(
        "impressions", [Record(e["event_id"].encode(), json.dumps(e).encode(), e["ts_ms"]) for e in table]
    )
    log.close()
    report, _ = watch(config)
    assert report.excluded == {
        "override": 1,
        "not_enrolled": 2,
        "no_user": 1,
        "unknown_arm": 1,
        "other_salt": 1,
        "inconsistent": 2,
    }
    treatment = report.arms[1]
    assert treatment.reasons == {"assigned": len(new) - 58, "fallback": 20, "killed": 30}
    assert treatment.impressions == len(new) - 8
    assert treatment.killed
    assert not report.arms[0].killed
    assert "switched off" in " ".join(report.verdict)
    assert any("2 impressions (0.5 %) with a bucket that does not match the user" in n for n in report.notes)
    found = {each.reason: each for each in report.exclusions}
    assert found.keys() == report.excluded.keys()
    assert {name for name, each in found.items() if each.fault} == {"no_user", "unknown_arm", "inconsistent"}
    assert found["inconsistent"].arms == {"control": 1, "new": 1}
    control = 400 - len(new)
    assert found["inconsistent"].arm_shares["control"] == pytest.approx(1 / (control + 1))
    assert found["no_user"].arms == {"new": 1}
    assert found["unknown_arm"].arms == {}
    # Four faults among 400 impressions less those of testers, of nobody, and of another experiment.
    assert report.sample_ratio.excluded_share == pytest.approx(4 / 396)
    assert report.sample_ratio.sound


def test_a_labelled_topic_gives_the_same_experiment(tmp_path: Path) -> None:
    config, report, _ = planted(tmp_path, World(4_000, uplift=0.3))
    settings = load_settings(config)
    log = open_log(settings.log.url)
    try:
        with Reporter("test", quiet=True) as reporter:
            JoinDaemon(settings, log, reporter).run(threading.Event(), 0.0)
    finally:
        log.close()
    other = write_config(tmp_path, "labelled")
    text = other.read_text().replace("[join]", '[join]\ninput = "labelled"')
    other.write_text(text)
    found, _ = watch(other)
    assert found.sample_ratio.users == report.sample_ratio.users
    for one, two in zip(found.arms, report.arms, strict=True):
        assert (one.impressions, one.clicks, one.users) == (two.impressions, two.clicks, two.users)
        for name, figure in one.figures.items():
            assert figure.estimate == pytest.approx(two.figures[name].estimate, rel=1e-9), name
    other.write_text(text.replace("[join]", '[join]\nrelease = "click"'))
    with pytest.raises(ConfigError, match=r"set join\.release = 'window'"):
        watch(other)


def test_sums_for_servers_and_gaps_from_them(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "experiment"
    folder.mkdir(parents=True)
    line = {"worker": "a:1", "start_ms": 5, "end_ms": 9, "dropped": 3, "reason": "", "v": 1}
    (folder / "gaps.jsonl").write_text(json.dumps(line) + "\n{half")
    _, report, _ = planted(tmp_path, World(2_000))
    sums = read_sums(folder)
    assert isinstance(sums, Sums)
    assert sums.salt == "one"
    assert {name: (each.impressions, each.clicks) for name, each in sums.arms.items()} == {
        arm.name: (arm.impressions, arm.clicks) for arm in report.arms
    }
    for arm in report.arms:
        predicted = sums.arms[arm.name].predicted
        assert predicted is not None
        assert 0.5 < predicted / arm.clicks < 2.0
    assert [(gap.start_ms, gap.end_ms, gap.dropped) for gap in report.gaps] == [(5, 9, 3)]
    assert any("could not log impressions in 1 span; 3 impressions were" in note for note in report.notes)
