"""Which arms there are, and who is sent to which."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stream_ctr.learners.base import LearnerConfig
from stream_ctr.models.config import ModelConfig
from stream_ctr.optim.config import OptimizerConfig


@dataclass(frozen=True, slots=True)
class ArmConfig:
    """One arm: a model of its own, trained by its own daemon."""

    name: str
    """Name of the arm: its state folder, its label in metrics and exposures."""
    weight: float = 1.0
    """Share of the enrolled users; the weights of all arms sum to 1."""
    model: ModelConfig | None = None
    """The arm's network, if it differs from [model]."""
    optimizer: OptimizerConfig | None = None
    """The arm's optimizer, if it differs from [optimizer]."""
    learner: LearnerConfig | None = None
    """The arm's learner, if it differs from [learner]."""
    learn_from: Literal["all", "own"] = "all"
    """Impressions that the arm's trainer learns: all, or only those that were answered by this arm itself."""


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
    coverage: float = 1.0
    """Share of users enrolled; raising it adds users and moves none."""
    arms: tuple[ArmConfig, ...] = field(default_factory=lambda: (ArmConfig("main"),))
    """The arms; the first is the control, and serves whoever is not enrolled."""
