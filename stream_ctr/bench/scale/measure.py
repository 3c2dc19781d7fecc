"""Cost of an event and memory as the vocabulary grows.

Each size runs in its own process. All processes run at the same time and take turns, so a busy machine slows
all of them equally and ratios compare adjacent measurements. Checkpoints are written at the end, the smallest
size first; each process ends after its checkpoint.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.bench.scale.child import DRAWS
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import StreamCTRError

FREE_BYTES: Final = 600_000_000
"""Memory budget for imports, compiled code and buffers, independent of the vocabulary."""
ROW_BYTES: Final = 48
"""Memory budget per row for key, counts, step and last access time."""
NUMBERS: Final = 2 * ModelConfig().embedding
"""float32 numbers per row: the weights and one accumulator each."""
END_SECONDS: Final = 30.0
"""Generous timeout for the end of an idle process."""

Note = Callable[[str], object]


@dataclass
class Size:
    """One vocabulary size and its measurements."""

    rows: int
    filled: dict[str, Any]
    """Seconds and bytes of filling the vocabulary."""
    seconds: dict[str, list[list[float]]] = field(default_factory=lambda: {draw: [] for draw in DRAWS})
    """Seconds per event for [encode, learn] of each chunk, by distribution."""
    checkpoint: dict[str, Any] = field(default_factory=dict)

    def cost(self, draw: str) -> NDArray[np.float64]:
        """Seconds per event to encode and learn, for each chunk."""
        return np.array([sum(parts) for parts in self.seconds[draw]])

    @property
    def allowed_bytes(self) -> int:
        """Memory budget of the product for this size."""
        return (4 * NUMBERS + ROW_BYTES) * self.rows + FREE_BYTES


class Child:
    """The process of one size; answers each line with a line."""

    def __init__(self, rows: int, optimizer: str) -> None:
        command = [sys.executable, "-m", "stream_ctr.bench.scale.child", str(rows), optimizer]
        self._rows = rows
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, line: str) -> Any:
        """The answer to a line.

        Raises:
            StreamCTRError: the process has ended, for example because it ran out of memory.
        """
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return self.answer()

    def answer(self) -> Any:
        """The next line from the process; raises as :meth:`ask`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def close(self) -> None:
        """Wait for the process to end; kill it after a timeout."""
        try:
            self._process.communicate(timeout=END_SECONDS)
        except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
            self._process.kill()
            self._process.wait()

    def _ended(self) -> StreamCTRError:
        _, errors = self._process.communicate(timeout=END_SECONDS)
        said = errors.strip().splitlines()[-1:] or [f"exit status {self._process.returncode}"]
        return StreamCTRError(
            f"the process with {self._rows:,} rows ended early ({said[0]}), possibly for lack of memory; "
            "choose smaller --rows"
        )


def measure(
    sizes: Sequence[int],
    rounds: int,
    optimizer: str,
    note: Note = lambda text: None,
    folder: Path | None = None,
) -> list[Size]:
    """Fill vocabularies of all sizes, smallest first, and measure them in turns.

    ``folder``: parent of the temporary checkpoint folders; by default the system's temporary folder.

    Raises:
        StreamCTRError: a process ended early.
    """
    measured = []
    with ExitStack() as stack:
        children = []
        for rows in sorted(sizes):
            note(f"filling {rows:,} rows")
            child = stack.enter_context(Child(rows, optimizer))
            filled = child.answer()
            measured.append(Size(filled["rows"], filled))
            children.append(child)
        for number in range(rounds):
            note(f"round {number + 1} of {rounds}")
            for size, child in zip(measured, children, strict=True):
                for draw, chunks in child.ask("measure").items():
                    size.seconds[draw].extend(chunks)
        for size, child in zip(measured, children, strict=True):
            note(f"checkpoint of {size.rows:,} rows")
            with tempfile.TemporaryDirectory(prefix="stream-ctr-bench-", dir=folder) as place:
                size.checkpoint = child.ask(f"checkpoint {Path(place) / 'checkpoints'}")
            child.close()
    return measured
