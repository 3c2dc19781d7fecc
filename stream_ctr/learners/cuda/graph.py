"""Recording device operations once, to be replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stream_ctr.errors import ModelError

Run = Callable[[], object]
"""Work that leaves its results in memory that stays where it is."""
REHEARSALS = 3
"""Runs before a recording: libraries set up their workspaces, and caches fill, in the first ones."""


def rehearsed(run: Run) -> Run:
    """``run``, after the runs that a recording needs before it."""
    for _ in range(REHEARSALS):
        run()
    return run


def recorded(run: Run) -> Run:
    """``run`` as a CUDA graph on the current device: what it returns does the same work at one launch.

    ``run`` itself runs a few times first.

    Raises:
        ModelError: CUDA refuses: the work waits for the device, or there is no memory for it.
    """
    try:
        # Recording needs a stream of its own; it waits for what was begun before, and is waited for.
        new_stream: Callable[[], torch.cuda.Stream] = torch.cuda.Stream  # whose constructor has no types
        stream = new_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            rehearsed(run)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of this process may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f'this model\'s step cannot be recorded as a CUDA graph ({reason}); set learner.kind = "torch"'
        ) from error
    return graph.replay
