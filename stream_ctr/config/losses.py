"""The table [losses]: when to warn about records that were read but not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from stream_ctr.config.ranges import Share


@dataclass(frozen=True, slots=True)
class LossesConfig:
    """When to warn about records that were read but not used."""

    warn_share: Share = 0.01
    """Largest share of the impressions (or clicks) read that may be dead letters, late, orphaned or otherwise
    dropped without a warning; 1 never warns."""
    window_records: Annotated[int, Interval(ge=100, le=1_000_000_000)] = 10_000
    """While a job runs, the share is over this many most recent impressions, and most recent clicks."""
    minimum_records: Annotated[int, Interval(ge=1, le=1_000_000_000)] = 20
    """While a job runs, fewer lost records of one kind in that window cause no warning."""
