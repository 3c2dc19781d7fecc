"""The compiled forward pass against a float64 transcription and against the torch model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream_ctr.config.features import slot_fields
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import StateError
from stream_ctr.models.build import build_network
from stream_ctr.models.layers import pool
from stream_ctr.predictors.compiled_forward import DenseForward, expected_shapes, sigmoid
from stream_ctr.state.state import Arrays
from tests.support.snapshots import FIELDS, SMALL, random_dense, random_rows, random_table

MODELS = [
    SMALL,
    ModelConfig(embedding=5, hidden=(7,), scale="scalar", pooling="sum", slope=0.1),
    ModelConfig(embedding=3, hidden=(9, 5, 4), sml=False),
    ModelConfig(embedding=3, hidden=(), sml=False),
    ModelConfig(embedding=16, hidden=(128, 64)),
]


def transcribed_logit(
    model: ModelConfig, p: Arrays, table: NDArray[np.float32], rows: NDArray[np.int64]
) -> float:
    """One event in float64, word for word from the equations."""
    slots = slot_fields(FIELDS)
    x: list[float] = []
    for index in range(len(FIELDS)):
        values = [
            table[row].astype(np.float64)
            for slot, row in zip(slots, rows, strict=True)
            if slot == index and row >= 0
        ]
        total = sum(values, np.zeros(model.embedding))
        x += list(total / len(values) if values and model.pooling == "mean" else total)
    z = 0.0
    for i, width in enumerate(model.hidden, start=1):
        a, b = p[f"tower.{i}.weight"].astype(np.float64), p[f"tower.{i}.bias"].astype(np.float64)
        x = [max(0.0, sum(a[o, j] * x[j] for j in range(len(x))) + b[o]) for o in range(width)]
        if model.sml:
            w, beta, weight = (
                p[f"sml.{i}.{part}"].astype(np.float64) for part in ("scale", "beta", "weight")
            )
            for k in range(width):
                line = k if model.scale == "unit" else 0
                inner = sum(w[line, j] * x[j] for j in range(width)) + beta[line]
                s = inner if inner > 0 else model.slope * inner
                z += weight[k] * math.tanh(s * x[k])
    v, c = p["output.weight"].astype(np.float64), float(p["output.bias"][0])
    return float(z + sum(v[j] * x[j] for j in range(len(x))) + c)


def forward(model: ModelConfig) -> tuple[DenseForward, Arrays, NDArray[np.float32], NDArray[np.int64]]:
    dense = random_dense(model, len(FIELDS))
    table = random_table(model, 50)
    rows = random_rows(slot_fields(FIELDS), len(table), 40)
    return DenseForward(model, FIELDS, dense, table), dense, table, rows


@pytest.mark.parametrize("model", MODELS)
def test_logits_are_those_of_the_equations(model: ModelConfig) -> None:
    network, dense, table, rows = forward(model)
    expected = [transcribed_logit(model, dense, table, event) for event in rows]
    np.testing.assert_allclose(network.logits(rows), expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_logits_are_those_of_the_torch_model(model: ModelConfig) -> None:
    # weights of an ordinary size: 1e-5 is about float32's own spacing for logits of tens
    network, dense, table, rows = forward(model)
    small = {name: array * np.float32(0.3) for name, array in dense.items()}
    network = DenseForward(model, FIELDS, small, table)
    present = torch.from_numpy(rows >= 0)
    slot_field = torch.tensor(slot_fields(FIELDS))
    segment = (torch.arange(len(rows)).unsqueeze(1) * len(FIELDS) + slot_field)[present]
    x = pool(
        torch.from_numpy(table)[torch.from_numpy(rows)[present]],
        segment,
        rows.shape[0] * len(FIELDS),
        model.pooling,
    )
    weights = {name: torch.from_numpy(array) for name, array in small.items()}
    expected = build_network(model, len(FIELDS)).logit(weights, x.view(len(rows), len(FIELDS), -1))
    np.testing.assert_allclose(network.logits(rows), expected.numpy(), rtol=0, atol=1e-5)


def test_parameters_are_those_of_the_torch_model() -> None:
    for model in MODELS:
        declared = build_network(model, len(FIELDS)).layout.parameters
        assert {item.name: item.shape for item in declared} == expected_shapes(model, len(FIELDS))


def test_a_candidate_gets_the_same_bits_alone_and_among_others() -> None:
    network, _, _, rows = forward(SMALL)
    together = network.logits(rows)
    alone = np.concatenate([network.logits(rows[b : b + 1]) for b in range(len(rows))])
    assert together.tobytes() == alone.tobytes()


def test_an_event_without_any_value_has_the_logit_of_zero_embeddings() -> None:
    network, dense, table, rows = forward(SMALL)
    empty = np.full_like(rows[:1], -1)
    zero_table = DenseForward(SMALL, FIELDS, dense, np.zeros_like(table))
    assert network.logits(empty) == zero_table.logits(rows[:1])


def test_sigmoid_reaches_its_ends_without_overflow_and_keeps_nan() -> None:
    z = np.array([-1000.0, 0.0, 1000.0, np.nan], np.float32)
    np.testing.assert_array_equal(sigmoid(z), np.array([0.0, 0.5, 1.0, np.nan], np.float32))


def test_weights_of_another_model_are_refused_by_name() -> None:
    dense, table = random_dense(SMALL, len(FIELDS)), random_table(SMALL, 10)
    other = replace(SMALL, hidden=(8, 7))
    with pytest.raises(StateError, match=r"tower\.2\.weight"):
        DenseForward(other, FIELDS, dense, table)
    with pytest.raises(StateError, match=r"sml\.1\.beta"):
        DenseForward(replace(SMALL, sml=False), FIELDS, dense, table)
    with pytest.raises(StateError, match="rows are float32"):
        DenseForward(SMALL, FIELDS, dense, table[:, :3])
    with pytest.raises(StateError, match=r"output\.bias is float64"):
        DenseForward(SMALL, FIELDS, {**dense, "output.bias": np.zeros(1)}, table)
