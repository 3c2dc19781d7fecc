"""A real Kafka broker under a test's control, run by ``deploy/kafka/start``."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

START = Path(__file__).parents[2] / "deploy" / "kafka" / "start"


class Broker:
    """One broker on loopback; the port and the data outlive a kill."""

    def __init__(self, data: Path, options: Sequence[str] = ()) -> None:
        self.data = data
        self._options = options
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the broker and wait until it answers."""
        port = self.url.rpartition(":")[2] or "0"
        command = [str(START), "--port", port, "--data", str(self.data), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            self.url = output.readline().strip()
        assert self.url.startswith("kafka://"), f"no broker; see {self.data / 'server.log'}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the broker itself."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the broker without giving it time for anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
