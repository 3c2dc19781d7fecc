"""Writes the golden states that :mod:`tests.golden.test_golden_states` loads.

    python -m tests.support.write_golden_states        # writes tests/golden/data, then:
    STREAM_CTR_TEST_GOLDEN_EXACT=1 pytest tests/golden  # compares bit for bit on the machine that wrote

The golden states prove that files of an earlier version still load and lead to the same results. A failing
test means that states in production do not. Never run this script to make the test pass. Two
reasons allow it:

* A format changes on purpose. The same commit adds the code that loads the old format (a migration), keeps
  the old archives under another name, as in ``torch-v1.tar.xz``, and tests the migration on them.
* A learner or an option with arrays of its own is added. ``--only NAME`` writes its archive and leaves the
  other archives and the log as they are.

Each job is a process that is stopped by SIGTERM when it has applied half of the log, so that impressions
wait for their labels. It is then resumed in this process, on the whole log, until its end.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import lzma
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from tests.support.golden_states import (
    ALL,
    DATA,
    JOIN,
    TRAINERS,
    WATCH,
    Golden,
    figures_of,
    labelled_topic,
    predictions,
    report_of,
    resume,
    run,
    sums_of,
    unpack,
    versions,
)

EVENTS: Final = 320
REQUESTS: Final = 20
"""Impressions after those of the log, whose features are the requests."""
HALF_SECONDS: Final = 80.0
"""Event time of the log when the states are saved; the whole log has twice as much."""
START_MS: Final = 1_735_689_600_000
PATIENCE_SECONDS: Final = 120.0
BUCKETS: Final = 10_000
COUNT: Final = (
    "UPDATE partitions SET end_offset = (SELECT count(*) FROM entries WHERE entries.id >> 40 = partitions.id)"
)
"""Sets the ends of the partitions by what is in them."""


def main() -> None:
    """Write all archives, or those that are named."""
    parser = argparse.ArgumentParser(description="Write golden states; see the docstring for when.")
    parser.add_argument("--only", action="append", choices=[golden.name for golden in ALL], metavar="NAME")
    only: list[str] | None = parser.parse_args().only
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs = folder / "log"
        if only:
            unpack(DATA / "log.tar.xz", logs)
        else:
            write_logs(logs)
            _write_join(logs, folder / "join")
            _pack(DATA / "log.tar.xz", logs, ["half.db", "full.db", "requests.json"])
        unpack(JOIN.archive, folder / "stored")
        resume(JOIN, folder / "stored" / "state", logs / "full.db", folder / "joined")
        for golden in (WATCH, *TRAINERS):
            if only is None or golden.name in only:
                _write(golden, logs, folder / "joined" / "log.db", folder / golden.name)


def write_logs(folder: Path) -> None:
    """``full.db`` with the planted world and an experiment, and ``half.db``, which is its beginning."""
    folder.mkdir(parents=True)
    full, half = folder / "full.db", folder / "half.db"
    words = "users=40 ads=30 sites=12 click_rate=0.3 events_per_second=2 delay=lognormal delay_seconds=6"
    options = [part for word in words.split() for part in ("--option", word)]
    events = str(EVENTS + REQUESTS)
    with contextlib.chdir(folder):
        run("simulate", "--log", "sqlite:///full.db", "--events", events, "--partitions", "2", *options)
    with closing(sqlite3.connect(full)) as log:
        requests = _add_experiment(log)
        _cut(log, START_MS + int(2000 * HALF_SECONDS))
        _compact(log)
    (folder / "requests.json").write_text(json.dumps(requests, indent=1), "utf-8")
    shutil.copy(full, half)
    with closing(sqlite3.connect(half)) as log:
        _cut(log, START_MS + int(1000 * HALF_SECONDS))
        _compact(log)


def _add_experiment(log: sqlite3.Connection) -> list[dict[str, Any]]:
    """Give the impressions what a server would have written; returns the features of the last ones."""
    requests, before = [], b""
    names = ("user", "interests", "ad", "site", "price", "visits")
    for number, (place, value) in enumerate(_topic(log, "impressions")):
        record = json.loads(value)
        record["features"] = {name: record["features"].get(name) for name in names}
        if number % 40 == 9:
            record["features"]["unknown"] = number  # ignored, and counted
        bucket = _bucket("golden-1", record["user"])
        enrolled = bucket % (BUCKETS // 2) < 0.9 * (BUCKETS // 2)
        arm = "new" if enrolled and bucket >= BUCKETS // 2 else "control"
        truth = record["truth"]
        record |= {
            "p": {"control": round(0.1 + 0.5 * truth, 6), "new": round(truth, 6)},
            "experiment": "golden",
            "salt": "golden-1",
            "bucket": bucket,
            "assigned_arm": arm if enrolled else "",
            "arm": arm,
            "reason": "assigned" if enrolled else "not_enrolled",
            "model_version": f"{arm}-{number // 100}",
        }
        value = json.dumps(record).encode()
        if number >= EVENTS:
            requests.append({name: record["features"][name] for name in names})
        elif number % 100 == 30:
            value = value[:-1]  # a dead letter
        elif number % 100 == 60:
            value = before  # a repeat
        before = value
        log.execute("UPDATE entries SET value = ? WHERE id = ?", (value, place))
    for number, (place, value) in enumerate(_topic(log, "clicks")):
        if number % 8 == 7:  # no impression of that id
            log.execute(
                "UPDATE entries SET value = ? WHERE id = ?", (value.replace(b"world", b"other"), place)
            )
    log.commit()
    requests[0] = {"user": "nobody", "ad": "unseen", "interests": [], "price": None}
    return requests


def _topic(log: sqlite3.Connection, name: str) -> list[tuple[int, bytes]]:
    """Place and value of each record, in order of time."""
    rows: list[tuple[int, bytes]] = log.execute(
        "SELECT entries.id, value FROM entries JOIN partitions ON entries.id >> 40 = partitions.id "
        "JOIN topics ON topics.id = partitions.topic WHERE name = ? ORDER BY timestamp_ms",
        (name,),
    ).fetchall()
    return rows


def _bucket(salt: str, user: str) -> int:
    """Bucket of a user, by the definition in the documentation of routing."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (salt.encode(), user.encode()):
        digest.update(len(part).to_bytes(4, "big") + part)
    return int.from_bytes(digest.digest(), "big") % BUCKETS


