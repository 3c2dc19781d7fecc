"""Reads and fills logs for the tests of the writers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from simulators.replay import Replay
from simulators.simulate import Simulate
from stream_ctr.events.log import Entry, Record, TopicPartition
from stream_ctr.events.open import open_log

COMMANDS: dict[str, type[Replay] | type[Simulate]] = {"replay": Replay, "simulate": Simulate}
SMALL = ("--option", "users=500", "--option", "ads=100", "--option", "sites=40")
"""A world that is made quickly."""


def url_of(path: Path) -> str:
    """The address of a log file."""
    return f"sqlite:///{path}"


def run(command: str, *arguments: str) -> int:
    """Run a command as the command line would."""
    found = COMMANDS[command]()
    parser = argparse.ArgumentParser()
    found.add_arguments(parser)
    return found.run(parser.parse_args(arguments))


def contents(
    url: str, topics: Sequence[str] = ("impressions", "clicks")
) -> dict[TopicPartition, list[Entry]]:
    """Every entry of the topics, by partition."""
    log = open_log(url)
    try:
        found: dict[TopicPartition, list[Entry]] = {}
        for topic in topics:
            ends = log.end_offsets(topic)
            for partition, start in log.start_offsets(topic).items():
                place = TopicPartition(topic, partition)
                entries = found.setdefault(place, [])
                reader = log.reader({place: start})
                while len(entries) < ends[partition] - start:
                    entries += reader.poll(10_000, 1.0)
                reader.close()
        return found
    finally:
        log.close()


def copy_prefix(source: str, target: str, counts: dict[TopicPartition, int], partitions: int) -> None:
    """A log that holds the first entries of another, as one does whose writer was killed."""
    entries = contents(source)
    log = open_log(target, create=True)
    try:
        for topic in ("impressions", "clicks"):
            log.create_topic(topic, partitions)
        for place, found in entries.items():
            kept = found[: counts[place]]
            records = [Record(e.key, e.value, e.timestamp_ms, e.partition) for e in kept]
            if records:
                log.append(place.topic, records)
    finally:
        log.close()
