"""Data model of the experiment's report: plain structs, written and read as JSON by msgspec.

Times ``_ms`` are Unix milliseconds, in event time unless stated otherwise. An unknown figure is null, and so
is the end of an interval that does not exist. Figures are keyed by the names in ``definitions``, which
explain them, so that a reader can display figures that it does not know by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from stream_ctr.errors import DataError

REPORT_VERSION = 2
"""Version of the structure. Added fields do not change it: readers skip unknown fields. Version 2 added the
verdict ``missing``; reports of version 1 can still be read."""

Verdict = Literal["better", "worse", "unknown", "early", "missing", "withheld"]
"""better, worse: the interval excludes zero, in this arm's favour or against it. unknown: it contains zero.
early: no interval yet, because there are too few clicks or users. missing: the log lacks the data for the
figure. withheld: the split is not sound. For the last three ``why`` gives the reason."""


class Definition(msgspec.Struct, kw_only=True):
    """Definition of a figure."""

    name: str
    """Key of the figure in this report."""
    title: str
    """Heading for a table or a chart."""
    unit: str
    """share, relative, per_mille (value per thousand impressions), nats, ratio or area."""
    better: Literal["higher", "lower", "one"]
    """Which direction is better; one: the closer to 1."""
    paired: bool
    """Whether every arm is evaluated on the same impressions, whichever arm answered."""
    method: str
    """How estimate and interval are computed, in a sentence."""


class Bounded(msgspec.Struct, kw_only=True):
    """An estimate and its always-valid interval."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None


class Figure(Bounded, kw_only=True):
    """One figure of a comparison: arm minus control or, if the unit is relative, arm / control - 1."""

    p: float | None = None
    """Always-valid p-value: below the level if the interval excludes zero."""
    impressions: int = 0
    """Impressions that the figure is computed from."""
    verdict: Verdict = "early"
    why: str = ""
    """Why there is no interval, in a few words; empty if there is one."""
    final: bool = True
    """Whether the labels of all its impressions are settled."""


class Horizon(msgspec.Struct, kw_only=True):
    """The pre-registered look: ordinary intervals, computed exactly once."""

    impressions: int
    """Impressions in comparisons at which the look is due."""
    reached_ms: int | None = None
    """End of the window in which they were reached; null: not yet reached."""
    figures: dict[str, Figure] = {}
    """Figures at that time; ``p`` is that of the ordinary two-sided test."""


class Comparison(msgspec.Struct, kw_only=True):
    """One arm against the control."""

    arm: str
    control: str
    level: float
    """Probability that a figure's interval is ever wrong: the experiment's level, split over the
    comparisons."""
    figures: dict[str, Figure] = {}
    """A shadow arm has paired figures only."""
    horizon: Horizon | None = None
    """Null if no look was declared."""
    verdict: str = ""
    """The verdict on the arm as a sentence."""
    leading: Verdict = "early"
    """Verdict of the first figure in the sentence: CTR or, for a shadow arm, log loss."""


class Model(msgspec.Struct, kw_only=True):
    """The model that an arm serves."""

    version: str = ""
    """Version in the arm's latest impression."""
    created_ms: int | None = None
    """Wall-clock time at which the newest snapshot was written; null if the watcher cannot read it."""
    event_time_ms: int | None = None
    """Event time up to which that snapshot has learned."""
    age_seconds: float | None = None
    """Wall-clock time from ``created_ms`` to the report."""


class Arm(msgspec.Struct, kw_only=True):
    """State and figures of one arm."""

    name: str
    control: bool = False
    shadow: bool = False
    """Whether it predicts but never answers."""
    killed: bool = False
    """Whether its latest impression was answered by the control because the arm was killed."""
    weight: float = 0.0
    """Expected share of the enrolled users."""
    share: float | None = None
    """Actual share of the enrolled users seen so far."""
    users: int = 0
    """Distinct users assigned to it."""
    impressions: int = 0
    """Impressions of its users with settled labels, in closed windows."""
    clicks: int = 0
    """Impressions among these that were clicked."""
    over_cap: int = 0
    """Impressions that do not count because their user already had ``user_impressions``."""
    effective_users: float | None = None
    """Effective number of users: squared number of counted impressions over the sum of squares by user."""
    heaviest_impressions: int = 0
    """Impressions of its most active user, before the cap."""
    heaviest_share: float | None = None
    """That user's share of the arm's impressions, before the cap."""
    with_bid: int = 0
    """Impressions with a usable bid; the others have value 0."""
    unusable_bids: int = 0
    """Impressions whose bid is negative, not finite or too large to be summed."""
    reasons: dict[str, int] = {}
    """Impressions of its users by the reason why an arm answered: assigned, fallback, killed."""
    learn_from: str = "all"
    """all: its trainer learns from all traffic. own: only from the impressions that the arm served."""
    model: Model = msgspec.field(default_factory=Model)
    figures: dict[str, Bounded] = {}
    """ctr, advv, advv_clipped of its users; log_loss, normalized_entropy, auc and calibration of its
    predictions on all impressions in comparisons."""
    why: dict[str, str] = {}
    """By figure: why it has no interval."""


class SampleRatio(msgspec.Struct, kw_only=True):
    """Checks for a sample-ratio mismatch, repeated after every new user."""

    users: dict[str, int] = {}
    """Distinct users by arm."""
    expected: dict[str, float] = {}
    """Expected share of users by arm."""
    p: float = 1.0
    """Smallest always-valid p-value so far."""
    level: float = 0.01
    """Level of the test. Once p is below it, the split is not sound and stays so."""
    excluded: dict[str, float] = {}
    """By arm: share of its impressions that are excluded because of a fault."""
    excluded_share: float = 0.0
    """The same over all arms, including impressions that name no arm."""
    max_excluded: float = 1.0
    """The split is not sound if an arm's share, or that over all arms, exceeds this."""
    sound: bool = True
    why: str = ""
    """Why the split is not sound; empty if it is."""


