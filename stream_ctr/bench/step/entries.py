"""Entries of ``stream-ctr bench step``: the package's learners, their memory floors, and peers.

With a GPU, both CUDA learners run as well, with eager torch for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.bench.step.data import FIELDS
from stream_ctr.bench.step.floor import Floor
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.base import Learner, LearnResult
from stream_ctr.learners.build import build_learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.cuda.support import has_triton, why_not_fused
from stream_ctr.learners.torch.learner import TorchLearner

FLAGSHIP: Final = ModelConfig(embedding=16, hidden=(128, 64), sml=True, scale="unit")
HELEN: Final = OptimizerConfig(method="helen", perturb="both", rho=0.001, rho_dense=0.001)
"""The published method over the default base rules."""
HELEN_ADAM: Final = replace(
    HELEN,
    row_rule="adagrad",
    row_rate=0.02,
    row_initial=0.0,
    dense_rule="adam",
    dense_rate=1e-4,
    dense_initial=0.0,
)
"""Helen with Adam for the dense weights, as in the paper: a third more state to move."""
DEFAULT: Final = OptimizerConfig(method="revisit")
"""The default optimizer of a stream."""
EAGER: Final = ("torch eager", "torch.compile")
"""``ratio_to_eager`` compares with the faster of the two."""
COMPILED: Final = "compiled"
FLOOR: Final = "memory floor"

GPU_LEARNERS = {
    "cuda graph": LearnerConfig(kind="cuda", device="cuda"),
    "cuda fused": LearnerConfig(kind="cuda-fused", device="cuda"),
    "torch eager": LearnerConfig(kind="torch", device="cuda"),
}
"""Learners on the GPU; the first two are compared with eager torch on the same device."""


class Runs(Protocol):
    """A learner, which returns probabilities, or a memory floor, which returns None."""

    def learn(self, batch: Batch) -> LearnResult | None: ...


@dataclass
class Entry:
    """One learner or memory floor, and its timings by chunk."""

    learner: str
    model: str
    optimizer: str
    limit: int
    """Maximum number of events to learn."""
    make: Callable[[], Runs]
    rules: str = ""
    """Base rules of rows and dense weights, and the number of passes."""
    foreign: bool = False
    """Whether this is a peer; a peer's failure is reported in the table instead of raised."""
    untimed: int = 0
    """First events excluded from timing, in addition to the common warm-up."""
    running: Runs | None = None
    missing: str = ""
    """Reason why it did not run."""
    seconds: list[float] = field(default_factory=list)
    """Time per event of each timed chunk."""
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)
    log_loss: float | None = None
    """Log loss over the events that all learners learned."""
    log_loss_all: float | None = None
    """Log loss over all events, if it learned them all."""

    @property
    def name(self) -> str:
        """``flagship``, or the unique combination of learner, model and optimizer."""
        if (self.learner, self.model, self.optimizer) == (COMPILED, model_name(FLAGSHIP), "helen"):
            return "flagship"
        return " ".join((self.learner, self.model, self.optimizer))

    def median(self) -> float | None:
        """Median seconds per event."""
        return float(np.median(self.seconds)) if self.seconds else None


def model_name(model: ModelConfig) -> str:
    """Hidden layer widths and kind of skip logits.

    >>> model_name(FLAGSHIP)
    '128-64 SML'
    """
    return "-".join(map(str, model.hidden)) + " SML"


def all_entries(
    models: list[ModelConfig],
    rows: int,
    events: int,
    eager_events: int,
    peers: bool,
) -> list[Entry]:
    """The entries of one run; ``rows`` is the size of the events' embedding table.

    Slow learners learn the first ``eager_events`` events. ``peers`` adds torch.compile, river's slower
    models, Vowpal Wabbit and deep-river. With a GPU, its learners are added.
    """
    entries = [entry for model in models for entry in _ours(model, rows, events, eager_events, peers)]
    entries.append(_river("river-ftrl", "logistic regression", "ftrl", events))
    if peers:
        entries.append(_river("river-lr", "logistic regression", "sgd", events))
        entries.append(_river("river-fm", "factorisation machine, 8 factors", "sgd", eager_events))
        entries.extend(_outside(events, eager_events))
    return entries


