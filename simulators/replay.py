"""``stream-ctr replay``: write a dataset to a log as impressions and clicks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from simulators.log_writer.command import add_writer_arguments, check_writer_arguments, run_writer
from stream_ctr.datasets.bad_row_option import add_bad_row_argument, apply_bad_row_argument
from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from simulators.log_writer.command import Job
    from simulators.log_writer.timeline import Happening
    from stream_ctr.datasets.base import Example


class Replay:
    """``stream-ctr replay``."""

    help = "write a dataset to a log as impressions and clicks, in order and at a chosen rate"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("dataset", help="criteo, avazu, taobao, open-bandit, delimited, jsonl, world")
        parser.add_argument("path", nargs="?", help="file or folder of the data; none for world")
        add_writer_arguments(parser)
        add_bad_row_argument(parser)
        parser.add_argument(
            "--sort",
            action="store_true",
            help="write in time order instead of file order (external merge sort: bounded memory, temporary "
            "files about as large as the data); event ids do not change",
        )
        parser.add_argument(
            "--work",
            type=Path,
            metavar="FOLDER",
            help="folder for the temporary files of --sort (default: the system's)",
        )
        parser.add_argument("--limit", type=int, metavar="N", help="stop after N impressions")
        parser.add_argument(
            "--click-delay",
            default="1",
            metavar="SECONDS",
            help="delay from impression to click if the data has none: SECONDS or exponential:SECONDS "
            "(default: 1)",
        )
        parser.add_argument(
            "--start-ms",
            type=int,
            metavar="MS",
            help="shift all times so that the first impression has this one, in ms since the epoch "
            "(Kafka deletes records older than a topic's retention time)",
        )

    def run(self, arguments: argparse.Namespace) -> int:
        """Write the log; returns the exit status."""
        from simulators.log_writer.sorting import TimeSort
        from simulators.log_writer.timeline import parse_delay, shifted, timeline
        from stream_ctr.datasets.base import WITHOUT_PATH, open_dataset, parse_options

        check_writer_arguments(arguments)
        apply_bad_row_argument(arguments)
        if arguments.work is not None and not arguments.sort:
            raise UsageError("--work requires --sort")
        if arguments.limit is not None and not 1 <= arguments.limit <= sys.maxsize:
            raise UsageError(f"--limit {arguments.limit}: must be from 1 to {sys.maxsize}")
        if arguments.start_ms is not None and arguments.start_ms < 0:
            raise UsageError(f"--start-ms {arguments.start_ms}: must not be negative")
        delay = parse_delay(arguments.click_delay)
        dataset = open_dataset(arguments.dataset, arguments.path, parse_options(arguments.option))
        if arguments.path is None and arguments.dataset not in WITHOUT_PATH:
            raise UsageError(f"{arguments.dataset} needs the path of its data")

        def source(job: Job) -> Iterable[Happening]:
            examples: Iterable[Example]
            made = arguments.dataset in WITHOUT_PATH
            # In an unsorted file, the first impressions by time are not the first rows.
            limit = arguments.limit if made or not arguments.sort else None
            examples = dataset.read(arguments.path or "", limit)
            if arguments.sort:
                sort = TimeSort(
                    arguments.work, stop=job.stop, progress=lambda rows: job.reporter.progress(sorting=rows)
                )
                examples = islice(sort.sort(examples), arguments.limit)
            if arguments.start_ms is not None:
                examples = shifted(examples, arguments.start_ms)
            return timeline(examples, delay)

        return run_writer("replay", arguments, source, dataset=dataset)
