"""The experiment's report as it is written, served and read back: plain structs, JSON by msgspec.

Times ``_ms`` are Unix milliseconds; event time unless told otherwise. A figure that is not known is null,
and so is the end of an interval that has none. Figures are keyed by the names in ``definitions``, which
say what they mean, so that a reader can show figures that it does not know by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from stream_ctr.errors import DataError

REPORT_VERSION = 2
"""Version of the structure; additions do not change it, readers skip what they do not know. Version 2 added
the verdict ``missing``; reports of version 1 are read, too."""

Verdict = Literal["better", "worse", "unknown", "early", "missing", "withheld"]
"""better, worse: the interval excludes zero, on that side for this arm. unknown: it holds zero.
early: no interval yet, as too few clicks or users are behind it. missing: the log lacks what the figure is
made of. withheld: the split is not sound. For the last three ``why`` gives the reason."""


class Definition(msgspec.Struct, kw_only=True):
    """What a figure means."""

    name: str
    """Key of the figure in this report."""
    title: str
    """A few words for a table's or a chart's heading."""
    unit: str
    """share, relative, per_mille (worth per thousand impressions), nats, ratio or area."""
    better: Literal["higher", "lower", "one"]
    """Which way is better; one: the nearer to 1."""
    paired: bool
    """Whether every arm is judged on the same impressions, whoever answered."""
    method: str
    """How estimate and interval are made, in a sentence."""


class Bounded(msgspec.Struct, kw_only=True):
    """An estimate and its always-valid interval."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None


class Figure(Bounded, kw_only=True):
    """One figure of a comparison: the arm's less the control's; of unit relative, over it, less 1."""

    p: float | None = None
    """Always-valid p-value: below the level where the interval excludes zero."""
    impressions: int = 0
    """Impressions behind it."""
    verdict: Verdict = "early"
    why: str = ""
    """Why there is no interval, in a few words; empty where there is one."""
    final: bool = True
    """Whether all labels behind it are settled."""


class Horizon(msgspec.Struct, kw_only=True):
    """The look that was declared beforehand: ordinary intervals, taken once and never again."""

    impressions: int
    """Impressions in comparisons at which the look was to be taken."""
    reached_ms: int | None = None
    """End of the window in which they were reached; null: not yet."""
    figures: dict[str, Figure] = {}
    """Figures at that moment, ``p`` of the ordinary two-sided test."""


class Comparison(msgspec.Struct, kw_only=True):
    """One arm against the control."""

    arm: str
    control: str
    level: float
    """Probability that one of the intervals of a figure is ever wrong: the experiment's level, split over
    the comparisons."""
    figures: dict[str, Figure] = {}
    """A shadow arm has paired figures only."""
    horizon: Horizon | None = None
    """Null where no look was declared."""
    verdict: str = ""
    """The verdict on the arm as a sentence."""
    leading: Verdict = "early"
    """Verdict of the figure that the sentence begins with: CTR or, for a shadow arm, log loss."""


class Model(msgspec.Struct, kw_only=True):
    """What an arm serves."""

    version: str = ""
    """As the latest impressions of the arm carry it."""
    created_ms: int | None = None
    """Wall time at which the newest snapshot was written; null where the watcher cannot see it."""
    event_time_ms: int | None = None
    """Event time up to which that snapshot has learned."""
    age_seconds: float | None = None
    """Wall time from then to the report."""


class Arm(msgspec.Struct, kw_only=True):
    """One arm by itself."""

    name: str
    control: bool = False
    shadow: bool = False
    """Whether it predicts and never answers."""
    killed: bool = False
    """Whether its users were last answered by the control because the arm was switched off."""
    weight: float = 0.0
    """Share of the enrolled users that it should have."""
    share: float | None = None
    """Share of the enrolled users met that it has."""
    users: int = 0
    """Distinct users assigned to it."""
    impressions: int = 0
    """Impressions of its users with settled labels, in closed windows."""
    clicks: int = 0
    """Those that were clicked."""
    over_cap: int = 0
    """Impressions that do not count, as their user had more than ``user_impressions`` before."""
    effective_users: float | None = None
    """Users of equal activity that would be as informative: squared number of impressions that count over the
    sum of squares by user."""
    heaviest_impressions: int = 0
    """Impressions of its most active user, before the cap."""
    heaviest_share: float | None = None
    """Their share of the arm's impressions, before the cap."""
    with_bid: int = 0
    """Impressions that have a usable bid; the others are worth nothing."""
    unusable_bids: int = 0
    """Impressions whose bid is negative, not finite or too large to be summed."""
    reasons: dict[str, int] = {}
    """Impressions of its users by why an arm answered: assigned, fallback, killed."""
    learn_from: str = "all"
    """all: its trainer learns from all traffic. own: from the impressions that it served."""
    model: Model = msgspec.field(default_factory=Model)
    figures: dict[str, Bounded] = {}
    """ctr, advv, advv_clipped of its users; log_loss, normalized_entropy, auc and calibration of its
    predictions on all impressions in comparisons."""
    why: dict[str, str] = {}
    """By figure: why it has no interval."""


class SampleRatio(msgspec.Struct, kw_only=True):
    """Is the split itself sound? Looked at after every new user."""

    users: dict[str, int] = {}
    """Distinct users by arm."""
    expected: dict[str, float] = {}
    """Shares that they should have."""
    p: float = 1.0
    """Smallest always-valid p-value so far."""
    level: float = 0.01
    """Below this p the split is not sound, and stays so."""
    excluded: dict[str, float] = {}
    """By arm: share of its impressions that are excluded by a fault."""
    excluded_share: float = 0.0
    """The same over all arms, with impressions that name no arm."""
    max_excluded: float = 1.0
    """Above this share, of an arm or over all, the split is not sound."""
    sound: bool = True
    why: str = ""
    """Why it is not sound; empty where it is."""


