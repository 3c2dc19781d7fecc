"""Verdicts: no single user decides one, each missing one has its true reason, and all outputs agree."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from io import StringIO

import msgspec
import numpy as np
import pytest
from rich.console import Console

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.experiments.report.model import Figure, Report, encode_report
from stream_ctr.experiments.report.plot import PANELS, draw_report
from stream_ctr.experiments.report.table import print_report
from stream_ctr.experiments.report.text import VERDICT_WORDS, signed
from stream_ctr.experiments.statistics.confidence_sequence import ConfidenceSequence
from stream_ctr.experiments.watcher.sums import BucketSums
from stream_ctr.state.state import State
from tests.support.folded_experiments import WATCH, Shown, Stage, fold, judged, play, report

DECIDED = {"better", "worse"}


def with_bot(seed: int, bot_impressions: int, ordinary: int = 3_000, clicks: bool = False) -> list[Shown]:
    """An A/A test with one very active user of the second arm, who starts in the middle."""
    stage = Stage()
    found, half = stage.ordinary(300, ordinary, seed, 300 / ordinary), ordinary // 2
    bot = stage.of_arm("new", f"bot{seed}-")
    crawled = [stage.show(bot, clicks) for _ in range(bot_impressions)]
    step = max(1, bot_impressions // half)
    mixed = found[:half]
    for number, each in enumerate(found[half:]):
        mixed += [each, *crawled[number * step : (number + 1) * step]]
    mixed += crawled[half * step :]
    return [
        Shown(msgspec.structs.replace(each.record, ts_ms=1_700_000_000_000 + 20 * number), each.label)
        for number, each in enumerate(mixed)
    ]


def verdicts(found: Report) -> set[str]:
    return {figure.verdict for each in found.comparisons for figure in each.figures.values()}


def ever_decided(found: Report) -> bool:
    """Whether an interval of CTR or ADVV excluded zero at the end of any window."""
    spans = [
        p.comparisons.get("new", {}).get(name) for p in found.series for name in ("ctr", "advv", "ctr_uplift")
    ]
    return any(
        s is not None and s.low is not None and s.high is not None and not s.low <= 0 <= s.high for s in spans
    )


@pytest.mark.parametrize("cap", [0, 1_000, 100])
def test_a_single_user_decides_no_verdict(cap: int) -> None:
    found = judged(with_bot(7, 10_000), user_impressions=cap)
    new = found.arms[1]
    assert new.heaviest_impressions == 10_000
    assert new.heaviest_share == pytest.approx(10_000 / (new.impressions + new.over_cap))
    assert new.over_cap == (10_000 - cap if cap else 0)
    assert not ever_decided(found)
    (warning,) = found.warnings
    assert re.match(r"One user has 8\d\.\d % of new's impressions \(10,000\)", warning)
    ctr = found.comparisons[0].figures["ctr"]
    if cap == 100:  # what the user adds is little: the interval is given, and holds zero
        assert (ctr.verdict, ctr.why) == ("unknown", "")
    else:
        assert ctr.verdict == "early"
        assert "of 30 effective buckets of users needed in new (one bucket has" in ctr.why
        assert ctr.why in found.verdict[1]


def test_an_a_a_test_with_a_bot_keeps_the_level() -> None:
    """Bots of 10 to 1,000 impressions, looked at after every window: level 0.05, 30 runs."""
    draws = np.random.default_rng(1)
    wrong = 0
    for seed in range(30):
        bot = int(10 ** draws.uniform(1, 3))
        wrong += ever_decided(judged(with_bot(seed, bot, 1_500, clicks=seed % 2 == 0)))
    assert wrong <= 4  # more than 4 of 30 have probability 1.6 % at a true share of 5 %


def test_ordinary_users_are_not_capped_and_a_true_uplift_is_detected() -> None:
    found = judged(Stage().ordinary(1_000, 12_000, uplift=0.5))
    assert [arm.over_cap for arm in found.arms] == [0, 0]
    assert found.warnings == []
    assert found.comparisons[0].figures["ctr_uplift"].verdict == "better"
    assert found.arms[0].effective_users == pytest.approx(found.arms[0].users, rel=0.01)


def brute_force(shown: list[Shown], cap: int) -> dict[str, dict[str, tuple[float, float]]]:
    """CTR and ADVV with their standard errors by arm, from the rows, in loops."""
    met: dict[str, int] = defaultdict(int)
    tops: dict[str, dict[str, dict[int | None, float]]] = {
        arm: {name: defaultdict(float) for name in ("ctr", "advv", "n")} for arm in ("control", "new")
    }
    for each in shown:
        met[each.record.user] += 1
        if met[each.record.user] > cap:
            continue
        own, bucket = tops[each.record.assigned_arm], each.record.bucket
        own["n"][bucket] += 1
        own["ctr"][bucket] += each.label
        own["advv"][bucket] += 1_000 * each.label * each.record.bid
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for arm, own in tops.items():
        number, filled = sum(own["n"].values()), len(own["n"])
        found[arm] = {}
        for name in ("ctr", "advv"):
            value = sum(own[name].values()) / number
            squares = sum((own[name][b] - value * n) ** 2 for b, n in own["n"].items())
            found[arm][name] = value, math.sqrt(filled / (filled - 1) * squares) / number
    return found


def test_figures_cover_the_first_impressions_of_each_user() -> None:
    cap = 12
    stage = Stage()
    draws = np.random.default_rng(5)
    shown = [
        stage.show(
            f"u{int(600 * draws.random() ** 2)}", draws.random() < 0.2, float(np.exp(draws.standard_normal()))
        )
        for _ in range(9_000)
    ]
    expected = brute_force(shown, cap)
    found = judged(shown, user_impressions=cap)
    figures = found.comparisons[0].figures
    assert sum(arm.over_cap for arm in found.arms) > 1_000
    for arm in found.arms:
        for name, (value, _) in expected[arm.name].items():
            assert arm.figures[name].estimate == pytest.approx(value, rel=1e-9)
    sequence = ConfidenceSequence(WATCH.level, WATCH.planned_impressions)
    for name in ("ctr", "advv"):
        (one, spread), (other, its) = expected["new"][name], expected["control"][name]
        factor = sequence.factor(sum(arm.impressions for arm in found.arms))
        assert figures[name].low == pytest.approx(one - other - factor * math.hypot(spread, its), rel=1e-6)
        for end in (figures[f"{name}_uplift"].low, figures[f"{name}_uplift"].high):
            quotient = 1.0 + (end or 0.0)  # at an end the difference is exactly that many errors away
            errors = math.hypot(spread, quotient * its)
            assert abs(one - quotient * other) == pytest.approx(factor * errors, rel=1e-6)


def ordinary(users: int, impressions: int, rate: float = 0.1) -> list[Shown]:
    return Stage().ordinary(users, impressions, rate=rate)


def without_bids() -> list[Shown]:
    return Stage().ordinary(600, 4_000, bid=0.0)


def mixed_bids() -> list[Shown]:
    shown = Stage().ordinary(600, 5_000)
    return [
        each if number % 3 else Shown(msgspec.structs.replace(each.record, bid=0.0), each.label)
        for number, each in enumerate(shown)
    ]


def few_priced() -> list[Shown]:
    shown = Stage().ordinary(600, 4_000)
    return [
        each if number % 50 == 0 else Shown(msgspec.structs.replace(each.record, bid=0.0), each.label)
        for number, each in enumerate(shown)
    ]


def one_arm() -> list[Shown]:
    return [each for each in Stage().ordinary(600, 4_000) if each.record.assigned_arm == "control"][:5]


def silent(*names: str) -> list[Shown]:
    """Impressions without a probability of these arms."""
    found = ordinary(600, 3_000)
    for each in found:
        each.record.p = {name: p for name, p in each.record.p.items() if name not in names}
    return found


silent_new, silent_both = partial(silent, "new"), partial(silent, "new", "control")
few_clicks, few_buckets = partial(ordinary, 600, 400), partial(ordinary, 90, 4_000)
all_clicked, a_bot = partial(ordinary, 600, 3_000, 1.0), partial(with_bot, 1, 4_000)


def odd_bids() -> list[Shown]:
    shown = Stage().ordinary(600, 4_000)
    for number, bid in enumerate((1e308, math.inf, -1.0, math.nan, 1.5e308, -1e308)):
        for each in shown[number::40]:
            each.record.bid = bid
    return shown


REASONS: dict[str, tuple[Callable[[], list[Shown]], str, str, str]] = {
    "no bids": (without_bids, "advv", "missing", "^no impression has a bid$"),
    "no bids, CTR": (without_bids, "ctr", "unknown", ""),
    "few bids": (
        few_priced,
        "advv_uplift",
        "early",
        r"^\d+ of 100 clicks with a bid needed in control; \d+ of",
    ),
    "few clicks": (few_clicks, "ctr_uplift", "early", r"^\d\d of 100 clicks needed in control"),
    "few buckets": (few_buckets, "ctr", "early", r"\d\d of 100 buckets of users needed in "),
    "a bot": (a_bot, "ctr", "early", r"^\d.* of 30 effective buckets of users needed in new"),
    "an arm is empty": (one_arm, "ctr", "early", "; no impressions in new$"),
    "an arm without p": (silent_new, "log_loss", "missing", "has predictions by both new and"),
    "no p": (silent_both, "auc", "missing", "no impression has predictions by both"),
    "all clicked": (all_clicked, "normalized_entropy", "early", "^every impression was clicked$"),
    "odd bids": (odd_bids, "advv", "unknown", ""),
    "mixed bids": (mixed_bids, "advv", "unknown", ""),
}
"""Impressions, a figure, its verdict, and its reason."""


@pytest.mark.parametrize("case", REASONS)
def test_a_figure_without_a_verdict_has_its_true_reason(case: str) -> None:
    shown, name, verdict, why = REASONS[case]
    found = judged(shown())
    figure = found.comparisons[0].figures[name]
    assert figure.verdict == verdict
    assert re.search(why, figure.why) if why else figure.why == ""
    assert (figure.low is None) == (figure.high is None) == bool(why)
    assert_forms_agree(found)


def test_bids_too_large_to_sum_are_ignored_and_reported() -> None:
    """Warnings are errors in tests: an overflow would raise."""
    found = judged(odd_bids())
    assert sum(arm.unusable_bids for arm in found.arms) == 600
    assert any("600 bids are negative, not finite or above 1e12" in note for note in found.notes)
    advv = found.comparisons[0].figures["advv"]
    assert advv.estimate is not None
    assert abs(advv.estimate) < 1_000


def test_a_note_mentions_bids_only_if_some_impressions_have_one() -> None:
    said = r"Only some impressions have a bid \(6\d\.\d % of control's, 6\d\.\d % of new's\)"
    assert any(re.match(said, note) for note in judged(mixed_bids()).notes)
    for shown in (without_bids(), Stage().ordinary(600, 2_000)):
        assert not any("have a bid" in note for note in judged(shown).notes)


def misplaced(share: float) -> list[Shown]:
    """Impressions of the new arm, some of them under another arm than the user's."""
    found, new = [], 0
    for each in Stage().ordinary(1_000, 8_000):
        record = each.record
        if record.assigned_arm == "new":
            new += 1
            if int(new * share) > int((new - 1) * share):
                record = msgspec.structs.replace(record, assigned_arm="control", arm="control")
        found.append(Shown(record, each.label))
    return found


