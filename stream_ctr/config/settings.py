"""The one configuration file: TOML, every key also an environment variable.

The key ``rho`` of the table ``[optimizer]`` is ``STREAM_CTR_OPTIMIZER__RHO`` in the environment, which
overrides the file. An unknown key is an error that suggests the nearest known one.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, ValidationError

from stream_ctr.config.environment import setting_variables, with_environment
from stream_ctr.config.experiment import Arm, ExperimentConfig
from stream_ctr.config.experiment_check import check_experiment
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.join import JoinConfig, OrderConfig
from stream_ctr.config.keys import UNKNOWN, Keys
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.log import LogConfig
from stream_ctr.config.losses import LossesConfig
from stream_ctr.config.model import BACKBONE_NAMES, ModelConfig
from stream_ctr.config.optimizer import RULE_NAMES, OptimizerConfig
from stream_ctr.config.ranges import NotNegative, OptionalPort
from stream_ctr.config.registry import BACKBONES, RULES, why_unknown
from stream_ctr.config.serve import ServeConfig
from stream_ctr.config.watch import WatchConfig
from stream_ctr.errors import ConfigError, UsageError


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """State folder, checkpoints, snapshots and metrics of the trainer."""

    state: str = "state"
    """State folder; each arm has a subfolder of its name."""
    chunk: Annotated[int, Interval(ge=1, le=1_000_000)] = 256
    """Events that are processed together; the result does not depend on it."""
    checkpoint_seconds: NotNegative = 30.0
    """Wall time between checkpoints."""
    checkpoints_kept: Annotated[int, Interval(ge=2, le=1_000_000)] = 3
    """Recoverable checkpoints to keep, at least 2."""
    snapshot_seconds: NotNegative = 1.0
    """Wall time between snapshots for the server; 0: none."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    metrics_port: OptionalPort = 9108
    """Port of the Prometheus endpoint; 0: a free one, -1: none."""
    join_metrics_port: OptionalPort = -1
    """Port of the Prometheus endpoint of `stream-ctr join`, at the same address; 0: a free one, -1: none."""
    metrics_window: Annotated[int, Interval(ge=1, le=100_000_000)] = 10_000
    """Impressions in the window of the windowed metrics."""
    poll_seconds: Annotated[float, Interval(ge=0, le=60)] = 0.5
    """Longest wait of one poll of the log."""


class Settings(BaseModel):
    """All tables of the configuration file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    log: LogConfig = LogConfig()
    features: FeaturesConfig = FeaturesConfig()
    order: OrderConfig = OrderConfig()
    join: JoinConfig = JoinConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    learner: LearnerConfig = LearnerConfig()
    train: TrainConfig = TrainConfig()
    losses: LossesConfig = LossesConfig()
    serve: ServeConfig = ServeConfig()
    experiment: ExperimentConfig = ExperimentConfig()
    watch: WatchConfig = WatchConfig()

    def arm(self, name: str | None) -> Arm:
        """The arm of a name (the first arm if None), with the file's settings where it has none of its own.

        Raises:
            ConfigError: there is no such arm.
        """
        arms = self.experiment.arms
        for arm in arms:
            if name is None or arm.name == name:
                return Arm(
                    arm.name,
                    arm.weight,
                    arm.model or self.model,
                    arm.optimizer or self.optimizer,
                    arm.learner or self.learner,
                    arm.learn_from,
                )
        raise ConfigError(f"no arm named {name!r}; the arms are {', '.join(a.name for a in arms)}")

    def arm_state(self, name: str) -> Path:
        """State folder of one arm."""
        return Path(self.train.state) / name


def load_settings(path: str | os.PathLike[str] | None) -> Settings:
    """Read the file (None: defaults), override it by the environment, and check every key and value.

    Raises:
        ConfigError: the file is unreadable or not TOML, a key is unknown, a value is out of range.
    """
    table = _read(Path(path)) if path is not None else {}
    variables = setting_variables(os.environ)
    if variables:
        table = with_environment(table, os.environ, _keys())
    where = "the environment" if path is None else f"{path} and the environment" if variables else str(path)
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        # A misspelt key first: it may be why another one is missing.
        first = min(error.errors(), key=lambda one: one["type"] not in UNKNOWN)
        key = tuple(map(str, first["loc"]))
        named = [variable for name, variable in variables.items() if key[: len(name)] == name]
        where = f"environment variable {named[-1]}" if named else str(path)
        raise ConfigError(f"{where}: {_keys().explain(first, table)}") from None
    try:
        _check_together(settings)
    except (ConfigError, UsageError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return settings


@cache
def _keys() -> Keys:
    return Keys(Settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number of too many digits
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not a configuration: its lists are nested too deeply") from None


def _check_extensions(settings: Settings) -> None:
    """Raises ConfigError for a backbone or a base rule that is neither built in nor an extension."""
    for own in settings.experiment.arms:
        arm = settings.arm(own.name)
        model = "model" if own.model is None else f"experiment.arms {own.name!r}: model"
        optimizer = "optimizer" if own.optimizer is None else f"experiment.arms {own.name!r}: optimizer"
        reasons = [
            why_unknown(BACKBONES, BACKBONE_NAMES, f"{model}.backbone", arm.model.backbone),
            *(
                why_unknown(RULES, built_in, f"{optimizer}.{key}", getattr(arm.optimizer, key))
                for key, built_in in RULE_NAMES.items()
            ),
        ]
        for reason in filter(None, reasons):
            raise ConfigError(reason)


def _check_together(settings: Settings) -> None:
    """Reject settings that are valid alone but not together.

    Raises:
        ConfigError, UsageError: the first of them, with its key and value.
    """
    _check_extensions(settings)
    check_experiment(settings.experiment)
    settings.log.check()
    train, join, serve = settings.train, settings.join, settings.serve
    if "\0" in train.state:
        raise ConfigError(f"train.state must be the name of a folder, got {train.state!r}")
    LabelLoss(join.policy, join.keep_negatives)
    if join.horizon_seconds < join.window_seconds:
        raise ConfigError(
            f"join.horizon_seconds must be at least join.window_seconds = {join.window_seconds:g}, got "
            f"{join.horizon_seconds:g}"
        )
    if settings.order.max_lead_seconds > join.grace_seconds:
        raise ConfigError(
            f"order.max_lead_seconds must be at most join.grace_seconds = {join.grace_seconds:g}, got "
            f"{settings.order.max_lead_seconds:g}: a clock that is ahead by less than the lead would close "
            "windows early"
        )
    if serve.admin_port > 65_536 - serve.workers:
        raise ConfigError(
            f"serve.admin_port must be at most {65_536 - serve.workers:,} with serve.workers = "
            f"{serve.workers}, got {serve.admin_port}: each worker takes the next port"
        )
