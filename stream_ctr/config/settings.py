"""The one configuration file: TOML, every key also an environment variable.

The key ``rate`` of the table ``[optimizer]`` is ``STREAM_CTR_OPTIMIZER__RATE`` in the environment, which
wins over the file. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from stream_ctr.config.experiment import SECRET_VARIABLE, Arm, ExperimentConfig
from stream_ctr.config.experiment_check import check_experiment
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.join import JoinConfig, OrderConfig
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.log import PASSWORD_VARIABLE, LogConfig
from stream_ctr.config.losses import LossesConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.model import ranges as model_ranges
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.serve import TOKENS_VARIABLE, ServeConfig
from stream_ctr.config.train import TrainConfig
from stream_ctr.config.watch import WatchConfig
from stream_ctr.config.watch import ranges as watch_ranges
from stream_ctr.errors import ConfigError, UsageError

ENVIRONMENT_PREFIX = "STREAM_CTR_"
NOT_SETTINGS = ("STREAM_CTR_TEST_", PASSWORD_VARIABLE, SECRET_VARIABLE, TOKENS_VARIABLE)
"""Prefixes of environment variables that are not settings: the test suite's own, and the secrets."""
LARGEST = 1e30
"""Largest setting of a model or optimizer: some 1e8 below where 32-bit numbers end."""


class Settings(BaseSettings):
    """All tables of the configuration file."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
    )

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The constructor's arguments alone: :func:`load_settings` puts file and environment together."""
        return (init_settings,)

    def arm(self, name: str | None) -> Arm:
        """The arm of that name (the first without one), its empty settings filled from the file's.

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
    """Read the file (none: defaults), let the environment win, and check every key and value.

    Raises:
        ConfigError: the file is unreadable or not TOML, a key is unknown, a value is out of range.
    """
    table = _read(Path(path)) if path is not None else {}
    where = str(path) if path is not None else "the environment"
    _refuse_unknown_keys(table, Settings, where, ())
    _refuse_unknown_variables(os.environ)
    merged = _with_environment(table, os.environ)
    if path is not None and merged != table:
        where += " and the environment"
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {key} = {first.get('input')!r}: {first['msg']}") from None
    _check_values(settings, where)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # some editors put a mark of byte order first
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number of too many digits
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not a configuration: its lists are nested too deeply") from None


def _known(owner: Any) -> dict[str, Any]:
    """Names and types of the keys of a table, whether it is a dataclass or the settings as a whole."""
    if isinstance(owner, type) and issubclass(owner, BaseSettings):
        return {name: item.annotation for name, item in owner.model_fields.items()}
    return typing.get_type_hints(owner)


def _table_of(annotation: Any) -> Any:
    """The dataclass that a key's value is made of (alone, optional or in a list), or None."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _refuse_unknown_keys(table: Mapping[str, Any], owner: Any, where: str, path: tuple[str, ...]) -> None:
    known = _known(owner)
    for key, value in table.items():
        name = ".".join((*path, key))
        if key not in known:
            raise ConfigError(f"{where}: unknown key {name!r}{_nearest(key, known, path)}")
        inner = _table_of(known[key])
        for item in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(item, Mapping):
                _refuse_unknown_keys(item, inner, where, (*path, key))


def _nearest(key: str, known: Mapping[str, Any], path: tuple[str, ...]) -> str:
    if not known:
        return f"; {'.'.join(path)} has no keys of its own"
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean {'.'.join((*path, match[0]))!r}?"
    return f"; known here: {', '.join(known)}"


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(NOT_SETTINGS):
            continue
        owner: Any = Settings
        path: tuple[str, ...] = ()
        for part in variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"):
            known = _known(owner) if owner is not None else {}
            if part not in known:
                near = _nearest(part, known, path)
                raise ConfigError(f"environment variable {variable} names no key: unknown {part!r}{near}")
            inner = None if _is_list(known[part]) else _table_of(known[part])
            owner, path = inner, (*path, part)
        if len(path) == 1 and not _is_json_table(text):
            raise ConfigError(f"environment variable {variable} names a table; name a key: {variable}__KEY")


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in (annotation, *typing.get_args(annotation)))


def _is_json_table(text: str) -> bool:
    return isinstance(_json(text), dict)


