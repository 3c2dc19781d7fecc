"""Recording of device operations as CUDA graphs, for replay."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stream_ctr.errors import ModelError

Run = Callable[[], object]
"""Work whose results are written to memory with fixed addresses."""
WARM_UP_RUNS = 3
"""Warm-up runs before a recording, in which libraries allocate workspaces and caches fill."""


def warmed_up(run: Run) -> Run:
    """``run``, after the warm-up runs that a recording needs."""
    for _ in range(WARM_UP_RUNS):
        run()
    return run


def recorded(run: Run) -> Run:
    """Record ``run`` as a CUDA graph on the current device; returns a function that replays it in one launch.

    ``run`` is executed a few times before the recording.

    Raises:
        ModelError: recording failed, e.g. because the work synchronises with the device or memory ran out.
    """
    try:
        # Recording needs its own stream, synchronised with the current stream before and after.
        new_stream: Callable[[], torch.cuda.Stream] = torch.cuda.Stream  # its constructor is untyped
        stream = new_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            warmed_up(run)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of this process may use the GPU during the recording.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f'this model\'s step cannot be recorded as a CUDA graph ({reason}); set learner.kind = "torch"'
        ) from error
    return graph.replay
