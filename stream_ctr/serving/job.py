"""What a server process needs to know; a worker receives it as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.features import UnknownFeatures
from stream_ctr.config.log import LogConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.serving.routing.config_reload import ConfigSource


@dataclass(frozen=True, slots=True)
class Job:
    """All that a server process needs to know; a worker gets it as JSON."""

    serve: ServeConfig
    experiment: ExperimentConfig
    log: LogConfig
    state: str
    """Folder of the arms' states."""
    config: ConfigSource | None = None
    """The file that the experiment came from, where there is one."""
    replaced: dict[str, int] = field(default_factory=dict)
    """How often this worker was started anew, by cause."""
    unknown: UnknownFeatures = "ignore"
    """What becomes of features that no field names."""