def _cut(log: sqlite3.Connection, before_ms: int) -> None:
    """Drop the records from a moment on, as if they had not been written yet."""
    log.execute("DELETE FROM entries WHERE timestamp_ms >= ?", (before_ms,))
    log.execute(COUNT)
    log.commit()


def _compact(log: sqlite3.Connection) -> None:
    log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.execute("VACUUM")


def _write_join(logs: Path, folder: Path) -> None:
    """The joining process comes first: what it wrote is in both logs, for those that read it."""
    first = _job_folder(JOIN, logs / "half.db", folder / "first")
    _run_to_half(JOIN, first)
    later = folder / "later.db"
    (logs / "full.db").rename(later)
    for name in ("half.db", "full.db"):
        shutil.copy(first / "log.db", logs / name)
        with closing(sqlite3.connect(logs / name)) as log:
            if name == "full.db":
                _add_later(log, later)
            _compact(log)
    second = folder / "second"
    printed = resume(JOIN, first / "state", logs / "full.db", second)
    expected = {"figures": figures_of(printed), "labelled": labelled_topic(second / "log.db")}
    _store(JOIN, first, second, expected, snapshot=False)


def _add_later(log: sqlite3.Connection, later: Path) -> None:
    """Add what the same log held at a later time."""
    log.execute("ATTACH ? AS later", (str(later),))
    log.execute("INSERT OR IGNORE INTO entries SELECT * FROM later.entries")
    log.execute(COUNT)
    log.commit()
    log.execute("DETACH later")


def _write(golden: Golden, logs: Path, joined: Path, folder: Path) -> None:
    """Write one state and what becomes of it."""
    print(golden.name, flush=True)
    first = _job_folder(golden, logs / "half.db", folder / "first")
    _run_to_half(golden, first)
    second, full = folder / "second", joined if golden.reads_labelled else logs / "full.db"
    expected: dict[str, Any] = {}
    if golden is WATCH:
        resume(golden, first / "state", full, second)
        expected = {"report": report_of(second), "sums": sums_of(second)}
    else:
        requests = json.loads((logs / "requests.json").read_text("utf-8"))
        with contextlib.chdir(first):
            run("snapshot", "copy", f"state/{golden.arm}", "--to", "snapshot")
        expected["predictions"] = predictions(first / "snapshot", requests)
        expected["figures"] = figures_of(resume(golden, first / "state", full, second))
    _store(golden, first, second, expected, snapshot=golden is not WATCH)


def _job_folder(golden: Golden, log: Path, folder: Path) -> Path:
    """A working folder with configuration and log."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(golden.config, "utf-8")
    shutil.copy(log, folder / "log.db")
    return folder


def _run_to_half(golden: Golden, folder: Path) -> None:
    """Run the job as a process until it has applied what it can, and stop it as a service manager does."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "STREAM_CTR_TRAIN__CHECKPOINT_SECONDS": "0.3",
        "STREAM_CTR_TRAIN__CHECKPOINTS_KEPT": "2",
    }
    command = [sys.executable, "-m", "stream_ctr.cli", *golden.command, "--config", "config.toml"]
    with (folder / "messages.txt").open("w") as messages:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=messages, stdout=messages)
        try:
            still = _is_still(process, folder / "state" / golden.arm / "checkpoints")
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(PATIENCE_SECONDS)
    if status != 0 or not still:
        raise SystemExit(f"{golden.name} ended with {status}:\n{(folder / 'messages.txt').read_text()}")
    for old in versions(folder / "state" / golden.arm / "checkpoints")[:-1]:
        shutil.rmtree(old)


def _is_still(process: subprocess.Popen[bytes], checkpoints: Path) -> bool:
    """Wait until four checkpoints in a row are of the same position in the log, and not its beginning;
    whether that came to pass."""
    deadline, seen = time.monotonic() + PATIENCE_SECONDS, dict[str, tuple[int, int]]()
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
        for path in versions(checkpoints) if checkpoints.is_dir() else []:
            with contextlib.suppress(OSError):  # removed meanwhile
                manifest = json.loads((path / "manifest.json").read_bytes())
                seen[path.name] = manifest["emitted"], sum(place[2] for place in manifest["positions"])
        last = [seen[name] for name in sorted(seen)][-4:]
        if len(last) == 4 and len(set(last)) == 1 and last[0][0] > 0:
            return True
    return False


def _store(golden: Golden, first: Path, second: Path, expected: dict[str, Any], *, snapshot: bool) -> None:
    """Pack one archive."""
    for name in ("snapshots", "report.json", "sums.json", "lock"):
        left = first / "state" / golden.arm / name
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)
    shutil.copytree(versions(second / "state" / golden.arm / "checkpoints")[-1], first / "end")
    (first / "expected.json").write_text(json.dumps(expected, indent=1), "utf-8")
    parts = ["config.toml", "state", "end", "expected.json", *(["snapshot"] if snapshot else [])]
    _pack(golden.archive, first, parts)


def _pack(archive: Path, folder: Path, names: list[str]) -> None:
    """An archive whose bytes depend on names and contents only."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as packed:
        for name in names:
            packed.add(folder / name, name, filter=plain)
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
