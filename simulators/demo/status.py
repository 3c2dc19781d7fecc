"""The state of the demo's processes: addresses, readiness, freshness and lag."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulators.demo.freshness import Freshness
from simulators.demo.processes import Child
from simulators.demo.setup import ARMS, GRACE_SECONDS, LABEL_SECONDS


@dataclass(frozen=True)
class Services:
    """The processes of the demo."""

    server: Child
    watcher: Child
    trainers: tuple[Child, ...]

    def addresses(self) -> dict[str, str | None]:
        """Addresses by name; None for a process that has not reported its address yet."""
        page = self.watcher.address()
        trainers = {f"metrics of {child.name}": child.address() for child in self.trainers}
        return {
            "server": self.server.address(),
            "page": page,
            **{name: url and f"{url}/metrics" for name, url in trainers.items()},
        }


def ready(services: Services) -> bool:
    """Whether the server has a model of every arm."""
    try:
        answer = json.loads(_get(f"{services.server.address()}/health/ready"))
    except (OSError, ValueError):
        return False
    arms = answer.get("arms", {})
    return bool(arms) and all(arms.get(arm, {}).get("version") is not None for arm in ARMS)


def observe(services: Services, fresh: dict[str, Freshness]) -> dict[str, Any]:
    """Answers and freshness of each arm at this moment; records the freshness in ``fresh``."""
    try:
        series = _series(_get(f"{services.server.address()}/metrics"))
    except OSError:
        return {}
    shown: dict[str, Any] = {}
    seen = time.time()
    answers = {arm: _answers(series, arm) for arm in fresh}
    for arm, freshness in fresh.items():
        if not any(answers.values()):
            freshness.begin(seen)  # no visit yet: all impressions will be later than this
        learned_until = series.get(f'stream_ctr_serve_snapshot_event_timestamp_seconds{{arm="{arm}"}}', 0.0)
        if learned_until > 0.0:
            freshness.observe(seen, learned_until - LABEL_SECONDS - GRACE_SECONDS)
        shown[f"{arm}_answers"] = answers[arm]
        p50 = freshness.quantile(0.5)
        shown[f"{arm}_freshness"] = "-" if p50 is None else f"{p50:.1f} s"
    return shown


def _answers(series: dict[str, float], arm: str) -> int:
    return round(series.get(f'stream_ctr_serve_requests_total{{arm="{arm}",code="200"}}', 0.0))


def reader_lags(services: Services, folder: Path, since_ms: float) -> dict[str, float | None]:
    """Entries of the log that each reader has not applied; None if unknown.

    The watcher is included once it has written a report. A report from before ``since_ms`` gives None.
    """
    from stream_ctr.config.experiment import FOLDER
    from stream_ctr.experiments.report.model import read_report

    left: dict[str, float | None] = {child.name: _lag(child) for child in services.trainers}
    report = folder / "state" / FOLDER / "report.json"
    if report.exists():
        found = read_report(report)
        left["watcher"] = found.progress.lag_entries if found.generated_ms > since_ms else None
    return left


def _lag(trainer: Child) -> float | None:
    """Entries of the log that a trainer has not applied."""
    try:
        series = _series(_get(f"{trainer.address()}/metrics"))
    except OSError:
        return None
    found = [value for name, value in series.items() if name.startswith("stream_ctr_log_lag_entries{")]
    return sum(found) if found else None


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: bytes = answer.read()
    return text.decode()


def _series(exposition: str) -> dict[str, float]:
    """Values by series of a Prometheus text exposition, with labels sorted by name."""
    found = {}
    for line in exposition.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, brace, labels = series.partition("{")
            ordered = ",".join(sorted(labels.removesuffix("}").split(",")))
            found[f"{name}{{{ordered}}}" if brace else name] = float(value)
    return found
