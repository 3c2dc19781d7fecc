"""The daemon's own settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from stream_ctr.config.ranges import NotNegative, OptionalPort


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Where the trainer keeps its state, and how often it saves and shows it."""

    state: str = "state"
    """Folder of the trainer's state; each arm has a folder of its name in it."""
    chunk: Annotated[int, Interval(ge=1, le=1_000_000)] = 256
    """Events that travel together; the result does not depend on it."""
    checkpoint_seconds: NotNegative = 30.0
    """Wall time between checkpoints."""
    checkpoints_kept: Annotated[int, Interval(ge=2, le=1_000_000)] = 3
    """Recoverable checkpoints to keep, at least 2."""
    snapshot_seconds: NotNegative = 1.0
    """Wall time between snapshots for the server; 0 publishes none."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    metrics_port: OptionalPort = 9108
    """Port of the Prometheus endpoint; 0 takes a free one, -1 opens none."""
    join_metrics_port: OptionalPort = -1
    """Port of the Prometheus endpoint of `stream-ctr join`, at the same address; 0 takes a free one, -1 opens
    none."""
    metrics_window: Annotated[int, Interval(ge=1, le=100_000_000)] = 10_000
    """Impressions in the window of the windowed metrics."""
    poll_seconds: Annotated[float, Interval(ge=0, le=60)] = 0.5
    """Longest wait for the log in one poll."""