@pytest.mark.parametrize(("share", "sound"), [(0.0, True), (0.008, True), (0.03, False), (0.2, False)])
def test_too_many_exclusions_make_the_split_unsound(share: float, sound: bool) -> None:
    found = judged(misplaced(share))
    split = found.sample_ratio
    assert split.p >= split.level  # users alone show nothing
    assert split.sound == sound
    assert split.excluded["control"] == pytest.approx(share / (1 + share), rel=0.1)
    assert ("withheld" in verdicts(found)) == (not sound)
    assert verdicts(found) == {"withheld"} or sound
    assert found.verdict[0].startswith(
        "The traffic split is sound: no" if sound else "The traffic split is not sound: "
    )
    if not sound:
        assert "of control's impressions are excluded, more than the allowed 1.0 % (" in found.verdict[0]
        assert all(not point.comparisons for point in found.series)
    assert_forms_agree(found)
    assert judged(misplaced(share), max_excluded=0.5).sample_ratio.sound


SHADOWED = ExperimentConfig(
    salt="one",
    arms=(ArmConfig("control", 0.5), ArmConfig("new", 0.5), ArmConfig("quiet", 0.0, shadow=True)),
)


def lopsided() -> list[Shown]:
    """Half of one arm's users lost: the users do not fit their shares."""
    shown = Stage().ordinary(2_000, 8_000)
    return [each for each in shown if each.record.assigned_arm == "control" or int(each.record.user[3:]) % 2]


