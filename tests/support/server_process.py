"""A real server process on loopback, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.serving.ranking.test_impression_log import eventually
from tests.support.served_arms import request, sample

ROOT = Path(__file__).parents[2]


class Process:
    """A running server and a client to it."""

    def __init__(
        self,
        state: Path,
        log: str,
        serve: Mapping[str, Any],
        environment: Mapping[str, str],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.two_arm_server", str(state), log, json.dumps(serve)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.child.stdout is not None
        lines = [self.child.stdout.readline() for _ in range(1 + int(serve.get("workers", 1)))]
        scheme = "http" if tls is None else "https"
        if not lines[0].startswith(f"stream-ctr serves at {scheme}://127.0.0.1:"):
            self.child.kill()
            raise AssertionError((lines, self.child.communicate()))
        self.url, *self.admin = [line.split()[-1] for line in lines]
        self.client = httpx.Client(base_url=self.url, timeout=60, verify=True if tls is None else tls)

    def rank(self, user: str, candidates: int = 1) -> httpx.Response:
        return self.client.post("/v1/rank", json=request(user, candidates))

    def metric(self, name: str, **labels: str) -> float:
        return sample(self.client.get("/metrics").text, f"stream_ctr_serve_{name}", **labels)

    def wait_for_version(self, version: int) -> None:
        eventually(lambda: self.metric("snapshot_version", arm="new") == version)

    def stop(self, number: int = signal.SIGTERM) -> tuple[str, str]:
        """Exit status 0 after the signal; what it wrote to both outputs."""
        self.child.send_signal(number)
        out, err = self.child.communicate(timeout=120)
        assert self.child.returncode == 0, err
        return out, err

    def close(self) -> None:
        self.client.close()
        if self.child.poll() is None:
            self.child.kill()
        self.child.communicate()


@contextlib.contextmanager
def running(
    state: Path,
    log: str,
    serve: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Process]:
    """A server with these settings of [serve] and variables; its client connects as ``tls`` says."""
    process = Process(state, log, serve or {}, environment or {}, tls)
    try:
        yield process
    finally:
        process.close()