class Exclusion(msgspec.Struct, kw_only=True):
    """Impressions excluded from all comparisons for one reason."""

    reason: str
    """not_enrolled, override, no_user, inconsistent (a bucket that is not the user's, or not the arm's),
    other_salt or unknown_arm."""
    fault: bool
    """Whether the reason indicates a fault: a sound experiment has no such impressions."""
    impressions: int
    share: float
    """For a fault: share of the experiment's impressions, faults included. Otherwise: of all impressions
    read."""
    arms: dict[str, int] = {}
    """By the arm that the impression names, if any."""
    arm_shares: dict[str, float] = {}
    """For a fault, by arm: share of that arm's impressions, faults included."""


class ArmPoint(msgspec.Struct, kw_only=True):
    """One arm in one window of time."""

    shown: int = 0
    """Impressions of its users in the window."""
    impressions: int = 0
    """Impressions among these whose label is settled."""
    clicks: int = 0
    window: dict[str, float | None] = {}
    """Figures of this window only, without intervals."""
    total: dict[str, Bounded] = {}
    """Cumulative figures up to the end of this window; empty while provisional."""


class Point(msgspec.Struct, kw_only=True):
    """One window of time."""

    start_ms: int
    end_ms: int
    """End of the half-open window, which does not contain it."""
    final: bool
    """Whether all its labels are settled. Until then figures cover the impressions settled so far."""
    arms: dict[str, ArmPoint] = {}
    comparisons: dict[str, dict[str, Bounded]] = {}
    """By arm: each cumulative figure of its comparison up to the end of this window."""


class Gap(msgspec.Struct, kw_only=True):
    """A span of wall-clock time in which a server could not log impressions."""

    start_ms: int
    end_ms: int | None = None
    """Null while the span lasts."""
    worker: str = ""
    dropped: int = 0
    """Impressions lost in the span."""


class Progress(msgspec.Struct, kw_only=True):
    """Progress of the watcher."""

    watermark_ms: int | None = None
    """Event time reached; null before the first entry."""
    final_until_ms: int | None = None
    """End of the last closed window; the figures cover impressions shown before it."""
    behind_seconds: float | None = None
    """Wall-clock time of the report minus the watermark."""
    lag_entries: int = 0
    """Entries of the log that are not applied yet."""
    open_impressions: int = 0
    """Impressions that wait for their label."""
    log_up: bool = True
    """Whether the log is available."""
    outcomes: dict[str, int] = {}
    """Entries of the log by outcome, over all experiments; see :mod:`stream_ctr.pipeline.joining.joiner`."""


class WatchSettings(msgspec.Struct, kw_only=True):
    """Settings declared before the first impression."""

    level: float
    """For each figure, probability of a wrong statement about any arm."""
    planned_impressions: float
    """Impressions at which the always-valid intervals are narrowest."""
    window_seconds: float
    """Width of a window in event time. Windows of a long experiment are merged for display."""
    label_window_seconds: float
    """A click counts if it follows the impression within this time."""
    clip_quantile: float
    """Quantile of click values at which ``advv_clipped`` clips."""
    clip_value: float | None = None
    """The clip value, computed from the first clicks; null before the first click."""
    horizon_impressions: int = 0
    """Impressions at which the declared look is due; 0: no look declared."""
    user_impressions: int = 0
    """Impressions of a user that count; 0: all."""


class Report(msgspec.Struct, kw_only=True):
    """Everything known about one experiment."""

    v: int = REPORT_VERSION
    experiment: str
    salt: str
    """A new salt is a new experiment."""
    generated_ms: int
    """Wall-clock time of the report."""
    verdict: list[str] = []
    """The verdict in sentences, the most important first."""
    warnings: list[str] = []
    """Reasons to doubt the figures, in sentences."""
    notes: list[str] = []
    """Scope of the measurement and excluded data, in sentences."""
    coverage: float = 1.0
    """Share of all users that are enrolled."""
    sample_ratio: SampleRatio = msgspec.field(default_factory=SampleRatio)
    arms: list[Arm] = []
    """In configuration order; the first is the control."""
    comparisons: list[Comparison] = []
    definitions: list[Definition] = []
    series: list[Point] = []
    """Windows in chronological order, the provisional ones last."""
    progress: Progress = msgspec.field(default_factory=Progress)
    excluded: dict[str, int] = {}
    """Excluded impressions by reason."""
    exclusions: list[Exclusion] = []
    """The same by arm and with shares, without reasons that have no impression."""
    gaps: list[Gap] = []
    settings: WatchSettings
    earlier: list[str] = []
    """Salts of earlier experiments whose reports are kept."""


_DECODER = msgspec.json.Decoder(Report)


def encode_report(report: Report) -> bytes:
    """The report as JSON."""
    return msgspec.json.encode(report)


def decode_report(content: bytes, where: str = "the report") -> Report:
    """A report from its JSON.

    Raises:
        DataError: the content is not a report, or is of a newer version.
    """
    try:
        report = _DECODER.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: not an experiment report ({error})") from None
    if report.v > REPORT_VERSION:
        raise DataError(
            f"{where}: report version {report.v} is newer than {REPORT_VERSION}, the newest that this "
            "version of stream-ctr reads; use the version that wrote it"
        )
    return report


def read_report(path: Path) -> Report:
    """The report in a file.

    Raises:
        DataError: the file does not exist, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the report {path}: {error.strerror or error}; `stream-ctr experiment watch` "
            "writes it"
        ) from None
    return decode_report(content, str(path))