@pytest.mark.parametrize(
    ("impressions", "uplift"),
    [(0, 0.0), (300, 0.0), (3_000, -0.95), (3_000, -0.4), (3_000, 0.0), (3_000, 4.0)],
)
def test_sentence_table_json_and_plot_agree(impressions: int, uplift: float) -> None:
    experiment = fold(Stage(SHADOWED).ordinary(800, impressions, 2, 0.15, uplift), experiment=SHADOWED)
    assert_forms_agree(report(experiment))


def test_sentence_table_json_and_plot_agree_on_an_unsound_split() -> None:
    found = judged(lopsided())
    assert not found.sample_ratio.sound
    assert_forms_agree(found)


def assert_forms_agree(found: Report) -> None:
    """Sentence, table, JSON and plot of one report agree on each figure."""
    out = StringIO()
    print_report(found, Console(file=out, width=400))
    table = out.getvalue()
    encoded = json.loads(encode_report(found))
    for number, comparison in enumerate(found.comparisons):
        rows = table.split(f"{comparison.arm} minus {comparison.control}")[1:]
        for name, figure in comparison.figures.items():
            assert (figure.verdict in ("early", "missing", "withheld")) == bool(figure.why), name
            assert (figure.low is None) == bool(figure.why), name
            assert_possible(name, figure)
            title = next(each.title for each in found.definitions if each.name == name)
            row = next(line for line in rows[0].splitlines() if line.startswith(f"│ {title} "))
            assert row.rstrip("│ ").endswith(f" {VERDICT_WORDS[figure.verdict]}"), row
            assert figure.why in table
            written = encoded["comparisons"][number]["figures"][name]
            assert (written["verdict"], written["why"]) == (figure.verdict, figure.why)
            assert (written["low"], written["high"]) == (figure.low, figure.high)
        assert_sentence(comparison.verdict, comparison.figures)
        if found.sample_ratio.sound:
            assert comparison.verdict in found.verdict
    for line in (*found.verdict, *found.warnings, *found.notes):
        assert line in table
    if any(point.final for point in found.series):
        assert_picture(found)


