"""Reload of the configuration file while the server runs: applied as a whole, or rejected with the reason."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.log import LogConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.errors import ConfigError
from stream_ctr.experiments.kill_file import Stamp, stamp_of


@dataclass(frozen=True)
class FixedSettings:
    """Settings of a running server that require a restart to change."""

    serve: ServeConfig
    log: LogConfig
    state: str
    """``train.state``."""


@dataclass(frozen=True)
class ConfigSource:
    """A configuration file and its stamp. Create it before loading the file, to miss no change."""

    path: str
    stamp: Stamp

    @classmethod
    def of(cls, path: str | None) -> ConfigSource | None:
        """The file at this path in its present state; None without a path."""
        return None if path is None else cls(path, stamp_of(Path(path)))


class ConfigFile:
    """Follows the file that the server was started with. Environment variables are read only at startup."""

    def __init__(self, source: ConfigSource, running: FixedSettings) -> None:
        self.path = Path(source.path)
        self._running = running
        self._last_stamp = source.stamp

    def changed(self) -> bool:
        """Whether the file has changed since the last call of ``read``."""
        return stamp_of(self.path) != self._last_stamp

    def read(self) -> ExperimentConfig:
        """The experiment in the present file.

        Raises:
            ConfigError: the file is unusable, or changes a setting that requires a restart.
        """
        from stream_ctr.config.settings import load_settings

        self._last_stamp = stamp_of(self.path)
        settings = load_settings(self.path)
        parts = (
            ("serve", self._running.serve, settings.serve),
            ("log", self._running.log, settings.log),
        )
        for table, before, after in parts:
            for key, old, new in _differences(before, after):
                raise ConfigError(_restart(self.path, f"{table}.{key}", old, new))
        if Path(settings.train.state) != Path(self._running.state):
            raise ConfigError(_restart(self.path, "train.state", self._running.state, settings.train.state))
        return settings.experiment


def _differences(before: Any, after: Any) -> list[tuple[str, object, object]]:
    pairs = ((item.name, getattr(before, item.name), getattr(after, item.name)) for item in fields(before))
    return [(name, old, new) for name, old, new in pairs if old != new]


def _restart(path: Path, key: str, old: object, new: object) -> str:
    return (
        f"{path}: {key} changed from {old!r} to {new!r}, which requires a restart of the server; "
        "no change in the file is applied until then"
    )
