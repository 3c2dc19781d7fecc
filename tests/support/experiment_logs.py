"""Logs of experiments with a known ground truth, and the watcher over them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import msgspec
import numpy as np

from stream_ctr.config.settings import Settings, load_settings
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import Click, Impression
from stream_ctr.experiments.assignment import Assigner
from stream_ctr.experiments.report.model import Report
from stream_ctr.experiments.watcher.daemon import Watcher
from stream_ctr.reporting.progress import Reporter

START_MS = 1_700_000_000_000
STEP_MS = 20
"""Event time from one impression to the next."""
CONFIG = """\
[log]
url = "sqlite:///{folder}/clicks.db"
[order]
idle_seconds = 0.1
max_lead_seconds = 1.0
[join]
window_seconds = 5.0
grace_seconds = 1.0
horizon_seconds = 60.0
[train]
state = "{folder}/{state}"
poll_seconds = 0.02
checkpoint_seconds = 1e9
checkpoints_kept = 1000
chunk = {chunk}
[watch]
window_seconds = 20.0
planned_impressions = 20000
report_seconds = 1e6
port = -1
{watch}
[experiment]
salt = "{salt}"
{experiment}
[[experiment.arms]]
name = "control"
weight = 0.5
[[experiment.arms]]
name = "new"
weight = 0.5
{arms}
"""
SHADOW = """\
[[experiment.arms]]
name = "quiet"
weight = 0.0
shadow = true
"""


@dataclass(frozen=True)
class World:
    """What happens to users."""

    impressions: int
    uplift: float = 0.0
    """Treatment's click probability over control's, less 1."""
    seed: int = 0
    users: int = 3000
    rate: float = 0.1
    partitions: int = 2
    drop: float = 0.0
    """Share of the treatment's users whose impressions never reach the log."""
    noise: float = 0.5
    """Error of the control's predictions in logits; the treatment's are right."""


class Change(TypedDict, total=False):
    """What a test sets otherwise than :func:`write_config` does."""

    salt: str
    watch: str
    experiment: str
    arms: str


def write_config(
    folder: Path,
    state: str = "state",
    *,
    salt: str = "one",
    watch: str = "",
    experiment: str = "",
    arms: str = "",
    chunk: int = 256,
) -> Path:
    """A configuration whose state folder is ``folder/state``."""
    path = folder / f"{state}.toml"
    table = {"folder": folder, "state": state, "salt": salt, "watch": watch, "chunk": chunk}
    path.write_text(CONFIG.format(**table, experiment=experiment, arms=arms), "utf-8")
    return path


def write_log(folder: Path, settings: Settings, world: World, start: int = 0) -> None:
    """Append the world's impressions from number ``start`` on, and their clicks."""
    log = open_log(settings.log.url, create=True)
    try:
        for topic in (settings.log.impressions, settings.log.clicks):
            log.create_topic(topic, world.partitions)
        impressions, clicks = make(settings, world, start)
        log.append(settings.log.impressions, impressions)
        log.append(settings.log.clicks, clicks)
    finally:
        log.close()


def make(settings: Settings, world: World, start: int = 0) -> tuple[list[Record], list[Record]]:
    """Impressions and clicks in order of time."""
    draws = np.random.default_rng([world.seed, start])
    assigner = Assigner(settings.experiment)
    shown, clicked = [], []
    taste = np.random.default_rng(world.seed).standard_normal(world.users) * 0.5
    for number in range(start, start + world.impressions):
        who = int(world.users * draws.random() ** 2)
        user = f"u{who}-{world.seed}"
        found = assigner.assign(user)
        arm = found.arm or "control"
        if arm == "new" and who % 1000 < 1000 * world.drop:
            continue
        factor = 1.0 + world.uplift if arm == "new" else 1.0
        truth = min(0.9, world.rate * float(np.exp(taste[who] - 0.125)) * factor)
        logit = float(np.log(truth / (1.0 - truth)))
        said = {
            "control": 1.0 / (1.0 + np.exp(-logit - world.noise * draws.standard_normal())),
            "new": truth,
            "quiet": 1.0 / (1.0 + np.exp(-logit - 2 * world.noise * draws.standard_normal())),
        }
        time_ms = START_MS + STEP_MS * number
        record = Impression(
            v=1,
            event_id=f"e{number}",
            ts_ms=time_ms,
            features={"ad": f"a{number % 7}"},
            user=user,
            bid=float(np.exp(0.5 * draws.standard_normal())),
            p={each.name: float(said[each.name]) for each in settings.experiment.arms},
            experiment=settings.experiment.name,
            salt=settings.experiment.salt,
            bucket=found.bucket,
            assigned_arm=found.arm or "",
            arm=arm,
            reason="assigned" if found.arm else "not_enrolled",
            model_version=f"{arm}-{number // 1000}",
        )
        shown.append(Record(record.event_id.encode(), msgspec.json.encode(record), time_ms))
        if draws.random() < truth:
            click_ms = time_ms + int(draws.exponential(1000.0))
            click = Click(v=1, event_id=record.event_id, ts_ms=click_ms)
            clicked.append(Record(record.event_id.encode(), msgspec.json.encode(click), click_ms))
    return shown, sorted(clicked, key=lambda record: record.timestamp_ms)


def watch(
    config: Path,
    on_step: Callable[[Watcher], None] = lambda watcher: None,
    stop: threading.Event | None = None,
) -> tuple[Report, Watcher]:
    """Watch the log to its end, or until ``stop``."""
    settings = load_settings(config)
    log: EventLog = open_log(settings.log.url)
    try:
        with Reporter("test", quiet=True) as reporter:
            watcher = Watcher(settings, log, reporter, on_step=lambda: on_step(watcher))
            report, _ = watcher.run(stop or threading.Event(), None if stop else 0.0)
    finally:
        log.close()
    return report, watcher
