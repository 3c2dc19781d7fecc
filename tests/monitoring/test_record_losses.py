"""Shares of recent records against a brute-force count, and when they are a warning."""

from __future__ import annotations

import random

import pytest

from stream_ctr.config.losses import LossesConfig
from stream_ctr.events.log import Entry
from stream_ctr.monitoring.dead_letter_reasons import MOST_REASONS, OTHER, ReasonCounts, reason_pattern
from stream_ctr.monitoring.record_losses import LOSSES, LossCounts, LossMonitor, RecentShare

WINDOW = 1000


@pytest.mark.parametrize("seed", range(5))
def test_a_share_is_that_of_about_the_last_records(seed: int) -> None:
    generator = random.Random(seed)
    share, lost = RecentShare(WINDOW), list[bool]()
    for _ in range(400):
        rate = generator.choice([0.0, 0.02, 0.5, 1.0])
        lost += [generator.random() < rate for _ in range(generator.randrange(1, 60))]
        share.update(len(lost), sum(lost))
        # The window ends here and begins at one of the totals that were taken.
        assert share.lost == sum(lost[len(lost) - share.read :])
        assert share.read == len(lost) or WINDOW <= share.read <= WINDOW + WINDOW // 16 + 60


def counts(read: int, late: int) -> LossCounts:
    return LossCounts({"impressions": read, "clicks": 0}, {"impressions_late": late})


def test_a_new_problem_is_detected_and_so_is_its_end() -> None:
    monitor = LossMonitor(LossesConfig(warn_share=0.01, window_records=WINDOW, minimum_records=20))
    changes, late = [], 0
    for read in range(0, 110_000, 10):
        late += 1 if 100_000 <= read < 101_000 else 0  # a tenth of 1,000, after 100,000 good ones
        began, ended = monitor.update(counts(read, late))
        changes += [(read, "began", name) for name in began] + [(read, "ended", name) for name in ended]
    (began_at, *began), (ended_at, *ended) = changes
    assert (began, ended) == (["began", "impressions_late"], ["ended", "impressions_late"])
    assert 100_190 <= began_at <= 100_250  # with the 20th that is lost
    assert 101_000 < ended_at < 102_500


def test_a_share_that_stays_at_the_limit_is_one_warning() -> None:
    monitor = LossMonitor(LossesConfig(warn_share=0.1, window_records=WINDOW, minimum_records=1))
    began = ended = late = 0
    for step in range(4000):
        late += 9 + 2 * (step // 40 % 2)  # 9 % and 11 % in turn
        changes = monitor.update(counts(100 * step, late))
        began, ended = began + len(changes[0]), ended + len(changes[1])
    assert (began, ended) == (1, 0)


def test_few_losses_are_no_warning_and_repeats_never() -> None:
    monitor = LossMonitor(LossesConfig(minimum_records=20))
    repeated = {"impressions_repeated": 1000, "clicks_repeated": 1000, "clicks_orphaned": 19}
    assert monitor.update(LossCounts({"impressions": 1000, "clicks": 1000}, repeated)) == ([], [])
    assert monitor.update(LossCounts({"impressions": 1000, "clicks": 1000}, {"clicks_orphaned": 20})) == (
        ["clicks_orphaned"],
        [],
    )


def test_a_limit_of_one_never_warns() -> None:
    monitor = LossMonitor(LossesConfig(warn_share=1.0, minimum_records=1))
    everything = {loss.name: 1000 for loss in LOSSES}
    assert monitor.update(LossCounts({"impressions": 1000, "clicks": 1000}, everything)) == ([], [])


@pytest.mark.parametrize(
    ("reasons", "pattern"),
    [
        (
            [
                "field 'C14': expected a number, got 'abc' (str)",
                "field 'C14': expected a number, got 'x\\'y' (str)",
            ],
            "field 'C14': expected a number, got '...' (str)",
        ),
        (
            ["p['a'] must be between 0 and 1, got 1.5", "p['b'] must be between 0 and 1, got 2e+30"],
            "p['...'] must be between N and N, got N",
        ),
        (["JSON is malformed: invalid character (byte 17)"], "JSON is malformed: invalid character (byte N)"),
        (["Expected `str`, got `null` - at `$.user`"], "Expected `str`, got `null` - at `$.user`"),
        (["unknown field 'device': the schema has ad"], "unknown field 'device': the schema has ad"),
        (["ts_ms must be between 0 and 253402300799999, got -17"], "ts_ms must be between N and N, got N"),
    ],
)
def test_values_do_not_split_a_reason(reasons: list[str], pattern: str) -> None:
    assert {reason_pattern(reason) for reason in reasons} == {pattern}


def entry(offset: int) -> Entry:
    return Entry("clicks", 1, offset, 0, None, None)


def test_reasons_are_bounded_and_the_most_frequent_comes_first() -> None:
    found = ReasonCounts()
    for number in range(3 * MOST_REASONS):
        found.add(entry(number), f"unknown field 'x{number}': the schema has ad")
    for number in range(200):
        found.add(entry(1000 + number), f"v = {number} is not a version")
    for number in range(3):
        found.add(entry(number), "unknown field 'x7': the schema has ad")
    listed = found.most()
    assert len(listed) == MOST_REASONS + 1
    # What is beyond the bound is counted all the same.
    assert (listed[0].reason, listed[0].count) == (OTHER, 2 * MOST_REASONS + 200)
    assert (listed[1].reason, listed[1].count) == ("unknown field 'x7': the schema has ad", 4)
    assert listed[1].place == "clicks[1] offset 7"
    assert sum(item.count for item in listed) == 3 * MOST_REASONS + 203
