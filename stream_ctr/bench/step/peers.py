"""Online learners of other projects behind the same ``learn(batch)``, each in its fastest form from Python.

A peer that is not installed or does not work on this machine raises; the benchmark reports that in its table.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.learners.base import LearnResult

VW_BITS: Final = 22
VW_COMMON: Final = f"--loss_function logistic --link logistic -b {VW_BITS} --quiet"
VOWPAL_WABBIT: Final = {
    "ftrl": f"--ftrl --ftrl_alpha 0.1 --ftrl_beta 1 {VW_COMMON}",
    "nn 20": f"--nn 20 {VW_COMMON}",
}
"""Options by name in the table; FTRL's alpha and beta are equal to those of the river peer."""

DEEP_RIVER_ROWS: Final = 2**18
"""deep-river's module has a fixed size: rows beyond it are shared by modulo."""


class Peer(Protocol):
    """Predicts and then learns the labelled events of a batch, in order."""

    def learn(self, batch: Batch) -> LearnResult:
        """Probabilities made before each event's own update."""
        ...


class VowpalWabbit:
    """Vowpal Wabbit through its Python package; each value is a feature named by its row number."""

    def __init__(self, kind: str) -> None:
        """``kind`` is a name of :data:`VOWPAL_WABBIT`."""
        import vowpalwabbit

        self._workspace = vowpalwabbit.Workspace(VOWPAL_WABBIT[kind])

    def learn(self, batch: Batch) -> LearnResult:
        """See :class:`Peer`. Its ``learn`` predicts before it updates, so one call gives both."""
        result = _empty(len(batch))
        workspace = self._workspace
        labels = (batch.label > 0.5).tolist()
        for b, rows in enumerate(batch.rows.tolist()):
            began = time.perf_counter()
            example = workspace.parse(f"{'1' if labels[b] else '-1'} | {' '.join(map(str, rows))}")
            workspace.learn(example)
            result.probability[b] = example.get_simplelabel_prediction()
            workspace.finish_example(example)
            result.seconds[b] = time.perf_counter() - began
        return result


class DeepRiver:
    """deep-river's classifier over embeddings and the flagship's tower, without skip logits; sparse SGD."""

    def __init__(self, fields: int) -> None:
        import torch
        from deep_river.classification import Classifier

        class Tower(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rows = torch.nn.Embedding(DEEP_RIVER_ROWS, 16, sparse=True)
                torch.nn.init.normal_(self.rows.weight, std=0.003)
                self.tower = torch.nn.Sequential(
                    torch.nn.Linear(16 * fields, 128),
                    torch.nn.ReLU(),
                    torch.nn.Linear(128, 64),
                    torch.nn.ReLU(),
                    torch.nn.Linear(64, 2),
                )

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.tower(self.rows(x.long()).flatten(1))
                return logits

        torch.manual_seed(1)
        self._names = [f"field_{j}" for j in range(fields)]
        self._classifier = Classifier(
            module=Tower(), loss_fn="cross_entropy", optimizer_fn="sgd", lr=0.05, seed=1
        )
        # The classifier numbers classes in order of appearance, so declare both before the first event.
        self._classifier.observed_classes.update([False, True])

    def learn(self, batch: Batch) -> LearnResult:
        """See :class:`Peer`."""
        result = _empty(len(batch))
        rows: NDArray[np.int64] = batch.rows % DEEP_RIVER_ROWS
        labels = (batch.label > 0.5).tolist()
        for b, row in enumerate(rows.tolist()):
            began = time.perf_counter()
            x = dict(zip(self._names, row, strict=True))
            result.probability[b] = self._classifier.predict_proba_one(x)[True]
            self._classifier.learn_one(x, labels[b])
            result.seconds[b] = time.perf_counter() - began
        return result


def _empty(count: int) -> LearnResult:
    return LearnResult(np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count))