def _json(text: str) -> Any:
    """What the text says as JSON; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _with_environment(table: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The file's table with the environment's values in it; lists and tables are JSON there."""
    merged = {key: dict(item) if isinstance(item, Mapping) else item for key, item in table.items()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(NOT_SETTINGS):
            continue
        *path, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        owner: Any = Settings
        target: Any = merged
        for part in path:
            owner, target = _table_of(_known(owner)[part]), target.setdefault(part, {})
            if not isinstance(target, dict):
                break  # the file has no table there, which is what will be told
        else:
            kind = _known(owner)[key]
            target[key] = _json(text) if _is_list(kind) or _table_of(kind) else text
    return merged


def _check_values(settings: Settings, where: str) -> None:
    try:
        check_experiment(settings.experiment)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    for path, value, low, high in _ranges(settings):
        if not low <= value <= high:
            raise ConfigError(f"{where}: {path} = {value!r} is outside {low:g} to {high:g}")
    try:
        settings.log.check()
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from None
    if "\0" in settings.train.state:
        raise ConfigError(f"{where}: train.state = {settings.train.state!r} cannot be the name of a folder")
    try:
        LabelLoss(settings.join.policy, settings.join.keep_negatives)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if settings.join.horizon_seconds < settings.join.window_seconds:
        raise ConfigError(
            f"{where}: join.horizon_seconds = {settings.join.horizon_seconds:g} is shorter than "
            f"join.window_seconds = {settings.join.window_seconds:g}; set it to at least the window"
        )
    if settings.order.max_lead_seconds > settings.join.grace_seconds:
        raise ConfigError(
            f"{where}: order.max_lead_seconds = {settings.order.max_lead_seconds:g} is more than "
            f"join.grace_seconds = {settings.join.grace_seconds:g}: clocks that are ahead by less than the "
            "lead would close windows early. Lower the lead, or raise the grace"
        )


def _ranges(settings: Settings) -> list[tuple[str, float, float, float]]:
    """Numeric keys with the lowest and highest value that makes sense."""
    infinity = float("inf")
    train, serve = settings.train, settings.serve
    return [
        ("log.partitions", settings.log.partitions, 1, 10_000),
        ("order.idle_seconds", settings.order.idle_seconds, 0, infinity),
        ("order.max_ahead_seconds", settings.order.max_ahead_seconds, 0, infinity),
        ("order.max_lead_seconds", settings.order.max_lead_seconds, 0, 1e9),
        ("join.memory_bytes", settings.join.memory_bytes, 2**14, 2**50),
        ("join.keep_seed", settings.join.keep_seed, -(2**63), 2**63 - 1),
        ("join.window_seconds", settings.join.window_seconds, 0, 1e9),
        ("join.grace_seconds", settings.join.grace_seconds, 0, 1e9),
        ("join.horizon_seconds", settings.join.horizon_seconds, 0, 1e9),
        ("features.half_life_seconds", settings.features.half_life_seconds, 1e-9, infinity),
        ("features.minimum_count", settings.features.minimum_count, 1, infinity),
        ("learner.threads", settings.learner.threads, 1, 4096),
        ("train.chunk", train.chunk, 1, 1_000_000),
        ("train.checkpoint_seconds", train.checkpoint_seconds, 0, infinity),
        ("train.checkpoints_kept", train.checkpoints_kept, 2, 1_000_000),
        ("train.snapshot_seconds", train.snapshot_seconds, 0, infinity),
        ("train.metrics_port", train.metrics_port, -1, 65_535),
        ("train.join_metrics_port", train.join_metrics_port, -1, 65_535),
        ("train.metrics_window", train.metrics_window, 1, 100_000_000),
        ("train.poll_seconds", train.poll_seconds, 0, 60),
        ("losses.warn_share", settings.losses.warn_share, 0, 1),
        ("losses.window_records", settings.losses.window_records, 100, 1_000_000_000),
        ("losses.minimum_records", settings.losses.minimum_records, 1, 1_000_000_000),
        ("serve.port", serve.port, 0, 65_535),
        ("serve.workers", serve.workers, 1, 1024),
        ("serve.hang_seconds", serve.hang_seconds, 0, 1e6),
        ("serve.admin_port", serve.admin_port, 0, 65_536 - serve.workers),
        ("serve.poll_seconds", serve.poll_seconds, 0.001, 3600),
        ("serve.header_seconds", serve.header_seconds, 0.001, 1e6),
        ("serve.max_body_bytes", serve.max_body_bytes, 1, 2**40),
        ("serve.deadline_seconds", serve.deadline_seconds, 0.001, 1e6),
        ("serve.max_waiting", serve.max_waiting, 1, 1_000_000),
        ("serve.max_client_ahead_seconds", serve.max_client_ahead_seconds, 0, 1e9),
        ("serve.log_queue", serve.log_queue, 1, 1_000_000_000),
        ("serve.log_queue_bytes", serve.log_queue_bytes, 2**20, 2**50),
        ("serve.max_candidates", serve.max_candidates, 1, infinity),
        *watch_ranges(settings.watch),
        *_network_ranges(settings),
    ]


def _network_ranges(settings: Settings) -> list[tuple[str, float, float, float]]:
    """Bounds of what every arm trains that keep it inside memory and 32-bit numbers."""
    found: list[tuple[str, float, float, float]] = []
    for own in settings.experiment.arms:
        arm = settings.arm(own.name)
        model = "model" if own.model is None else f"experiment.arms {own.name!r}: model"
        optimizer = "optimizer" if own.optimizer is None else f"experiment.arms {own.name!r}: optimizer"
        found += [(f"{model}.{key}", value, low, high) for key, value, low, high in model_ranges(arm.model)]
        for table, owner in ((model, arm.model), (optimizer, arm.optimizer)):
            values = {item.name: getattr(owner, item.name) for item in dataclasses.fields(owner)}
            numbers = {name: value for name, value in values.items() if isinstance(value, float)}
            found += [(f"{table}.{name}", value, -LARGEST, LARGEST) for name, value in numbers.items()]
    return found
