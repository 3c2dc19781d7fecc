"""``stream-ctr dead-letters list|replay``: the records that could not be used."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_ctr.events.dead_letter_replay import ReplayReport, Selection
    from stream_ctr.events.dead_letters import DeadLetter
    from stream_ctr.events.log import EventLog

SHOWN_BYTES = 200
"""Bytes of a value in a line of text; --json prints all."""

LISTED = 100
"""Default of ``--limit``."""


class _DeadLetterCommand:
    """A command on the dead letters that match some options."""

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--config", metavar="FILE", help="configuration file; without it, defaults and environment"
        )
        parser.add_argument(
            "--reason", default="", metavar="TEXT", help="only those whose reason contains it"
        )
        parser.add_argument("--topic", default="", metavar="TOPIC", help="only those from this topic")
        parser.add_argument("--partition", type=int, metavar="N", help="only those from this partition")
        parser.add_argument("--offsets", metavar="A:B", help="only those from offsets A to B, both included")
        parser.add_argument("--json", action="store_true", help="machine-readable; bytes as base64")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.errors import UsageError
        from stream_ctr.events.dead_letter_replay import Selection, offset_range
        from stream_ctr.events.open import open_log

        if arguments.limit < 0:
            raise UsageError(f"--limit must be 0 (no limit) or more, got {arguments.limit}")
        offsets = None if arguments.offsets is None else offset_range(arguments.offsets)
        selection = Selection(arguments.reason, arguments.topic, arguments.partition, offsets)
        settings = load_settings(arguments.config)
        log = open_log(settings.log.url, security=settings.log.security)
        try:
            return self.act(log, settings.log.dead_letters, selection, arguments)
        finally:
            log.close()

    def act(self, log: EventLog, topic: str, selection: Selection, arguments: argparse.Namespace) -> int:
        """Do it with an open log; returns the exit status."""
        raise NotImplementedError


class ListCommand(_DeadLetterCommand):
    """``stream-ctr dead-letters list``."""

    help = "list dead letters with their reason and the beginning of their bytes"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--limit", type=int, default=LISTED, metavar="N", help=f"most to list ({LISTED}); 0: no limit"
        )

    def act(self, log: EventLog, topic: str, selection: Selection, arguments: argparse.Namespace) -> int:
        import msgspec

        from stream_ctr.events.dead_letter_replay import replay_notes
        from stream_ctr.events.dead_letters import list_dead_letters

        limit = arguments.limit
        notes = replay_notes(log, topic)
        listed = 0
        for letter in filter(selection.takes, list_dead_letters(log, topic)):
            if limit and listed == limit:
                more = f"... and more: these are the first {listed}; --limit 0 lists all"
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


class ReplayCommand(_DeadLetterCommand):
    """``stream-ctr dead-letters replay``."""

    help = "append the original bytes of dead letters to the topic they came from"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--limit", type=int, default=0, metavar="N", help="most to replay (0: no limit)")
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would be replayed; change nothing"
        )

    def act(self, log: EventLog, topic: str, selection: Selection, arguments: argparse.Namespace) -> int:
        from stream_ctr.events.dead_letter_replay import replay_dead_letters
        from stream_ctr.reporting.progress import Reporter

        dry_run = arguments.dry_run
        with Reporter("dead-letters") as reporter:

            def progress(letter: DeadLetter, report: ReplayReport) -> None:
                if dry_run and not arguments.json:
                    print(f"would replay {_line(letter)}")
                reporter.progress(**report.as_dict())

            report = replay_dead_letters(
                log, topic, selection, limit=arguments.limit, dry_run=dry_run, progress=progress
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
            parts.append(f"{report.stray:,} left out: not written as dead letters")
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
