"""The declaration of an experiment, and the part of its state that is not arrays."""

from __future__ import annotations

from typing import Any

import msgspec

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.watch import WatchConfig, declared
from stream_ctr.experiments.report.model import Figure
from stream_ctr.experiments.watcher.windows import End


class Noted(msgspec.Struct):
    """The state of an experiment apart from arrays."""

    declared: dict[str, Any]
    """The settings that must not change under a salt; see :func:`declaration`."""
    first_number: int = 0
    """Running number of the experiment's first impression; earlier ones belong to another experiment."""
    excluded: dict[str, int] = {}
    """Excluded impressions by reason."""
    excluded_arms: dict[str, list[int]] = {}
    """The same by the arm that the impression names. Impressions that name no arm are only in the total."""
    reasons: list[dict[str, int]] = []
    """By assigned arm: impressions by the reason why an arm answered."""
    last_reason: list[str] = []
    """By assigned arm: the reason in its latest impression."""
    versions: list[str] = []
    """By serving arm: model version of its latest impression."""
    shown: list[tuple[int, list[int]]] = []
    """Open windows: number, and impressions shown by arm."""
    window: int | None = None
    """Number of the window whose labels are settling."""
    ends: list[End] = []
    """Ends of the closed windows."""
    figures: list[dict[str, Figure]] = []
    """Figures of each comparison at the last end."""
    reasons_without: list[dict[str, str]] = []
    """By arm, at the last end: why a figure of the arm has no interval, by figure."""
    horizon_ms: int | None = None
    """End of the window at which the declared look was taken; None before."""
    horizon: list[dict[str, Figure]] = []
    """Figures of each comparison at the declared look."""
    pools: list[tuple[float, float]] = []
    """Events and weighted sum of each pool of AUCs."""
    stride: int = 1
    """Sampling interval of the open window's impressions; see :attr:`Scores.stride`."""


def declaration(experiment: ExperimentConfig, watch: WatchConfig) -> dict[str, Any]:
    """The settings declared before the first impression: arms, weights, and the rules of evaluation."""
    arms = [{"name": arm.name, "weight": arm.weight, "shadow": arm.shadow} for arm in experiment.arms]
    return {"experiment": experiment.name, "salt": experiment.salt, "arms": arms, **declared(watch)}
