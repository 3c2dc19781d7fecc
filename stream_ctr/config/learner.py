"""The table [learner]: implementation, device, threads and seed of the learning step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """Implementation and device of the learning step."""

    kind: Literal["auto", "compiled", "cuda", "cuda-fused", "torch", "river"] = "auto"
    """Implementation of the learning step. compiled: Numba on one CPU thread, for the dnn family. cuda: any
    network on a GPU; the step is recorded once and replayed for each event. cuda-fused: the same for the dnn
    family with a tenth of the operations; untested on a GPU, so auto never selects it. torch: any network on
    CPU or CUDA, the reference. auto: cuda if device names a GPU, else compiled if it supports the network,
    else torch. river: the river model named below instead of a network."""
    river: str = "river-ftrl"
    """kind river: river-ftrl, river-lr or river-fm; with ``rebuild`` any other classifier of river."""
    rebuild: bool = False
    """kind river with a classifier whose state cannot be saved: every start learns the log again from its
    first entry. Such an arm cannot serve."""
    device: str = "auto"
    """auto, cpu or cuda[:N]. With auto, the torch learner uses a GPU if there is one."""
    threads: Annotated[int, Interval(ge=1, le=4096)] = 1
    """Threads of the CPU step; one is fastest at batch size 1."""
    seed: int = 1
    """Seed of all initial weights. The initial weights of a row are a hash of (seed, field, key)."""
