"""Outputs of the watcher: report.json, sums.json, and the latest report for its HTTP port."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from stream_ctr.config.experiment import FOLDER
from stream_ctr.config.settings import Settings
from stream_ctr.errors import StateError
from stream_ctr.experiments.report.model import Gap, Model, Progress, Report, encode_report
from stream_ctr.experiments.shared_files import SUMS, ArmSums, LogGap, Sums, read_gaps, replace_file
from stream_ctr.experiments.watcher.experiment import Experiment
from stream_ctr.experiments.watcher.report_builder import build_report
from stream_ctr.predictors.snapshot import MANIFEST, path_of, read_current

REPORT: Final = "report.json"
EARLIER: Final = "earlier"
"""Folder of the reports of earlier experiments."""
SHOWN_GAPS: Final = 100
"""Maximum number of gaps in the report, the most recent ones."""


class _Snapshot(msgspec.Struct):
    """The fields of a snapshot's manifest that the report needs."""

    created_ms: int
    event_time_ms: int


class WatchOutput:
    """Builds the report and writes it; ``latest`` may be read from any thread.

    Args:
        settings: the configuration.
        folder: the watcher's folder.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.latest: tuple[Report, bytes] | None = None
        """The latest report and its JSON."""

    def write(self, experiment: Experiment, progress: Progress, now_ms: int) -> tuple[Report, str]:
        """Build, publish and write the report; returns it with the error of writing, empty on success."""
        report = build_report(
            experiment,
            self._settings,
            progress,
            now_ms=now_ms,
            models=[self._model(name, progress, now_ms) for name in experiment.names],
            gaps=self._gaps(),
            earlier=self._earlier(),
        )
        content = encode_report(report)
        self.latest = report, content
        try:
            replace_file(self._folder / REPORT, content + b"\n")
            replace_file(self._folder / SUMS, msgspec.json.encode(_sums(experiment, now_ms)) + b"\n")
        except OSError as error:
            return report, str(error)
        return report, ""

    def archive(self, salt: str) -> None:
        """Keep the current report file as that of the earlier experiment ``salt``.

        Raises:
            OSError: the file cannot be read or written.
        """
        written = self._folder / REPORT
        if written.exists():
            replace_file(self._folder / EARLIER / file_of(salt), written.read_bytes())

    def _earlier(self) -> list[str]:
        found = []
        for path in sorted((self._folder / EARLIER).glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=_Salted).salt)
            except (OSError, msgspec.MsgspecError, ValueError):
                continue  # not written by this class
        return [salt for salt in found if salt != self._settings.experiment.salt]

    def _gaps(self) -> list[Gap]:
        try:
            found: list[LogGap] = read_gaps(self._folder)
        except StateError:
            return []
        return [
            Gap(start_ms=gap.start_ms, end_ms=gap.end_ms, worker=gap.worker, dropped=gap.dropped)
            for gap in found[-SHOWN_GAPS:]
        ]

    def _model(self, arm: str, progress: Progress, now_ms: int) -> Model:
        """The arm's newest snapshot; empty if its folder cannot be read from this machine."""
        config = next(each for each in self._settings.experiment.arms if each.name == arm)
        folder = self._settings.arm_state(arm) / "snapshots"
        current = read_current(folder)
        if config.snapshot:
            path = Path(config.snapshot) / MANIFEST
        elif current is not None:
            path = path_of(folder, current[0]) / MANIFEST
        else:
            return Model()
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_Snapshot)
        except (OSError, msgspec.MsgspecError, ValueError):
            return Model()
        age_seconds = max(0.0, (now_ms - found.created_ms) / 1000.0)
        return Model(created_ms=found.created_ms, event_time_ms=found.event_time_ms, age_seconds=age_seconds)


class _Salted(msgspec.Struct):
    salt: str


def file_of(salt: str) -> str:
    """File name for the report of a salt; any characters are allowed in the salt."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in salt)[:80]
    if plain == salt and salt:
        return f"{plain}.json"
    return f"{plain}-{hashlib.blake2b(salt.encode(), digest_size=4).hexdigest()}.json"


def report_path(config: str | None, place: Path | None, salt: str | None) -> Path:
    """Path of a report, given a configuration file, a state folder or the report file itself.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    if place is not None and place.is_file():
        return place
    if place is None:
        from stream_ctr.config.settings import load_settings

        place = Path(load_settings(config).train.state)
    folder = place if place.name == FOLDER else place / FOLDER
    return folder / REPORT if salt is None else folder / EARLIER / file_of(salt)


def _sums(experiment: Experiment, now_ms: int) -> Sums:
    sums = experiment.sums
    arms = {
        name: ArmSums(
            int(sums.impressions[arm].sum()), int(sums.clicks[arm].sum()), float(sums.served[arm].sum())
        )
        for arm, name in enumerate(experiment.names)
    }
    return Sums(experiment.config.name, experiment.config.salt, arms, now_ms)
