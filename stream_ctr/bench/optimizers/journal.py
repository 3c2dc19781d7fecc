"""Journal of a study of optimizers, from which an interrupted study resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import UsageError


class Journal:
    """Finished trials and runs, in memory and, with a folder, on disk.

    The folder holds ``study.json`` (the inputs of the study), ``trials.jsonl`` (one line per trial) and a
    .npy file with the probabilities of each finished run.
    """

    def __init__(self, folder: Path | None, study: dict[str, Any]) -> None:
        """``study`` holds all inputs of the results except the method: data and plan.

        Method keys include a digest of the method's whole declaration.

        Raises:
            UsageError: the folder belongs to another study, or a line in it cannot be read.
        """
        self._folder = folder
        self._trials: dict[tuple[str, int], float] = {}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        head, text = folder / "study.json", json.dumps(study, indent=1, sort_keys=True)
        if not head.exists():
            head.write_text(text, encoding="utf-8")
        elif head.read_text(encoding="utf-8") != text:
            raise UsageError(
                f"{folder} belongs to another study (see its study.json); "
                "repeat the command that started it, or choose an empty folder"
            )
        self._load(folder / "trials.jsonl")

    def _load(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                self._trials[entry["method"], entry["trial"]] = float(entry["log_loss"])
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise UsageError(f"{path}, line {number}: not a valid trial; delete the folder") from None
                # An interruption leaves a torn last line; that trial is repeated.
                path.write_text("".join(f"{kept}\n" for kept in lines[:-1]), encoding="utf-8")

    def trial(self, method: str, trial: int) -> float | None:
        """The log loss of a finished trial; None if it is not finished."""
        return self._trials.get((method, trial))

    def add_trial(self, method: str, trial: int, setting: dict[str, Any], log_loss: float) -> None:
        """Record a finished trial."""
        self._trials[method, trial] = log_loss
        if self._folder is not None:
            entry = {"method": method, "trial": trial, "setting": setting, "log_loss": log_loss}
            with (self._folder / "trials.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def final(self, method: str, seed: int) -> tuple[NDArray[np.float32], float] | None:
        """Probabilities and seconds of a finished run; None if it is not finished."""
        if self._folder is None or not (path := self._path(method, seed)).exists():
            return None
        numbers = np.load(path, allow_pickle=False)
        return numbers[1:].astype(np.float32), float(numbers[0])

    def add_final(self, method: str, seed: int, probability: NDArray[np.float32], seconds: float) -> None:
        """Record a finished run; its file is written atomically."""
        if self._folder is not None:
            path = self._path(method, seed)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, np.concatenate([[seconds], probability.astype(np.float64)]))
            partial.replace(path)

    def _path(self, method: str, seed: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{method}-{seed}.npy"
