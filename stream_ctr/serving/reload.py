"""The configuration file while the server runs: taken whole, or refused whole with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stream_ctr.errors import ConfigError
from stream_ctr.events.log import LogConfig
from stream_ctr.experiments.config import ExperimentConfig
from stream_ctr.experiments.control import Stamp, stamp_of
from stream_ctr.serving.config import ServeConfig


@dataclass(frozen=True)
class Running:
    """What a server was started with and cannot change while it runs."""

    serve: ServeConfig
    log: LogConfig
    state: str
    """``train.state``."""


class ConfigFile:
    """Follows the file that the server was started with. The environment stays what it was at the start."""

    def __init__(self, path: Path, running: Running) -> None:
        self.path = path
        self._running = running
        self._seen: Stamp = stamp_of(path)

    def changed(self) -> bool:
        """Whether the file is another one than at the last call of ``read``."""
        return stamp_of(self.path) != self._seen

    def read(self) -> ExperimentConfig:
        """The experiment that the file describes now.

        Raises:
            ConfigError: the file is unusable, or changes what takes a restart.
        """
        from stream_ctr.config import load_settings

        self._seen = stamp_of(self.path)
        settings = load_settings(self.path)
        parts = (
            ("serve", self._running.serve, settings.serve),
            ("log", self._running.log, settings.log),
        )
        for table, before, after in parts:
            for key, old, new in _differences(before, after):
                raise ConfigError(_restart(self.path, f"{table}.{key}", old, new))
        if settings.train.state != self._running.state:
            raise ConfigError(_restart(self.path, "train.state", self._running.state, settings.train.state))
        return settings.experiment


def _differences(before: Any, after: Any) -> list[tuple[str, object, object]]:
    pairs = ((item.name, getattr(before, item.name), getattr(after, item.name)) for item in fields(before))
    return [(name, old, new) for name, old, new in pairs if old != new]


def _restart(path: Path, key: str, old: object, new: object) -> str:
    return (
        f"{path}: {key} changed from {old!r} to {new!r}, which takes a restart of the server; nothing of the "
        "file is taken until then"
    )


def summary(experiment: ExperimentConfig) -> Mapping[str, object]:
    """What tells one experiment from another."""
    return {
        "experiment": experiment.name,
        "salt": experiment.salt,
        "coverage": experiment.coverage,
        "arms": [arm.name for arm in experiment.arms],
    }
