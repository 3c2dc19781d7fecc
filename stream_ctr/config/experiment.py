"""Which arms there are, who is sent to which, and when an arm is taken out by itself."""

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
"""Buckets of an experiment; shares of users are multiples of 1 / 10,000."""

FOLDER: Final = "experiment"
"""Folder of these files in the state folder; no arm can have this name."""

SECRET_VARIABLE: Final = "STREAM_CTR_OVERRIDE_SECRET"
"""Environment variable of the secret; it wins over the file."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """When a server kills an arm by itself. Shares and means are over windows of requests, each server
    process its own; the control is never killed."""

    window: Annotated[int, Ge(1)] = 1000
    """Requests that one judgement rests on."""
    max_non_finite: Share = 0.01
    """Largest share of requests with a probability that is not a number; 1 never kills."""
    max_saturated: Share = 0.1
    """Largest share of probabilities below ``saturation`` or above 1 - ``saturation``; 1 never kills."""
    saturation: Annotated[float, Ge(0), Le(0.5)] = 1e-6
    """Distance from 0 and from 1 at which a probability counts as saturated."""
    latency_seconds: NotNegative = 0.0
    """A prediction that takes longer is slow; 0 never kills."""
    max_slow: Share = 0.05
    """Largest share of slow predictions."""
    calibration: NotNegative = 0.0
    """Largest ratio, either way, of the arm's mean probability to the control's on the same candidates;
    0 never kills."""
    observed_calibration: NotNegative = 0.0
    """Largest ratio, either way, of an arm's predicted clicks to its clicks by the watcher's sums; 0 never
    kills."""
    observed_impressions: Annotated[int, Ge(1)] = 10_000
    """Impressions of the arm with final labels before its clicks are judged."""
    not_ready_seconds: NotNegative = 600.0
    """Longest time that an arm may be without any usable snapshot; 0 never kills."""


@dataclass(frozen=True, slots=True)
class ThompsonConfig:
    """Thompson sampling for requests of users who are not enrolled; enrolled users keep their arm."""

    share: Share = 0.0
    """Share of those requests that are sampled, by event; 0 is off. The others meet the control."""
    floor: Share = 0.05
    """Smallest probability of an arm, so that every arm goes on being tried."""


@dataclass(frozen=True, slots=True)
class ArmConfig:
    """One arm: a model of its own, trained by its own daemon."""

    name: str
    """Name of the arm: its state folder, its label in metrics and exposures."""
    weight: NotNegative = 1.0
    """Share of the enrolled users; the weights of all arms sum to 1."""
    model: ModelConfig | None = None
    """The arm's network, if it differs from [model]."""
    optimizer: OptimizerConfig | None = None
    """The arm's optimizer, if it differs from [optimizer]."""
    learner: LearnerConfig | None = None
    """The arm's learner, if it differs from [learner]."""
    learn_from: Literal["all", "own"] = "all"
    """Impressions that the arm's trainer learns: all, or only those that were answered by this arm itself."""
    snapshot: str = ""
    """Folder of one snapshot that this arm serves for ever; it needs no trainer."""
    shadow: bool = False
    """Whether the arm predicts and never answers; its weight is 0."""
    shadow_sample: Share = 1.0
    """Share of events that a shadow arm predicts, by event id."""
    testers: tuple[str, ...] = ()
    """Users who always meet this arm, to test it; they take no part in any comparison."""
    guards: GuardConfig | None = None
    """The arm's guards, if they differ from [experiment.guards]."""


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm with everything settled: its own settings where it has them, else the file's."""

    name: str
    weight: float
    model: ModelConfig
    optimizer: OptimizerConfig
    learner: LearnerConfig
    learn_from: Literal["all", "own"] = "all"


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """Assignment of users to arms."""

    name: str = "main"
    """Name of the experiment; stands in every exposure."""
    salt: str = "main-1"
    """Salt of the assignment hash; a new salt is a new experiment."""
    coverage: Share = 1.0
    """Share of users enrolled; raising it adds users and moves none."""
    override_secret_file: str = ""
    """File of the secret that signs testers' headers; STREAM_CTR_OVERRIDE_SECRET in the environment wins.
    Without either, such headers are refused."""
    arms: tuple[ArmConfig, ...] = field(default_factory=lambda: (ArmConfig("main", 1.0),))
    """The arms; the first is the control, and serves whoever is not enrolled."""
    guards: GuardConfig = GuardConfig()
    """When an arm is killed by itself."""
    thompson: ThompsonConfig = ThompsonConfig()
    """Sampling between arms for users who are not enrolled."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Buckets ``start`` up to, without, ``stop`` belong to ``arm``."""

    arm: str
    start: int
    stop: int


def intervals(experiment: ExperimentConfig) -> tuple[Interval, ...]:
    """The buckets of each arm, in the order of the arms.

    Arm i owns [cum_i, cum_i + coverage * weight_i) in units of 10,000 buckets, both ends rounded.

    Raises:
        ConfigError: weights that do not sum to 1 or are negative, a coverage outside 0 to 1, arms that
            are missing or share a name.
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
    """Nearest whole number, halves up: the same in every language, unlike rounding halves to even."""
    return math.floor(value + 0.5)
