"""The services of a compose file as processes of this machine, for where there is no container engine.

Commands, environment, mounts, order of start and health checks are the file's own. Each service gets a
loopback address of its own, as it would in a compose network, so that ports stay what the file says. Texts
are rewritten where they name a service with a port, a mounted path, or any address (0.0.0.0).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.support.kafka_broker import Broker

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
TEXTS = (".toml", ".yml", ".yaml", ".json")
"""Mounted files that are settings; from a mounted folder, only these are taken."""
Service = Mapping[str, Any]


def read_yaml(path: Path) -> Any:
    """The document of a YAML file, merge keys resolved."""
    return YAML(typ="safe").load(path.read_text("utf-8"))


def mounts(service: Service) -> Iterator[tuple[str, str]]:
    """Source (a volume's name, or a path relative to the compose file) and path of each mount."""
    for text in service.get("volumes", ()):
        source, target = str(text).split(":")[:2]
        yield source, target


@dataclass
class Running:
    """One service that was started."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def check(self) -> None:
        """Raise with its last words if it has failed."""
        if self.process.poll():
            status = self.process.returncode
            lines = self.output.read_text("utf-8", errors="replace").strip().splitlines()
            raise AssertionError(f"service {self.name} ended with status {status}: {lines[-8:]}")


@dataclass
class Composed:
    """Services of ``compose.yaml``, run under ``folder``; ``network`` (two bytes) sets runs apart."""

    folder: Path
    network: str
    file: Path = COMPOSE
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.services: dict[str, Service] = read_yaml(self.file)["services"]
        self.addresses = {name: f"127.{self.network}.{2 + n}" for n, name in enumerate(self.services)}
        self._broker = Broker(self.folder / "kafka")

    def start(self, names: list[str], seconds: float) -> None:
        """Start these services, each when those it depends on are healthy, as the file says."""
        deadline = time.monotonic() + seconds
        for name in names:
            for other, condition in self.services[name].get("depends_on", {}).items():
                assert other in names[: names.index(name)], f"{name} depends on {other}, started later"
                met = CONDITIONS[condition["condition"]]
                while not met(self, other):
                    assert time.monotonic() < deadline, f"{other}: no {condition} after {seconds:g} s"
                    self.check()
                    time.sleep(0.2)
            self._start(name)

    def check(self) -> None:
        """Raise with the last words of a service that has failed."""
        for running in self.running:
            running.check()

    def stop(self) -> None:
        """End every service, the last started first."""
        for running in reversed(self.running):
            running.process.terminate()
        for running in reversed(self.running):
            try:
                running.process.wait(20)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        self._broker.kill()

    def url(self, service: str, port: int) -> str:
        """Address of a service's port on this machine."""
        return f"http://{self.addresses[service]}:{port}"

    def call(self, name: str, arguments: list[str]) -> None:
        """Run a command inside a service, with its settings."""
        service = self.services[name]
        config = service["command"][service["command"].index("--config") + 1]
        command = [
            *self._program(str(service["image"])),
            *arguments,
            "--config",
            self.rewritten(name, config),
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment(name))
        assert done.returncode == 0, done.stdout + done.stderr

    def completed(self, name: str) -> bool:
        """Whether a service that does one thing has done it."""
        return any(done.name == name and done.process.poll() == 0 for done in self.running)

    def healthy(self, name: str) -> bool:
        """Whether the service passes its own health check; Kafka is asked when it starts."""
        if name == "kafka":
            return True
        kind, program, *rest = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD", (name, kind)
        rest = [text.replace("127.0.0.1", self.addresses[name]) for text in rest]
        if program == "wget":  # of the image's own tools
            try:
                return httpx.get(rest[-1], timeout=4).status_code == 200
            except httpx.HTTPError:
                return False
        assert program == "python", (name, program)
        return subprocess.run([sys.executable, *rest], stderr=subprocess.DEVNULL).returncode == 0

    def rewritten(self, name: str, text: str) -> str:
        """A text of one service's settings with this machine's addresses and paths."""
        text = text.replace("0.0.0.0", self.addresses[name])
        text = text.replace("kafka:19092", self._broker.url.removeprefix("kafka://"))
        for service, address in self.addresses.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(service)}(?=:\d)", address, text)
        inside = {target: self._mounted(name, source) for source, target in mounts(self.services[name])}
        longest_first = "|".join(map(re.escape, sorted(inside, key=len, reverse=True)))
        if inside:
            text = re.sub(rf"(?<![\w./-])({longest_first})(?![\w.-])", lambda at: str(inside[at[1]]), text)
        return text

    def _mounted(self, name: str, source: str) -> Path:
        if not source.startswith("."):
            return self.folder / "volumes" / source
        own = self.folder / "mounts" / name
        return own if source == "." else own / source

    def _mount(self, name: str) -> None:
        """Make the mounts: a folder for each volume, and a rewritten copy of each file of settings."""
        for source, _ in mounts(self.services[name]):
            target, origin = self._mounted(name, source), self.file.parent / source
            if not source.startswith("."):
                target.mkdir(parents=True, exist_ok=True)
                continue
            found = [origin] if origin.is_file() else [p for p in origin.iterdir() if p.suffix in TEXTS]
            for path in found:
                copy = target if origin.is_file() else target / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(self.rewritten(name, path.read_text("utf-8")), "utf-8")

    def _start(self, name: str) -> None:
        service = self.services[name]
        if name == "kafka":
            self._broker.start()
            return
        self._mount(name)
        arguments = [self.rewritten(name, str(word)) for word in service["command"]]
        command = [*self._program(str(service["image"])), *arguments]
        output = self.folder / f"{name}.log"
        with output.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(name),
            )
        self.running.append(Running(name, process, output))

    def _environment(self, name: str) -> dict[str, str]:
        """What the image and the service set, on top of this machine's own."""
        settings = self.services[name].get("environment", {})
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("STREAM_CTR_")}
        own = {key: self.rewritten(name, str(text)) for key, text in settings.items()}
        return {**inherited, "OMP_NUM_THREADS": "1", **own}

    @staticmethod
    def _program(image: str) -> list[str]:
        if image.startswith("prom/prometheus:"):
            found = shutil.which("prometheus")
            assert found is not None
            return [found]
        assert image.startswith("stream-ctr:"), f"no program of this machine stands for the image {image}"
        assert 'ENTRYPOINT ["stream-ctr"]' in (DEPLOY / "Dockerfile").read_text("utf-8")
        return [sys.executable, "-m", "stream_ctr.cli"]


CONDITIONS = {"service_healthy": Composed.healthy, "service_completed_successfully": Composed.completed}
"""What a service may wait for in another."""
