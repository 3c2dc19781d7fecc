"""A small stream in an embedded log, with duplicates, orphans, late clicks and malformed records."""

from __future__ import annotations

import json
import random
from pathlib import Path

from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.open import open_log

CONFIG = """\
[log]
url = "sqlite:///{folder}/clicks.db"
[[features.fields]]
name = "ad"
[[features.fields]]
name = "age"
kind = "integer"
[[features.fields]]
name = "price"
kind = "float"
buckets = 8
[[features.fields]]
name = "tags"
kind = "multi"
max_values = 3
[order]
idle_seconds = 0.2
[join]
window_seconds = 20.0
horizon_seconds = 60.0
[model]
embedding = 4
hidden = [8, 4]
[train]
state = "{folder}/{state}"
chunk = 16
poll_seconds = 0.05
checkpoint_seconds = 1e9
checkpoints_kept = 1000
snapshot_seconds = 0
metrics_port = -1
"""

START_MS = 1_700_000_000_000


def write_config(folder: Path, state: str, extra: str = "") -> Path:
    """A configuration whose state folder is ``folder/state``."""
    path = folder / f"{state}.toml"
    path.write_text(CONFIG.format(folder=folder, state=state) + extra, "utf-8")
    return path


def write_stream(folder: Path, impressions: int, seed: int = 0) -> None:
    """Impressions and clicks with repeats, orphans, late clicks and malformed records among them."""
    log = open_log(f"sqlite:///{folder}/clicks.db", create=True)
    try:
        for topic in ("impressions", "clicks"):
            log.create_topic(topic, 2)
        extend_stream(log, 0, impressions, seed)
    finally:
        log.close()


def extend_stream(log: EventLog, start: int, stop: int, seed: int = 0) -> None:
    """Impressions ``start`` to ``stop`` and their clicks, each at its own time."""
    generator = random.Random(f"{seed}-{start}")
    timed: list[tuple[int, str, Record]] = []
    for number in range(start, stop):
        ts_ms = START_MS + 500 * number
        timed.append((ts_ms, "impressions", _impression(generator, number, ts_ms)))
        kind = generator.random()
        if kind < 0.35:
            for _ in range(2 if kind < 0.03 else 1):
                delay = generator.choice([-300, 10, 4_000, 15_000, 20_000, 20_001, 30_000])
                event_id = f"gone-{number}" if kind > 0.33 else f"e{number}"
                timed.append((ts_ms + delay, "clicks", _record(event_id, ts_ms + delay, {})))
        if kind > 0.96:
            timed.append((ts_ms + 1, "impressions", timed[-1][2]))  # a repeat
        if kind > 0.98:
            bad = generator.choice([b"{", b"null", b'{"v":1}', b'{"v":1,"event_id":"x","ts_ms":NaN}'])
            timed.append((ts_ms, "clicks", Record(b"k%d" % number, bad, ts_ms)))
    timed.sort(key=lambda item: item[0])
    for topic in ("impressions", "clicks"):
        log.append(topic, [record for _, name, record in timed if name == topic])


def _impression(generator: random.Random, number: int, ts_ms: int) -> Record:
    features = {
        "ad": f"a{int(generator.paretovariate(1.0))}",
        "age": generator.randrange(0, 80) if generator.random() < 0.9 else None,
        "price": round(generator.expovariate(0.1), 3),
        "tags": generator.sample(["x", "y", "z", "w"], generator.randrange(4)),
    }
    if generator.random() < 0.01:
        features["unknown"] = "field"
    return _record(f"e{number}", ts_ms, {"features": features})


def _record(event_id: str, ts_ms: int, more: dict[str, object]) -> Record:
    value = {"v": 1, "event_id": event_id, "ts_ms": ts_ms, **more}
    return Record(event_id.encode(), json.dumps(value).encode(), ts_ms)