def _ours(model: ModelConfig, rows: int, events: int, eager_events: int, peers: bool) -> list[Entry]:
    entries = []
    for name, helen in (("helen", HELEN), ("helen-adam", HELEN_ADAM)):
        base = replace(helen, method="base")
        for optimizer, config, passes in ((name, helen, 2), (name.replace("helen", "base"), base, 1)):
            entry = partial(
                Entry,
                model=model_name(model),
                optimizer=optimizer,
                rules=f"{config.row_rule}/{config.dense_rule}, {passes} pass{'es' if passes > 1 else ''}",
            )
            compiled = partial(network, CompiledLearner, model, config)
            entries.append(entry(COMPILED, limit=events, make=compiled))
            entries.append(entry(FLOOR, limit=events, make=partial(Floor, model, config, rows, passes)))
            if passes == 1:
                continue
            eager = partial(network, TorchLearner, model, config)
            entries.append(entry(EAGER[0], limit=eager_events, make=eager))
            for learner, make in gpu_learners(model, config):
                entries.append(Entry(learner, model_name(model), f"{name}, GPU", eager_events, make))
            if peers:
                graph = partial(_compiled_torch, model, config)
                entries.append(entry(EAGER[1], limit=eager_events, make=graph, foreign=True))
    return entries + _default(model, rows, events)


def _default(model: ModelConfig, rows: int, events: int) -> list[Entry]:
    """The default optimizer, timed from the first second turn on: two updates and two passes per event."""
    of_default = partial(
        Entry,
        model=model_name(model),
        optimizer="revisit",
        limit=events,
        rules=f"{DEFAULT.row_rule}/{DEFAULT.dense_rule}, a second turn",
        untimed=DEFAULT.revisit_after,
    )
    return [
        of_default(COMPILED, make=partial(network, CompiledLearner, model, DEFAULT)),
        of_default(FLOOR, make=partial(Floor, model, DEFAULT, rows, 2, updates=2)),
    ]


def network(
    kind: type[CompiledLearner] | type[TorchLearner],
    model: ModelConfig,
    optimizer: OptimizerConfig,
) -> Learner:
    """One of the package's learners on one CPU thread."""
    return kind(model, optimizer, LearnerConfig(device="cpu"), list(range(FIELDS)), FIELDS)


def _compiled_torch(model: ModelConfig, optimizer: OptimizerConfig) -> Runs:
    from stream_ctr.bench.step.peers_torch import CompiledTorch

    return CompiledTorch(model, optimizer, FIELDS)


def _river(name: str, model: str, optimizer: str, limit: int) -> Entry:
    return Entry("river", model, optimizer, limit, partial(_river_learner, name), foreign=True)


def _river_learner(name: str) -> Runs:
    from stream_ctr.learners.river.registry import river_learner  # importing river takes a second

    return river_learner(name)


def _outside(events: int, eager_events: int) -> list[Entry]:
    from stream_ctr.bench.step.peers import VOWPAL_WABBIT, DeepRiver, VowpalWabbit

    models = {"ftrl": "logistic regression", "nn 20": "20 hidden units"}
    entries = [
        Entry("Vowpal Wabbit", models[kind], kind, events, partial(VowpalWabbit, kind), foreign=True)
        for kind in VOWPAL_WABBIT
    ]
    entries.append(
        Entry("deep-river", "128-64", "sgd", eager_events, partial(DeepRiver, FIELDS), foreign=True)
    )
    return entries


def gpu_learners(model: ModelConfig, optimizer: OptimizerConfig) -> list[tuple[str, Callable[[], Learner]]]:
    """Names and factories of the GPU learners; empty if torch finds no GPU."""
    if not torch.cuda.is_available():
        return []
    fused = has_triton() and why_not_fused(model, optimizer) is None
    chosen = {name: config for name, config in GPU_LEARNERS.items() if fused or config.kind != "cuda-fused"}
    return [(name, partial(_make, config, model, optimizer)) for name, config in chosen.items()]


def _make(config: LearnerConfig, model: ModelConfig, optimizer: OptimizerConfig) -> Learner:
    return build_learner(model, optimizer, config, list(range(FIELDS)), FIELDS)
