"""The table [learner]: where and how the learning step runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """Where and how the learning step runs."""

    kind: Literal["auto", "compiled", "cuda", "cuda-fused", "torch", "river"] = "auto"
    """Implementation of the learning step. compiled: Numba on one CPU thread, for the dnn family. cuda: any
    network on a GPU, its step recorded once and replayed for each event. cuda-fused: the same for the dnn
    family, in a tenth of the operations; no GPU has run it yet, so nothing chooses it by itself. torch: any
    network on CPU or CUDA, the reference. auto: cuda where device asks for a GPU, else compiled where it
    can, else torch. river: the river model named below instead of a network."""
    river: str = "river-ftrl"
    """kind river: river-ftrl, river-lr or river-fm; with ``rebuild`` any other classifier."""
    rebuild: bool = False
    """kind river, a classifier whose state cannot be saved: every start learns the log again from its first
    entry. Such an arm serves nothing."""
    device: str = "auto"
    """auto, cpu or cuda[:N]; with auto the torch learner takes a GPU where there is one."""
    threads: Annotated[int, Interval(ge=1, le=4096)] = 1
    """Threads of the CPU step; at batch size 1 one is fastest."""
    seed: int = 1
    """Seed of every initial weight; row weights are a hash of (seed, field, key)."""
