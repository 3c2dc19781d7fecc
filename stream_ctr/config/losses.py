"""The table [losses]: when records that are read and not used are a warning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from stream_ctr.config.ranges import Share


@dataclass(frozen=True, slots=True)
class LossesConfig:
    """When records that are read and not used are a warning."""

    warn_share: Share = 0.01
    """Share of the impressions (or clicks) read above which dead letters, late, orphaned or otherwise dropped
    ones are a warning; 1 never warns."""
    window_records: Annotated[int, Interval(ge=100, le=1_000_000_000)] = 10_000
    """Most recent impressions, and most recent clicks, that the share is over while a job runs."""
    minimum_records: Annotated[int, Interval(ge=1, le=1_000_000_000)] = 20
    """Lost records of one kind in that window below which there is no warning while a job runs."""
