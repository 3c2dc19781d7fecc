"""``stream-ctr bench``: the project's figures, one command each, its peers in the same run."""

from __future__ import annotations

import argparse
import importlib
from typing import Protocol

BENCHES = {
    "step": "stream_ctr.bench.step.command:Step",
    "labels": "stream_ctr.bench.labels.command:Labels",
    "stream": "stream_ctr.bench.stream.command:Stream",
    "scale": "stream_ctr.bench.scale.command:Scale",
    "serve": "stream_ctr.bench.serve.command:Serve",
    "experiment": "stream_ctr.bench.experiment.command:Experiment",
    "watch": "stream_ctr.bench.watch.command:Watch",
    "papers": "stream_ctr.bench.papers.command:Papers",
    "optimizers": "stream_ctr.bench.optimizers.command:Optimizers",
}
"""Every bench and the class behind it, in the order of the help text."""


class OneBench(Protocol):
    """One table of figures. Its module must be quick to import: heavy imports belong into ``run``."""

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Measure, print, and return the exit status."""
        ...


class Bench:
    """``stream-ctr bench``."""

    help = "measure what the project claims, beside its peers in the same run"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        inner = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
        self._benches: dict[str, OneBench] = {}
        for name, where in BENCHES.items():
            module, _, attribute = where.partition(":")
            bench: OneBench = getattr(importlib.import_module(module), attribute)()
            bench.add_arguments(inner.add_parser(name, help=bench.help, description=bench.help))
            self._benches[name] = bench

    def run(self, arguments: argparse.Namespace) -> int:
        return self._benches[arguments.what].run(arguments)
