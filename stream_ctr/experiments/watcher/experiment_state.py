"""What is declared of an experiment before its first impression, and what is noted of it besides arrays."""

from __future__ import annotations

from typing import Any

import msgspec

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.watch import WatchConfig, declared
from stream_ctr.experiments.report.model import Figure
from stream_ctr.experiments.watcher.windows import End


class Noted(msgspec.Struct):
    """What is kept of an experiment besides arrays."""

    declared: dict[str, Any]
    """What may not change under a salt; see :func:`declaration`."""
    first_number: int = 0
    """Running number of the first impression of the experiment: those before are another one's."""
    excluded: dict[str, int] = {}
    excluded_arms: dict[str, list[int]] = {}
    """The same by the arm that the impression names; those that name none are in the total only."""
    reasons: list[dict[str, int]] = []
    """By assigned arm: impressions by why an arm answered."""
    last_reason: list[str] = []
    versions: list[str] = []
    """By serving arm: model version of its latest impression."""
    shown: list[tuple[int, list[int]]] = []
    """Open windows, and the impressions shown in them by arm."""
    window: int | None = None
    """Number of the window into which labels settle."""
    ends: list[End] = []
    figures: list[dict[str, Figure]] = []
    """Of each comparison at the last end."""
    reasons_without: list[dict[str, str]] = []
    """Of each arm at the last end: why a figure of its own has no interval, by figure."""
    horizon_ms: int | None = None
    horizon: list[dict[str, Figure]] = []
    pools: list[tuple[float, float]] = []
    """Events and weighted sum of each pool of AUCs."""
    stride: int = 1


def declaration(experiment: ExperimentConfig, watch: WatchConfig) -> dict[str, Any]:
    """What is declared before the first impression: arms, weights, and how they will be judged."""
    arms = [{"name": arm.name, "weight": arm.weight, "shadow": arm.shadow} for arm in experiment.arms]
    return {"experiment": experiment.name, "salt": experiment.salt, "arms": arms, **declared(watch)}
