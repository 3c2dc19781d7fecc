"""A process whose parent has ended gets SIGTERM and, if it ignores that, SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import signal, sys, time
from stream_ctr.daemon.process import end_with_parent
signal.signal(signal.SIGTERM, {on_sigterm})
end_with_parent({kill_seconds})
print("begun", flush=True)
while True:
    time.sleep(600.0)
"""


def status(on_sigterm: str, kill_seconds: float | None) -> int:
    """Exit status of a process whose standard input gets some bytes and then ends."""
    program = PROGRAM.format(on_sigterm=on_sigterm, kill_seconds=kill_seconds)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"some bytes")
        process.stdin.flush()
        try:
            assert process.stdout.readline() == b"begun\n"
            assert process.poll() is None
            process.stdin.close()
            return process.wait(60.0)
        finally:
            process.kill()


def test_the_end_of_the_input_sends_sigterm() -> None:
    assert status("signal.SIG_DFL", None) == -signal.SIGTERM
    assert status("lambda *_: sys.exit(7)", 600.0) == 7


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    assert status("signal.SIG_IGN", 0.01) == -signal.SIGKILL
