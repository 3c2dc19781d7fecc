"""Learning gives the same bits in the process that compiles the kernels and in processes that load them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.compiled import chunk_kernel
from stream_ctr.learners.compiled.learner import CompiledLearner
from tests.support.learner_events import MULTI, chunks, make_batch

RULES: Final = {
    "sgd": OptimizerConfig(method="base", row_rule="sgd", dense_rule="sgd"),
    "adagrad": OptimizerConfig(method="base", l2=1e-4),
    "adam": OptimizerConfig(method="base", row_rule="adam", dense_rule="adam"),
    "adam, idle": OptimizerConfig(method="base", row_rule="adam", dense_rule="adam", dense_idle="skip"),
    "helen": OptimizerConfig(method="helen"),
    "helen, adam": OptimizerConfig(method="helen", xi=0.1, row_norm="table", dense_rule="adam"),
    "sam": OptimizerConfig(method="sam", l2=1e-4, row_rule="sgd"),
    "revisit": OptimizerConfig(method="revisit", revisit_after=40),
}


def learned(optimizer: OptimizerConfig) -> str:
    """A digest of all probabilities of a short stream, and of the final state."""
    learner = CompiledLearner(
        ModelConfig(),
        optimizer,
        LearnerConfig(kind="compiled", device="cpu"),
        MULTI.slot_field,
        MULTI.fields,
    )
    digest = hashlib.sha256()
    for batch in chunks(make_batch(MULTI, 300, 3, values=400), 64):
        digest.update(learner.learn(batch).probability.tobytes())
        digest.update(learner.predict(batch.rows).tobytes())
    for name, array in sorted(learner.state().arrays.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def main() -> None:
    """Learn with the rules given on the command line; print digests, and whether this process compiled."""
    digests = {name: learned(RULES[name]) for name in sys.argv[1:]}
    kernel: Any = chunk_kernel.learn_chunk
    print(json.dumps({"digests": digests, "compiled": bool(kernel.stats.cache_misses)}))


def run(home: Path, rules: list[str]) -> Any:
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-m", "tests.learners.compiled.test_bits", *rules]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A process that compiles, and one that loads in another order."""
    home = tmp_path_factory.mktemp("cache")
    compiled, loaded = run(home, list(RULES)), run(home, list(reversed(RULES)))
    assert (compiled["compiled"], loaded["compiled"]) == (True, False)
    return compiled["digests"], loaded["digests"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_restart_continues_the_bits_of_the_process_that_compiled(runs: tuple[Any, Any], rule: str) -> None:
    compiled, loaded = runs
    assert compiled[rule] == loaded[rule]
    assert list(compiled.values()).count(compiled[rule]) == 1  # the rules do differ


if __name__ == "__main__":
    main()
