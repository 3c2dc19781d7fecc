"""The table [experiment]: arms, traffic split, guards and Thompson sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from annotated_types import Ge, Le

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.ranges import NotNegative, Share
from stream_ctr.errors import ConfigError

BUCKETS = 10_000
"""Buckets of an experiment: shares of users are multiples of 1 / 10,000."""

FOLDER: Final = "experiment"
"""Folder of the experiment's files in the state folder; no arm can have this name."""

SECRET_VARIABLE: Final = "STREAM_CTR_OVERRIDE_SECRET"
"""Environment variable of the secret; it overrides the file."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """When a server kills an arm automatically. Each server process computes shares and means over its own
    windows of requests. The control is never killed."""

    window: Annotated[int, Ge(1)] = 1000
    """Requests in one window."""
    max_non_finite: Share = 0.01
    """Largest share of requests with a probability that is not finite; 1 never kills."""
    max_saturated: Share = 0.1
    """Largest share of probabilities below ``saturation`` or above 1 - ``saturation``; 1 never kills."""
    saturation: Annotated[float, Ge(0), Le(0.5)] = 1e-6
    """Distance from 0 and from 1 at which a probability counts as saturated."""
    latency_seconds: NotNegative = 0.0
    """A prediction that takes longer counts as slow; 0 never kills."""
    max_slow: Share = 0.05
    """Largest share of slow predictions."""
    calibration: NotNegative = 0.0
    """Largest ratio, in either direction, between the arm's mean probability and the control's on the same
    candidates; 0 never kills, otherwise at least 1."""
    observed_calibration: NotNegative = 0.0
    """Largest ratio, in either direction, between an arm's predicted clicks and its actual clicks as the
    watcher sums them; 0 never kills, otherwise at least 1."""
    observed_impressions: Annotated[int, Ge(1)] = 10_000
    """Impressions with final labels that an arm needs before ``observed_calibration`` applies."""
    not_ready_seconds: NotNegative = 600.0
    """Longest time that an arm may have no usable snapshot; 0 never kills."""


@dataclass(frozen=True, slots=True)
class ThompsonConfig:
    """Thompson sampling for requests of users who are not enrolled. Enrolled users keep their arm."""

    share: Share = 0.0
    """Share of these requests that are sampled, by event id; 0 is off. The others see the control."""
    floor: Share = 0.05
    """Smallest probability of an arm, so that every arm keeps being explored."""


@dataclass(frozen=True, slots=True)
class ArmConfig:
    """One arm: a model with its own trainer."""

    name: str
    """Name of the arm: its state folder and its label in metrics and exposures."""
    weight: NotNegative = 1.0
    """Share of the enrolled users; the weights of all arms sum to 1."""
    model: ModelConfig | None = None
    """The arm's network, if it differs from [model]."""
    optimizer: OptimizerConfig | None = None
    """The arm's optimizer, if it differs from [optimizer]."""
    learner: LearnerConfig | None = None
    """The arm's learner, if it differs from [learner]."""
    learn_from: Literal["all", "own"] = "all"
    """Impressions that the arm's trainer learns: all, or only those that this arm answered (own)."""
    snapshot: str = ""
    """Folder of one snapshot that this arm serves unchanged; the arm then needs no trainer."""
    shadow: bool = False
    """Whether the arm only predicts and never answers; its weight must be 0."""
    shadow_sample: Share = 1.0
    """Share of the events that a shadow arm predicts, selected by event id."""
    testers: tuple[str, ...] = ()
    """Users who always see this arm, to test it. They are excluded from every comparison."""
    guards: GuardConfig | None = None
    """The arm's guards, if they differ from [experiment.guards]."""


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm with all its settings: its own where it has them, otherwise the file's."""

    name: str
    weight: float
    model: ModelConfig
    optimizer: OptimizerConfig
    learner: LearnerConfig
    learn_from: Literal["all", "own"] = "all"


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """The arms of an experiment and the assignment of users to them."""

    name: str = "main"
    """Name of the experiment, written into every exposure."""
    salt: str = "main-1"
    """Salt of the assignment hash; a new salt is a new experiment."""
    coverage: Share = 1.0
    """Share of the users who are enrolled. Raising it adds users and moves none to another arm."""
    override_secret_file: str = ""
    """File with the secret that signs testers' headers; STREAM_CTR_OVERRIDE_SECRET overrides it. Without
    either, such headers are rejected."""
    arms: tuple[ArmConfig, ...] = field(default_factory=lambda: (ArmConfig("main", 1.0),))
    """The arms. The first is the control; it serves users who are not enrolled."""
    guards: GuardConfig = GuardConfig()
    """When an arm is killed automatically."""
    thompson: ThompsonConfig = ThompsonConfig()
    """Sampling between arms for users who are not enrolled."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Buckets from ``start`` up to but excluding ``stop`` belong to ``arm``."""

    arm: str
    start: int
    stop: int


def intervals(experiment: ExperimentConfig) -> tuple[Interval, ...]:
    """The buckets of each arm, in the order of the arms.

    Arm i owns [cum_i, cum_i + coverage * weight_i) in units of 10,000 buckets, both ends rounded.

    Raises:
        ConfigError: the weights do not sum to 1 or one is negative, the coverage is not between 0 and 1,
            there are no arms, or two share a name.
    """
    arms = experiment.arms
    names = [arm.name for arm in arms]
    weights = [arm.weight for arm in arms]
    if not arms:
        raise ConfigError("experiment.arms is empty; at least one arm is needed")
    if len(set(names)) != len(names):
        raise ConfigError(f"experiment.arms: names must all be different, got {', '.join(names)}")
    if not all(weight >= 0 for weight in weights) or abs(math.fsum(weights) - 1.0) > 1e-9:
        raise ConfigError(
            f"experiment.arms: weights {weights} must be 0 or more and sum to 1; they sum to "
            f"{math.fsum(weights):g}"
        )
    if not 0 <= experiment.coverage <= 1:
        raise ConfigError(f"experiment.coverage must be between 0 and 1, got {experiment.coverage:g}")
    cuts = [_rounded(BUCKETS * math.fsum(weights[:index])) for index in range(len(arms) + 1)]
    return tuple(
        Interval(name, start, start + _rounded(experiment.coverage * (stop - start)))
        for name, start, stop in zip(names, cuts[:-1], cuts[1:], strict=True)
    )


def _rounded(value: float) -> int:
    """Nearest whole number, halves up: easy to reproduce in any language, unlike halves to even."""
    return math.floor(value + 0.5)
