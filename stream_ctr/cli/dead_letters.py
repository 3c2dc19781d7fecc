"""``stream-ctr dead-letters``: the records that could not be used, and their way back."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_ctr.config.settings import Settings
    from stream_ctr.events.dead_letter_replay import ReplayReport, Selection
    from stream_ctr.events.dead_letters import DeadLetter
    from stream_ctr.events.log import EventLog

SHOWN_BYTES = 200
"""Bytes of a value that a line of text shows; --json shows all."""

LISTED = 100
"""Letters that are listed unless told otherwise."""


class DeadLetterCommand:
    """``stream-ctr dead-letters``."""

    help = "list the records that could not be used, or replay them: back to the topic they came from"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "action", choices=["list", "replay"], help="show them; append their original bytes again"
        )
        parser.add_argument("--config", help="configuration file; without it, defaults and environment")
        parser.add_argument(
            "--reason", default="", metavar="TEXT", help="only those whose reason contains it"
        )
        parser.add_argument("--topic", default="", help="only those from this topic")
        parser.add_argument("--partition", type=int, metavar="N", help="only those from this partition")
        parser.add_argument("--offsets", metavar="A:B", help="only those from these offsets, both included")
        parser.add_argument(
            "--limit", type=int, help=f"most to list ({LISTED}) or to replay (all); 0 is no limit"
        )
        parser.add_argument("--dry-run", action="store_true", help="replay: only say what would be replayed")
        parser.add_argument("--json", action="store_true", help="machine-readable; bytes as base64")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.errors import UsageError
        from stream_ctr.events.dead_letter_replay import Selection, offset_range
        from stream_ctr.events.open import open_log

        if arguments.limit is not None and arguments.limit < 0:
            raise UsageError(f"--limit {arguments.limit} is negative; 0 is no limit")
        if arguments.dry_run and arguments.action == "list":
            raise UsageError("--dry-run goes with replay; list never changes anything")
        offsets = None if arguments.offsets is None else offset_range(arguments.offsets)
        selection = Selection(arguments.reason, arguments.topic, arguments.partition, offsets)
        settings = load_settings(arguments.config)
        log = open_log(settings.log.url, security=settings.log.security)
        act = _list if arguments.action == "list" else _replay
        try:
            return act(log, settings, selection, arguments)
        finally:
            log.close()


def _list(log: EventLog, settings: Settings, selection: Selection, arguments: argparse.Namespace) -> int:
    import msgspec

    from stream_ctr.events.dead_letter_replay import replay_notes
    from stream_ctr.events.dead_letters import list_dead_letters

    topic, limit = settings.log.dead_letters, LISTED if arguments.limit is None else arguments.limit
    notes = replay_notes(log, topic)
    listed = 0
    for letter in filter(selection.takes, list_dead_letters(log, topic)):
        if limit and listed == limit:
            more = f"... and more; --limit 0 lists all (this is {listed})"
            print(more, file=sys.stderr if arguments.json else sys.stdout)
            break
        listed += 1
        note = notes.get(letter.place)
        replayed = note is not None and note.state == "done"
        if arguments.json:
            print(json.dumps({**msgspec.to_builtins(letter), "replayed": replayed}))
        else:
            print(_line(letter) + ("  (replayed)" if replayed else ""))
    if not listed and not arguments.json:
        print(_none(topic, selection))
    return 0


def _replay(log: EventLog, settings: Settings, selection: Selection, arguments: argparse.Namespace) -> int:
    from stream_ctr.events.dead_letter_replay import replay_dead_letters
    from stream_ctr.reporting.progress import Reporter

    topic, dry_run = settings.log.dead_letters, arguments.dry_run
    with Reporter("dead-letters") as reporter:

        def progress(letter: DeadLetter, report: ReplayReport) -> None:
            if dry_run and not arguments.json:
                print(f"would replay {_line(letter)}")
            reporter.progress(**report.as_dict())

        report = replay_dead_letters(
            log, topic, selection, limit=arguments.limit or 0, dry_run=dry_run, progress=progress
        )
    if arguments.json:
        print(json.dumps({**report.as_dict(), "dry_run": dry_run, "topic": topic}))
        return 0
    if not any(report.as_dict().values()):
        print(_none(topic, selection))
        return 0
    parts = [f"{report.replayed:,} {'would be replayed' if dry_run else 'replayed'}"]
    if report.replayed_before:
        parts.append(f"{report.replayed_before:,} left out: replayed before")
    if report.cut_short:
        parts.append(f"{report.cut_short:,} left out: too large, only the beginning is kept")
    if report.stray:
        parts.append(f"{report.stray:,} left out: no dead letters themselves")
    print("; ".join(parts))
    return 0


def _line(letter: DeadLetter) -> str:
    value = letter.value
    shown = repr(value)
    if value is not None and len(value) > SHOWN_BYTES:
        shown = f"{value[:SHOWN_BYTES]!r} ... ({len(value):,} bytes)"
    return f"{letter.topic}[{letter.partition}]@{letter.offset}  {letter.reason}  {shown}"


def _none(topic: str, selection: Selection) -> str:
    from stream_ctr.events.dead_letter_replay import Selection

    return f"no dead letters in {topic}" + ("" if selection == Selection() else " match")
