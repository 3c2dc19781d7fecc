"""``stream-ctr simulate``: the simulated world, written to a log or driven against a prediction server."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from simulators.closed_loop.command import add_server_arguments, check_server_arguments, run_against_server
from simulators.log_writer.command import add_writer_arguments, check_writer_arguments, run_writer
from stream_ctr.errors import LogError, UsageError

if TYPE_CHECKING:
    from simulators.log_writer.command import Job
    from simulators.log_writer.timeline import Happening
    from simulators.log_writer.writer import Topics
    from simulators.world.settings import WorldConfig
    from stream_ctr.events.log import Entry, EventLog

EVENTS_WITHOUT_RATE: Final = 100_000


class Simulate:
    """``stream-ctr simulate``."""

    help = "simulate users, ads and clicks with known click probabilities: to a log, or against a server"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        add_writer_arguments(parser)
        add_server_arguments(parser)
        parser.add_argument(
            "--events",
            type=int,
            metavar="N",
            help=f"impressions (default: unlimited with --rate or --server, else {EVENTS_WITHOUT_RATE:,})",
        )
        parser.add_argument("--seed", type=int, default=1, help="seed of the world")
        parser.add_argument(
            "--start-ms",
            type=int,
            metavar="MS",
            help="event time of the first impression, in ms since the epoch (default: now with --rate)",
        )

    def run(self, arguments: argparse.Namespace) -> int:
        """Write the log or drive the server; returns the exit status."""
        from simulators.log_writer.timeline import timeline
        from simulators.world.world import World

        check_writer_arguments(arguments)
        check_server_arguments(arguments)
        if arguments.events is not None and arguments.events < 1:
            raise UsageError(f"--events {arguments.events}: must be at least 1")
        config = _config(arguments)
        live = arguments.rate is not None and arguments.start_ms is None
        if arguments.server is not None:
            return run_against_server(arguments, config, live=live)
        stop = arguments.events or (None if arguments.rate else EVENTS_WITHOUT_RATE)

        def source(job: Job) -> Iterable[Happening]:
            log, topics, position = job.log, job.topics, job.position
            found, first = config, 0
            if position is not None:
                entries = position.last_entries()
                if live:
                    found = dataclasses.replace(config, start_ms=_start_of(log, topics, config, entries))
                if entries and not position.empty_partitions:
                    first = _first_event(log, found, entries)
                if first:
                    position.count_by_key()
            # The world defines the delay of every click, so the fallback is never used.
            return timeline(World(found).examples(first, stop), lambda event_id: 1)

        return run_writer("simulate", arguments, source, live=live)


def _config(arguments: argparse.Namespace) -> WorldConfig:
    """The world of the arguments. With a rate, event time runs at that rate and starts now by default."""
    from simulators.world.settings import WorldConfig
    from stream_ctr.datasets.base import convert_options, parse_options

    options = convert_options("world", WorldConfig, parse_options(arguments.option))
    options["seed"] = arguments.seed
    if arguments.rate is not None:
        options["events_per_second"] = arguments.rate
        options["start_ms"] = time.time_ns() // 1_000_000
    if arguments.start_ms is not None:
        options["start_ms"] = arguments.start_ms
    return WorldConfig(**options)


def _first_event(log: EventLog, config: WorldConfig, entries: list[Entry]) -> int:
    """An event early enough to generate all records missing in the log and each partition's last record."""
    from simulators.log_writer.writer import MAX_SKEW

    last = min(_number(log, config, entry) for entry in entries)
    return max(0, last - MAX_SKEW - math.ceil(config.longest_delay_seconds * config.events_per_second))


def _start_of(log: EventLog, topics: Topics, config: WorldConfig, entries: list[Entry] | None) -> int:
    """Event time of event 0 of the run that wrote the log, derived from an impression that it wrote."""
    import msgspec

    from stream_ctr.events.records import Impression

    for entry in entries or []:
        if entry.topic == topics.impressions:
            try:
                shown = msgspec.json.decode(entry.value or b"", type=Impression)
            except msgspec.DecodeError as error:
                raise LogError(f"{log.url}: cannot resume: topic {entry.topic!r} ends with {error}") from None
            return shown.ts_ms - config.elapsed_ms(_number(log, config, entry))
    raise LogError(f"{log.url}: cannot resume: no impression to derive the start time from; give --start-ms")


def _number(log: EventLog, config: WorldConfig, entry: Entry) -> int:
    prefix = config.event_prefix.encode()
    digits = (entry.key or b"").removeprefix(prefix)
    if not (entry.key or b"").startswith(prefix) or not digits.isdigit():
        shown = (entry.key or b"").decode(errors="replace")
        raise LogError(
            f"{log.url}: cannot resume: topic {entry.topic!r} partition {entry.partition} ends with "
            f"{shown!r}, not an event of the world with seed {config.seed}; resume with the seed of the "
            "first run, or write to other topics"
        )
    return int(digits)
