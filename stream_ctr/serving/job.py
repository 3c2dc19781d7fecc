"""The configuration of a server process, passed to a worker as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.features import UnknownFeatures
from stream_ctr.config.log import LogConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.serving.routing.config_reload import ConfigSource


@dataclass(frozen=True, slots=True)
class Job:
    """The configuration of a server process."""

    serve: ServeConfig
    experiment: ExperimentConfig
    log: LogConfig
    state: str
    """Folder that holds the state folder of each arm."""
    config: ConfigSource | None = None
    """The file that the experiment was loaded from, if any."""
    replaced: dict[str, int] = field(default_factory=dict)
    """How often this worker was restarted, by cause."""
    unknown: UnknownFeatures = "ignore"
    """How features that are not in the schema are handled."""
