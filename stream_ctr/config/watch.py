"""The table [watch]: statistics that are declared before an experiment, and where its report is served."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from annotated_types import Ge, Interval

from stream_ctr.config.ranges import OptionalPort, Share


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """Settings of `stream-ctr experiment watch`.

    All keys but report_seconds, host and port are part of the experiment: they are declared before its first
    impression, and a change under the same salt is rejected.
    """

    level: Annotated[float, Interval(ge=1e-12, le=0.5)] = 0.05
    """Error probability for one metric over all arms; it is split over the comparisons."""
    planned_impressions: Annotated[float, Interval(ge=1, le=1e15)] = 1_000_000.0
    """Impressions in comparisons for which the intervals are narrowest. They are valid at any number."""
    horizon_impressions: Annotated[int, Interval(ge=0, le=10**15)] = 0
    """Impressions in comparisons at which fixed-sample intervals are computed once; 0: never."""
    window_seconds: Annotated[float, Interval(ge=0.001, le=1e9)] = 60.0
    """Event time between two updates of the metrics; AUC is computed within these windows."""
    clip_quantile: Annotated[float, Interval(ge=0.5, le=1)] = 0.99
    """Quantile of the clicks' values (bids) at which the clipped ADVV is clipped; 1: no clipping."""
    user_impressions: Annotated[int, Interval(ge=0, le=2**31)] = 1000
    """Impressions per user that count, the first ones in event order, so that no single user decides a
    metric; 0: all."""
    max_excluded: Share = 0.01
    """Largest share of an arm's impressions, or of all, that may be excluded by a fault (no user, an unknown
    arm, a bucket that is not the user's or the arm's) before the traffic split counts as
    invalid; 1 allows any."""
    split_level: Annotated[float, Interval(ge=1e-12, le=0.5)] = 0.001
    """Probability of a false sample-ratio mismatch, under continuous monitoring."""
    report_seconds: Annotated[float, Ge(0.01)] = 1.0
    """Wall time between two updates of the report."""
    host: str = "127.0.0.1"
    """Address of page, report and metrics."""
    port: OptionalPort = 9109
    """Port of page, report and metrics; 0: a free one, -1: none."""


def declared(config: WatchConfig) -> dict[str, Any]:
    """The settings that belong to the experiment."""
    table = asdict(config)
    for name in ("report_seconds", "host", "port"):
        del table[name]
    return table


ADDED: Final = ("user_impressions", "max_excluded")
"""Keys that experiments of earlier versions did not declare; such experiments have no cap per user."""
