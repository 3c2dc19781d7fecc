"""Ports for servers that are told theirs before they start."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 12_000, 20_000
"""Below the range that systems hand out to whoever asks for any port, and to outgoing connections: of those,
one may be taken between the moment it is found free and that in which it is used.
"""

_numbers = itertools.count(os.getpid() * 61)


def free_port() -> int:
    """A port of loopback where nothing listens; a process is given none twice."""
    for _ in range(LAST - FIRST):
        port = FIRST + next(_numbers) % (LAST - FIRST)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port on 127.0.0.1 from {FIRST} to {LAST}")