def assert_sentence(sentence: str, figures: dict[str, Figure]) -> None:
    plain = sentence.replace("97.5", "95")
    for name, title in (("ctr", "CTR"), ("advv", "ADVV"), ("log_loss", "log loss")):
        if name not in figures:
            continue
        figure, uplift = figures[name], figures.get(f"{name}_uplift")
        words = VERDICT_WORDS[figure.verdict]
        if figure.verdict == "withheld":
            assert f"{words}: {figure.why}" in sentence
        elif figure.why:
            assert f"{title}: {words}: {figure.why}" in sentence
        else:
            assert re.search(rf"{title} (is|difference) {words} \(", sentence), sentence
            if uplift is not None and uplift.low is not None:
                assert uplift.verdict == figure.verdict
                assert f"({signed(uplift.estimate)}, 95 % CI {signed(uplift.low)} to" in plain


def assert_possible(name: str, figure: Figure) -> None:
    if figure.low is None or figure.high is None or figure.estimate is None:
        return
    assert figure.low <= figure.estimate <= figure.high
    if name.endswith("_uplift"):
        assert figure.low >= -1.0
    if name in ("ctr", "auc"):
        assert figure.low >= -1.0
        assert figure.high <= 1.0


def assert_picture(found: Report) -> None:
    drawn = draw_report(found, "report.png")
    for axes, (name, _, _) in zip(drawn.axes, PANELS, strict=True):
        text = " ".join(each.get_text() for each in axes.texts).replace("\n", " ")
        for comparison in found.comparisons:
            figure = comparison.figures.get(name)
            if figure is not None and figure.why:
                assert f"{VERDICT_WORDS[figure.verdict]}: {figure.why}" in text
            elif figure is not None:
                assert f"{comparison.arm}:" not in text


