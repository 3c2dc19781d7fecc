"""How an experiment is watched: what is declared before its first impression, and where the report shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from annotated_types import Ge, Interval

from stream_ctr.config.ranges import OptionalPort, Share


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """Settings of `stream-ctr experiment watch`.

    All but address and pace are part of the experiment: they are declared before its first impression, and
    under the same salt a change is refused.
    """

    level: Annotated[float, Interval(ge=1e-12, le=0.5)] = 0.05
    """Probability of a wrong statement about any arm, for one figure; split over the comparisons."""
    planned_impressions: Annotated[float, Interval(ge=1, le=1e15)] = 1_000_000.0
    """Impressions in comparisons at which the intervals are narrowest; valid at all others, too."""
    horizon_impressions: Annotated[int, Interval(ge=0, le=10**15)] = 0
    """One look at ordinary intervals, taken when so many impressions are in comparisons; 0 declares none."""
    window_seconds: Annotated[float, Interval(ge=0.001, le=1e9)] = 60.0
    """Width of the windows, in event time, at whose ends figures are taken; AUC is taken within them."""
    clip_quantile: Annotated[float, Interval(ge=0.5, le=1)] = 0.99
    """Quantile of what clicks are worth (bid) at which the clipped ADVV cuts; 1 cuts nothing."""
    user_impressions: Annotated[int, Interval(ge=0, le=2**31)] = 1000
    """Impressions of a user that count, the first ones in event order, so that no user decides a figure; 0
    counts all."""
    max_excluded: Share = 0.01
    """Largest share of an arm's impressions, or of all, that may be excluded by a fault (no user, an unknown
    arm, a bucket that is not the user's or the arm's) while the split counts as sound; 1 allows any."""
    split_level: Annotated[float, Interval(ge=1e-12, le=0.5)] = 0.001
    """Probability that a sound split of users is called unsound, however often one looks."""
    report_seconds: Annotated[float, Ge(0.01)] = 1.0
    """Wall time between writings of the report."""
    host: str = "127.0.0.1"
    """Address of the page, the report and the metrics."""
    port: OptionalPort = 9109
    """Port of the same; 0 takes a free one, -1 opens none."""


def declared(config: WatchConfig) -> dict[str, Any]:
    """What of the settings belongs to the experiment."""
    table = asdict(config)
    for name in ("report_seconds", "host", "port"):
        del table[name]
    return table


ADDED: Final = ("user_impressions", "max_excluded")
"""Keys that experiments of earlier versions did not declare: those have no cap on impressions of a user."""
