"""One of several server processes: ``python -m stream_ctr.serving.worker LISTENER ADMIN READY``.

The arguments are the numbers of inherited file descriptors: two listening sockets, and a pipe to the
parent. The worker writes one byte to the pipe when it is ready, and then one per heartbeat. It reads its job
as a line of JSON from standard input, which the parent keeps open: when it closes, the worker ends.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress

import msgspec

from stream_ctr.daemon.process import INPUT, end_with_parent
from stream_ctr.errors import StreamCTRError
from stream_ctr.serving.job import Job
from stream_ctr.serving.server import run_process


def main(listener: str, admin: str, ready: str) -> int:
    """Serve until SIGTERM or until the parent has ended; returns the exit status."""
    job = msgspec.json.decode(_read_line(), type=Job)
    end_with_parent()

    pipe, answers = int(ready), threading.Event()
    os.set_blocking(pipe, False)

    def sign() -> None:
        with suppress(BlockingIOError, BrokenPipeError):  # the parent does not read, or has ended
            os.write(pipe, b"1")

    def listening() -> None:
        answers.set()
        sign()

    def beat() -> None:
        if answers.is_set():
            sign()

    try:
        return run_process(
            job, socket.socket(fileno=int(listener)), socket.socket(fileno=int(admin)), listening, beat
        )
    except StreamCTRError as error:
        print(f"stream-ctr serve: {error}", file=sys.stderr, flush=True)
        return error.exit_status


def _read_line() -> bytes:
    """The first line of standard input, without reading beyond it."""
    parts = []
    while (part := os.read(INPUT, 65_536)) and not part.endswith(b"\n"):
        parts.append(part)
    return b"".join((*parts, part))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