def test_the_page_uses_the_same_verdict_words() -> None:
    script = (files("stream_ctr.experiments.report") / "page" / "text.js").read_text("utf-8")
    found = dict(re.findall(r'^  (\w+): \{ sign: ".", text: "([^"]+)" \},$', script, re.MULTILINE))
    assert {name: found[name] for name in VERDICT_WORDS} == VERDICT_WORDS


def as_of_before(state: State) -> State:
    """The state as written by versions without a cap."""
    names = ("exposure.", "users.impressions", "sums.priced", "sums.unusable_bids")
    arrays = {name: array for name, array in state.arrays.items() if not name.startswith(names)}
    values = {name: value for name, value in state.values.items() if name != "exposure"}
    noted = values["noted"]
    assert isinstance(noted, dict)
    declared = noted["declared"]
    assert isinstance(declared, dict)
    kept = {
        name: value for name, value in declared.items() if name not in ("user_impressions", "max_excluded")
    }
    left = {name: value for name, value in noted.items() if name not in ("excluded_arms", "reasons_without")}
    return State(arrays, {**values, "noted": {**left, "declared": kept}})


def test_an_experiment_of_an_earlier_version_continues_as_declared() -> None:
    shown = with_bot(3, 6_000)
    before = fold(shown[:7_000], replace(WATCH, user_impressions=0))
    after = fold([])
    after.load_state(as_of_before(before.state()))
    found = report(after)
    assert any("earlier version" in note for note in found.notes)
    assert found.settings.user_impressions == 0
    assert found.comparisons[0].figures["ctr"].verdict == "early"
    assert "effective buckets" in found.comparisons[0].figures["ctr"].why
    assert not ever_decided(found)  # intervals of the earlier version are not shown
    # Payloads of open labels from earlier versions have no user; those impressions count.
    record = shown[7_000].record
    payload = after.shown(record, record.ts_ms)
    after.settled(payload[:-8], 7_000, record.ts_ms, 0.0)
    play(after, shown[7_001:], first=7_001)
    assert sum(arm.impressions for arm in report(after).arms) == len(shown)
    again = fold([])
    again.load_state(after.state())
    assert again.capless
    assert again.exposure.cap == 0
    assert report(again) == report(after)


@pytest.mark.parametrize(("bid", "priced"), [(1.0, True), (0.0, False)])
def test_sums_of_an_earlier_version_have_bids_or_none(bid: float, priced: bool) -> None:
    sums = fold(Stage().ordinary(300, 2_000, bid=bid)).sums
    state = sums.state()
    left = {
        name: array for name, array in state.arrays.items() if not name.startswith(("priced", "unusable"))
    }
    loaded = BucketSums(2, WATCH.clip_quantile)
    loaded.load_state(State(left, state.values))
    expected = sums.impressions.sum(axis=1) * priced
    assert loaded.priced.tolist() == expected.tolist()
