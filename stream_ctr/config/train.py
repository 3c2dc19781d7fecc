"""The daemon's own settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Where the trainer keeps its state, and how often it saves and shows it."""

    state: str = "state"
    """Folder of the trainer's state; each arm has a folder of its name in it."""
    chunk: int = 256
    """Events that travel together; the result does not depend on it."""
    checkpoint_seconds: float = 30.0
    """Wall time between checkpoints."""
    checkpoints_kept: int = 3
    """Recoverable checkpoints to keep, at least 2."""
    snapshot_seconds: float = 1.0
    """Wall time between snapshots for the server; 0 publishes none."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    metrics_port: int = 9108
    """Port of the Prometheus endpoint; 0 takes a free one, -1 opens none."""
    join_metrics_port: int = -1
    """Port of the Prometheus endpoint of `stream-ctr join`, at the same address; 0 takes a free one, -1 opens
    none."""
    metrics_window: int = 10_000
    """Impressions in the window of the windowed metrics."""
    poll_seconds: float = 0.5
    """Longest wait for the log in one poll."""
