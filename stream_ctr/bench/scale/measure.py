"""What an event costs as the vocabulary grows, and what it holds in memory.

Each size is a process of its own; all of them live at once and take turns, so that a busy machine slows
all alike and a ratio is that of moments side by side. Checkpoints are written at the end, the smallest
size first, and each process ends with its own.
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
"""Of the memory allowed: imports, compiled code and buffers, whatever the vocabulary."""
ROW_BYTES: Final = 48
"""A row's key, counts, step and time of its last touch."""
NUMBERS: Final = 2 * ModelConfig().embedding
"""float32 numbers of a row: its weights, and one accumulator each."""
END_SECONDS: Final = 30.0
"""A process that has nothing left to do ends long before."""

Note = Callable[[str], object]


@dataclass
class Size:
    """One size of vocabulary and its figures."""

    rows: int
    filled: dict[str, Any]
    """Seconds and bytes of getting there."""
    seconds: dict[str, list[list[float]]] = field(default_factory=lambda: {draw: [] for draw in DRAWS})
    """By the way of drawing, of each chunk: seconds an event of [encode, learn]."""
    checkpoint: dict[str, Any] = field(default_factory=dict)

    def cost(self, draw: str) -> NDArray[np.float64]:
        """Seconds an event of each chunk, encoded and learned."""
        return np.array([sum(parts) for parts in self.seconds[draw]])

    @property
    def allowed_bytes(self) -> int:
        """Memory that the product allows itself."""
        return (4 * NUMBERS + ROW_BYTES) * self.rows + FREE_BYTES


class Child:
    """The process of one size, told a line and answering with one."""

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
            StreamCTRError: the process has ended, as for want of memory.
        """
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return self.answer()

    def answer(self) -> Any:
        """The next line that the process says; raises as :meth:`ask`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def close(self) -> None:
        """Let the process end, or end it."""
        try:
            self._process.communicate(timeout=END_SECONDS)
        except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
            self._process.kill()
            self._process.wait()

    def _ended(self) -> StreamCTRError:
        _, errors = self._process.communicate(timeout=END_SECONDS)
        said = errors.strip().splitlines()[-1:] or [f"exit status {self._process.returncode}"]
        return StreamCTRError(
            f"the process with {self._rows:,} rows ended ({said[0]}); there may be too little memory: "
            "choose smaller --rows"
        )


def measure(
    sizes: Sequence[int],
    rounds: int,
    optimizer: str,
    note: Note = lambda text: None,
    folder: Path | None = None,
) -> list[Size]:
    """Fill vocabularies of the sizes, smallest first, and measure them in turns.

    ``folder`` is where checkpoints are written, and removed again; without it, the system's own place.

    Raises:
        StreamCTRError: a process ended before it was done.
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
