"""The fused step: under Triton's interpreter, through Triton's compiler, and on a GPU if there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.build import build_batch_learner, build_learner
from stream_ctr.learners.cuda.fused.plan import Blocks, plan_network, plan_tiles
from stream_ctr.learners.cuda.fused.step import FusedStep
from stream_ctr.learners.cuda.support import why_not_fused
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.models.build import build_network
from tests.support.learner_events import MULTI, SINGLE, Schema, make_batch

HERE = Path(__file__).parent
INTERPRETED = ["kernels_interpreted.py", "steps_interpreted.py"]
MODEL = ModelConfig(embedding=4, hidden=(6, 5), embedding_scale=0.3)
HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.3, rho_dense=0.4, dense_rate=0.01)
SAM = replace(HELEN, method="sam", row_rule="adam", dense_rule="adam", l2=0.02, warm_up_events=20)
SCALAR = replace(MODEL, scale="scalar", pooling="sum")
LINEAR = replace(MODEL, sml=False, hidden=())
FLAGSHIP = ModelConfig()
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}
Started = list[tuple[Any, int, Mapping[str, Any]]]


@pytest.mark.timeout(900)  # the interpreter is slow, especially on a loaded machine
def test_kernels_match_the_formulas() -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *(str(HERE / name) for name in INTERPRETED),
            "-q",
            "-p",
            "no:cacheprovider",
            "-n0",
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout
    assert "skipped" not in ended.stdout


def started(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    schema: Schema,
    predicts: bool = False,
    labels: LabelLoss | None = None,
) -> Started:
    """The kernels that one event launches, each with its programs and arguments."""
    calls: Started = []
    step = FusedStep(
        *(model, build_network(model, schema.fields), optimizer, 1, torch.tensor(schema.slot_field)),
        *(schema.fields, torch.float32, labels),
        start=lambda kernel, programs, arguments: calls.append((kernel, programs, arguments)),
    )
    if predicts:
        step.predict_event(full=True)
    else:
        step.learn_event(full=True)
    return calls


def test_a_step_has_a_tenth_of_the_graph_learners_operations() -> None:
    # as of 400-400-400: the count depends on the number of layers alone
    model, fields = replace(MODEL, hidden=(4, 4, 4)), Schema(tuple(range(39)))
    assert len(started(model, HELEN, fields)) == 21
    assert len(started(model, replace(HELEN, method="base"), fields)) == 12
    assert len(started(model, HELEN, fields, predicts=True)) == 6


def compiled(calls: Started, capability: int) -> dict[str, str]:
    """Compile each kernel as launched, down to GPU machine code; returns the assembly by name."""
    from triton import compile as to_machine_code
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    done: set[str] = set()
    assembly: dict[str, str] = {}
    for kernel, _, arguments in calls:
        assert set(arguments) == set(kernel.arg_names)
        signature: dict[str, str] = {}
        constants: dict[tuple[int, ...], object] = {}
        for parameter in kernel.params:
            value = arguments[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name], constants[(parameter.num,)] = "constexpr", value
            else:
                signature[parameter.name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        key = f"{kernel.fn.__name__} {signature} {constants}"
        if key in done:
            continue
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        code = to_machine_code(source, target=GPUTarget("cuda", capability, 32)).asm
        assert f".target sm_{capability}" in str(code["ptx"])
        assert len(code["cubin"]) > 0
        done.add(key)
        assembly[kernel.fn.__name__] = str(code["ptx"])
    return assembly


@pytest.mark.parametrize(
    ("capability", "model", "optimizer", "schema", "labels"),
    [
        (90, FLAGSHIP, HELEN, SINGLE, LabelLoss()),
        (80, SCALAR, SAM, MULTI, LabelLoss("fnw", 0.5)),
    ],
    ids=["sm_90", "sm_80"],
)
def test_every_kernel_compiles_for_gpus(
    capability: int,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    schema: Schema,
    labels: LabelLoss,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the interpreter accepts code that the compiler rejects; neither needs a GPU
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assembly = compiled(started(model, optimizer, schema, labels=labels), capability)
    assert set(assembly) == {
        *("gather", "forward", "head", "backward"),
        *("ascend", "finish", "update_dense", "update_rows"),
    }
    assert "head" in compiled(started(model, optimizer, schema, predicts=True)[-1:], capability)
    # all threads must read a row's step count and time of last touch before one of them writes it
    assert assembly["update_rows"].count("bar.sync") == 2 * (optimizer is SAM)
    assert not any("atom." in text for text in assembly.values())  # sums in a fixed order


@pytest.mark.parametrize("model", [MODEL, SCALAR, replace(MODEL, sml=False), LINEAR])
def test_tiles_cover_every_dense_parameter_once(model: ModelConfig) -> None:
    layout = build_network(model, 3).layout
    seen = np.zeros(layout.size, np.int64)
    for begin, stride, rows, columns, _, _ in plan_tiles(
        plan_network(model, layout, 3), Blocks(tile_rows=4, tile_columns=4)
    ):
        assert (rows <= 4) & (columns <= 4)
        for o in range(rows):
            seen[begin + o * stride : begin + o * stride + columns] += 1
    assert (seen == 1).all()


# Where the learner can run

on_gpu = LearnerConfig(kind="cuda-fused", device="cuda", seed=5)


@pytest.mark.parametrize(
    ("model", "optimizer", "setting"),
    [
        (replace(MODEL, backbone="dcn"), HELEN, "model.backbone = 'dcn'"),
        (replace(MODEL, scale="low_rank"), HELEN, "model.scale = 'low_rank'"),
        (replace(MODEL, skip="meta_relu"), HELEN, "model.skip = 'meta_relu'"),
        (replace(MODEL, embedding=5000), HELEN, "model.embedding = 5000"),
        (MODEL, replace(HELEN, method="asam"), "optimizer.method = 'asam'"),
        (MODEL, replace(HELEN, dense_rule="rmsprop"), "optimizer.dense_rule = 'rmsprop'"),
        (MODEL, replace(HELEN, moments="bfloat16"), "optimizer.moments = 'bfloat16'"),
        (MODEL, OptimizerConfig(), "optimizer.method = 'auto'"),
    ],
)
def test_an_unsupported_setting_is_named(
    model: ModelConfig, optimizer: OptimizerConfig, setting: str
) -> None:
    assert why_not_fused(model, optimizer) == setting
    assert why_not_fused(MODEL, SAM) is None


def test_unsupported_settings_point_to_the_graph_learner() -> None:
    from stream_ctr.learners.cuda.fused.learner import FusedLearner
    from stream_ctr.learners.cuda.graph import warmed_up

    model, cpu = replace(MODEL, backbone="dcn"), LearnerConfig(device="cpu")
    with pytest.raises(
        ModelError, match=r"fused step does not support model\.backbone = 'dcn'; .* \"cuda\"$"
    ):
        FusedLearner(model, HELEN, cpu, SINGLE.slot_field, SINGLE.fields, record=warmed_up)


def test_triton_without_a_gpu_gives_a_one_line_error() -> None:
    from stream_ctr.learners.cuda.fused.learner import FusedLearner
    from stream_ctr.learners.cuda.graph import warmed_up

    with pytest.raises(ModelError, match=r"^Triton cannot run the fused step here \(.+\); set .* \"cuda\"$"):
        FusedLearner(
            *(MODEL, HELEN, LearnerConfig(device="cpu"), SINGLE.slot_field, SINGLE.fields), record=warmed_up
        )


def test_without_a_gpu_the_error_names_a_learner_that_runs() -> None:
    config = replace(on_gpu, device="cpu")
    with pytest.raises(ModelError, match=r"^learner\.kind = 'cuda-fused' needs a GPU, .* \"compiled\"$"):
        build_learner(MODEL, HELEN, config, [0, 1], 2)
    with pytest.raises(ModelError, match=r"'cuda-fused' learns event by event"):
        build_batch_learner(MODEL, HELEN, config, [0, 1], 2)


# On a GPU


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="torch finds no CUDA device: run where there is a GPU and torch is built for it",
)
class TestOnAGpu:
    @pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
    @pytest.mark.parametrize("model", [MODEL, SCALAR, replace(MODEL, sml=False), LINEAR])
    @pytest.mark.parametrize("optimizer", [HELEN, SAM, replace(HELEN, method="base", dense_rule="sgd")])
    def test_steps_are_those_of_the_reference(
        self, schema: Schema, model: ModelConfig, optimizer: OptimizerConfig
    ) -> None:
        from stream_ctr.learners.cuda.fused.learner import FusedLearner

        batch, slots = make_batch(schema, 150, seed=3), (schema.slot_field, schema.fields)
        learner = FusedLearner(model, optimizer, on_gpu, *slots, dtype=torch.float64)
        cpu = replace(on_gpu, kind="torch", device="cpu")
        expected = TorchLearner(model, optimizer, cpu, *slots, dtype=torch.float64)
        p, q = learner.learn(batch), expected.learn(batch)
        np.testing.assert_allclose(p.probability, q.probability, rtol=1e-6)
        one, other = learner.state(), expected.state()
        assert one.values == other.values
        for name, array in one.arrays.items():
            np.testing.assert_allclose(array, other.arrays[name], rtol=1e-8, atol=1e-8, err_msg=name)

    def test_runs_are_reproducible_bit_for_bit(self) -> None:
        batch = make_batch(MULTI, 150, seed=3)
        learners = [build_learner(FLAGSHIP, HELEN, on_gpu, MULTI.slot_field, MULTI.fields) for _ in range(2)]
        for learner in learners:
            learner.learn(batch)
        assert learners[0].state().equals(learners[1].state())