class Exclusion(msgspec.Struct, kw_only=True):
    """Impressions in no comparison, for one reason."""

    reason: str
    """not_enrolled, override, no_user, inconsistent (a bucket that is not the user's, or not the arm's),
    other_salt or unknown_arm."""
    fault: bool
    """Whether a sound experiment has none of these."""
    impressions: int
    share: float
    """Of a fault: share of the experiment's impressions, faults included. Else of all impressions read."""
    arms: dict[str, int] = {}
    """By the arm that the impression names, if it names one."""
    arm_shares: dict[str, float] = {}
    """Of a fault: share of that arm's impressions, faults included."""


class ArmPoint(msgspec.Struct, kw_only=True):
    """One arm in one window of time."""

    shown: int = 0
    """Impressions of its users in the window."""
    impressions: int = 0
    """Those whose label is settled."""
    clicks: int = 0
    window: dict[str, float | None] = {}
    """Figures of this window alone, without intervals."""
    total: dict[str, Bounded] = {}
    """Figures from the start of the experiment to the end of this window; empty while provisional."""


class Point(msgspec.Struct, kw_only=True):
    """One window of time."""

    start_ms: int
    end_ms: int
    """Windows are half open: the end belongs to the next."""
    final: bool
    """Whether its label window closed; before, figures are of the impressions that are settled so far."""
    arms: dict[str, ArmPoint] = {}
    comparisons: dict[str, dict[str, Bounded]] = {}
    """By arm: each figure of its comparison from the start to the end of this window."""


class Gap(msgspec.Struct, kw_only=True):
    """A span of wall time in which a server could not log impressions."""

    start_ms: int
    end_ms: int | None = None
    """Null: it lasts."""
    worker: str = ""
    dropped: int = 0
    """Impressions lost in it."""


class Progress(msgspec.Struct, kw_only=True):
    """How far the watcher is."""

    watermark_ms: int | None = None
    """Event time that it has reached; null before the first entry."""
    final_until_ms: int | None = None
    """End of the last closed window: the figures are of what was shown before."""
    behind_seconds: float | None = None
    """Wall time of the report less the watermark."""
    lag_entries: int = 0
    """Entries of the log that are not applied yet."""
    open_impressions: int = 0
    """Impressions that wait for their label."""
    log_up: bool = True
    """Whether the log answers."""
    outcomes: dict[str, int] = {}
    """What became of the log's entries, over all experiments: see
    :mod:`stream_ctr.pipeline.joining.joiner`."""


class WatchSettings(msgspec.Struct, kw_only=True):
    """What was declared before the first impression."""

    level: float
    """Probability of a wrong statement about any arm, for one figure."""
    planned_impressions: float
    """Where the always-valid intervals are narrowest."""
    window_seconds: float
    """Width of a window, in event time; windows of a long experiment are merged for display."""
    label_window_seconds: float
    """A label means: clicked within this long after the impression."""
    clip_quantile: float
    """Quantile of what clicks are worth at which ``advv_clipped`` cuts."""
    clip_value: float | None = None
    """That worth, from the first clicks; null while there are none."""
    horizon_impressions: int = 0
    """The declared fixed look; 0: none."""
    user_impressions: int = 0
    """Impressions of a user that count; 0: all."""


class Report(msgspec.Struct, kw_only=True):
    """What is known of one experiment, and how sure."""

    v: int = REPORT_VERSION
    experiment: str
    salt: str
    """A new salt is a new experiment."""
    generated_ms: int
    """Wall time of the report."""
    verdict: list[str] = []
    """The verdict in plain sentences, the most important first."""
    warnings: list[str] = []
    """What makes the figures doubtful, in plain sentences."""
    notes: list[str] = []
    """What a reader should know besides: what was measured, what was left out."""
    coverage: float = 1.0
    """Share of all users that are enrolled."""
    sample_ratio: SampleRatio = msgspec.field(default_factory=SampleRatio)
    arms: list[Arm] = []
    """In the order of the configuration; the first is the control."""
    comparisons: list[Comparison] = []
    definitions: list[Definition] = []
    series: list[Point] = []
    """Windows in order of time, the provisional ones last."""
    progress: Progress = msgspec.field(default_factory=Progress)
    excluded: dict[str, int] = {}
    """Impressions in no comparison, by reason."""
    exclusions: list[Exclusion] = []
    """The same by arm and with shares; reasons with no impression are left out."""
    gaps: list[Gap] = []
    settings: WatchSettings
    earlier: list[str] = []
    """Salts of earlier experiments whose reports are kept beside this one."""


_DECODER = msgspec.json.Decoder(Report)


def encode_report(report: Report) -> bytes:
    """The report as JSON."""
    return msgspec.json.encode(report)


def decode_report(content: bytes, where: str = "the report") -> Report:
    """A report from its JSON.

    Raises:
        DataError: it is none, or of a newer version.
    """
    try:
        report = _DECODER.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: not an experiment's report ({error})") from None
    if report.v > REPORT_VERSION:
        raise DataError(
            f"{where}: report version {report.v} is newer than {REPORT_VERSION}, the newest that this "
            "version of stream-ctr reads; use the version that wrote it"
        )
    return report


def read_report(path: Path) -> Report:
    """The report in a file.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the report {path}: {error.strerror or error}; `stream-ctr experiment watch` "
            "writes it"
        ) from None
    return decode_report(content, str(path))
