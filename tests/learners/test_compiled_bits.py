"""A process that compiles the kernels and one that loads them from disk learn the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib
from stream_ctr.learners import compiled_kernels
from stream_ctr.learners.base import LearnerConfig
from stream_ctr.learners.compiled_learner import CompiledLearner
from stream_ctr.models.config import ModelConfig
from stream_ctr.optim.config import OptimizerConfig
from tests.learners.support import MULTI, chunks, make_batch

for optimizer in (
    OptimizerConfig(method="base", row_rule="adam", dense_rule="adam"),
    OptimizerConfig(method="helen"),
    OptimizerConfig(method="sam", l2=1e-4, row_rule="sgd"),
    OptimizerConfig(method="revisit", revisit_after=40),
):
    learner = CompiledLearner(
        ModelConfig(), optimizer, LearnerConfig(kind="compiled", device="cpu"), MULTI.slot_field, MULTI.fields
    )
    digest = hashlib.sha256()
    for batch in chunks(make_batch(MULTI, 600, 3, values=400), 64):
        digest.update(learner.learn(batch).probability.tobytes())
    print(optimizer.method, digest.hexdigest())
print("compiled" if compiled_kernels.learn_chunk.stats.cache_misses else "loaded")
"""


@pytest.mark.slow
def test_a_restart_continues_the_bits_of_the_process_that_compiled(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    outputs = []
    for _ in range(2):
        ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        outputs.append(ran.stdout.splitlines())
    compiled, loaded = outputs
    assert (compiled.pop(), loaded.pop()) == ("compiled", "loaded")
    assert len(compiled) == 4
    assert compiled == loaded
