"""Free ports for servers whose port must be known before they start."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 12_000, 20_000
"""Below the range of ephemeral ports, because another process may get one of those between the check and the
start of the server."""

_numbers = itertools.count(os.getpid() * 61)


def free_port() -> int:
    """A free port on loopback; never the same one twice in a process."""
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
