"""Every backbone against its paper's formula, its gradient, and published counts of parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stream_ctr.config.model import ModelConfig, canonical, model_identity
from stream_ctr.errors import ModelError
from stream_ctr.models.build import Network, build_network
from stream_ctr.models.layout import Weights
from tests.support.backbone_oracles import base_logit, logit
from tests.support.backbone_variants import BACKBONES, FIELDS, VARIANTS, inputs, small, weights

every = pytest.mark.parametrize("config", VARIANTS)


def plain(p: Weights) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return {name: leaf.detach().numpy() for name, leaf in p.items()}


@every
def test_logit_is_that_of_the_formula(config: ModelConfig) -> None:
    network = build_network(config, FIELDS)
    p, x = weights(network, 1), inputs(2, 6, FIELDS, network.row_width)
    expected = [base_logit(config, plain(p), event.numpy()) for event in x]
    z_0, outputs = network.backbone.forward(p, x)
    np.testing.assert_allclose(z_0.detach().numpy(), [z for z, _ in expected], rtol=1e-12, atol=1e-12)
    assert len(outputs) == len(config.hidden)
    for i, layer in enumerate(outputs):
        np.testing.assert_allclose(layer.detach().numpy(), [h[i] for _, h in expected], rtol=1e-12)


@every
@pytest.mark.parametrize("sml", [True, False])
def test_a_batch_equals_its_events_one_by_one(config: ModelConfig, sml: bool) -> None:
    network = build_network(replace(config, sml=sml and bool(config.hidden)), FIELDS)
    p, x = weights(network, 3), inputs(4, 5, FIELDS, network.row_width)
    together = network.logit(p, x)
    assert together.shape == (5,)
    alone = [network.logit(p, event) for event in x]
    assert all(z.shape == (1,) for z in alone)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


@every
def test_gradient_is_that_of_finite_differences(config: ModelConfig) -> None:
    network = build_network(config, FIELDS)
    p, x = weights(network, 5), inputs(6, 3, FIELDS, network.row_width).requires_grad_()
    names = [*p, "x"]
    leaves = [*p.values(), x]
    # materialize_grads is off: a parameter that the logit does not depend on would be an error here
    gradients = torch.autograd.grad(network.logit(p, x).sum(), leaves)
    generator = np.random.default_rng(7)
    for name, leaf, gradient in zip(names, leaves, gradients, strict=True):
        flat, found = leaf.detach().view(-1), gradient.reshape(-1)
        for k in generator.choice(len(flat), min(len(flat), 6), replace=False).tolist():
            kept, values = float(flat[k]), []
            for step in (1e-6, -1e-6):
                flat[k] = kept + step
                values.append(float(network.logit(p, x).sum().detach()))
            flat[k] = kept
            expected = (values[0] - values[1]) / 2e-6
            assert float(found[k]) == pytest.approx(expected, rel=1e-5, abs=1e-6), (name, k)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_skip_logits_are_added_to_every_backbone(backbone: str) -> None:
    config = small(backbone=backbone, sml=True)
    network = build_network(config, FIELDS)
    p, x = weights(network, 8), inputs(9, 4, FIELDS, network.row_width)
    expected = [logit(config, plain(p), event.numpy()) for event in x]
    np.testing.assert_allclose(network.logit(p, x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_zero_rows_have_the_base_rate(backbone: str) -> None:
    config = small(backbone=backbone, base_rate=0.03, sml=True)
    network = build_network(config, FIELDS)
    p = network.layout.views(torch.from_numpy(network.layout.initial(1)))
    z = network.logit(p, torch.zeros(FIELDS, network.row_width))
    assert float(torch.sigmoid(z)) == pytest.approx(0.03, rel=1e-5)


def test_first_order_weights_start_at_zero_and_embeddings_as_without_them() -> None:
    field, key = np.array([0, 1], np.int32), np.array([11, 12], np.uint64)
    plain_rows = build_network(small(), FIELDS).initial_rows(1, field, key, 0.1)
    rows = build_network(small(backbone="deepfm"), FIELDS).initial_rows(1, field, key, 0.1)
    np.testing.assert_array_equal(rows[:, :3], plain_rows)
    np.testing.assert_array_equal(rows[:, 3], 0.0)
    assert plain_rows.all()


TOWER = {"hidden": (400, 400, 400), "embedding": 10, "sml": False}
NORM = 2 * 3 * 400
"""Batch normalisation of three hidden layers, which the published runs have where they say so."""
AVAZU_X1, CRITEO_X1 = (22, 1_298_599), (39, 2_086_316)
"""Fields, and rows of the embedding table: the tables' parameters below, divided by 10 columns."""


@pytest.mark.parametrize(
    ("data", "settings", "published", "apart"),
    [
        # BARS (github.com/reczoo/BARS), ctr_prediction/benchmarks, "Total number of parameters" of each log.
        # IPNN_avazu_x1/PNN_avazu_x1_002_8a91559c.log
        (AVAZU_X1, {"backbone": "ipnn"}, 13_487_991, 0),
        # DCN_avazu_x1/DCN_avazu_x1_004_e58d35c1.log
        (AVAZU_X1, {"backbone": "dcn", "cross_layers": 3}, 13_397_131, 0),
        # DCNv2_avazu_x1/DCNv2_avazu_x1_029_81904473.log
        (AVAZU_X1, {"backbone": "dcnv2", "cross_layers": 5}, 13_641_311, NORM),
        # DCNv2_criteo_x1/DCNv2_criteo_x1_001_28c60688.log
        (CRITEO_X1, {"backbone": "dcnv2", "cross_layers": 3, "hidden": (500,) * 3}, 22_018_021, 0),
        # DLRM_avazu_x1/DLRM_avazu_x1_015_cf6fdabe.log
        (AVAZU_X1, {"backbone": "dlrm"}, 13_402_391, NORM),
        # WideDeep_criteo_x1/WideDeep_criteo_x1_010_3a06c5bc.log
        (CRITEO_X1, {"backbone": "wide_deep"}, 23_429_477, NORM),
        # DeepFM_criteo_x1/DeepFM_criteo_x1_001_4b788fed.log
        (CRITEO_X1, {"backbone": "deepfm"}, 23_429_477, NORM),
        # xDeepFM_avazu_x1/xDeepFM_avazu_x1_002_937cff08.log; its interaction network has a second bias
        (AVAZU_X1, {"backbone": "xdeepfm", "cin": (64,)}, 14_727_695, NORM + 1),
        # AutoInt+_avazu_x1/AutoInt_avazu_x1_004_4fe23ce2.log: 128 a head; layer normalisation, a second bias
        (
            AVAZU_X1,
            {"backbone": "autoint", "attention_layers": 5, "attention_heads": 2, "attention_width": 256},
            14_202_856,
            NORM + 5 * 2 * 256 + 1,
        ),
        # DNN_avazu_x1/DNN_avazu_x1_001_3da2d674.log: that version counts the tower, 409,601 parameters, twice
        (AVAZU_X1, {"backbone": "dnn"}, 13_805_192, 409_601),
        # DCN/CrossNet_criteo_x4_001/DCN_criteo_x4_001_964751c8.log
        (
            (39, 910_708),
            {"backbone": "dcn", "cross_layers": 8, "hidden": (), "embedding": 16},
            14_581_937,
            0,
        ),
    ],
)
def test_parameters_are_as_many_as_published(
    data: tuple[int, int], settings: dict[str, Any], published: int, apart: int
) -> None:
    fields, rows = data
    network = build_network(ModelConfig(**{**TOWER, **settings}), fields)
    assert rows * network.row_width + network.layout.size == published - apart


def test_expert_layers_have_as_many_parameters_as_the_formula() -> None:
    # no published count of the mixture: U, V and C of each expert, the bias of each layer, one gate an expert
    config = ModelConfig(backbone="dcnv2", cross_experts=4, hidden=(), sml=False)
    width = 39 * 16
    layer = 4 * (2 * width * 32 + 32 * 32) + width
    assert build_network(config, 39).layout.size == 3 * layer + 4 * width + width + 1


@pytest.mark.parametrize("backbone", BACKBONES)
def test_dropout_takes_part_in_training_only(backbone: str) -> None:
    config = small(backbone=backbone, dropout=0.5, sml=True)
    network, same = build_network(config, FIELDS), build_network(small(backbone=backbone, sml=True), FIELDS)
    p, x = weights(network, 10), inputs(11, 8, FIELDS, network.row_width)

    def trained(network: Network, step: int) -> torch.Tensor:
        return network.logit(p, x, network.dropout(seed=1, step=step))

    assert torch.equal(network.logit(p, x), same.logit(p, x))
    assert torch.equal(trained(same, 1), same.logit(p, x))
    assert torch.equal(trained(network, 1), trained(network, 1))
    assert not torch.equal(trained(network, 1), trained(network, 2))
    assert not torch.equal(trained(network, 1), network.logit(p, x))


def test_dropout_drops_its_rate_and_keeps_the_mean() -> None:
    drop = build_network(small(dropout=0.2), FIELDS).dropout(seed=3, step=4)
    assert drop is not None
    kept = drop(torch.ones(200, 500))
    assert float((kept == 0).float().mean()) == pytest.approx(0.2, abs=5 * (0.16 / 1e5) ** 0.5)
    assert set(kept.flatten().tolist()) == {0.0, 1.25}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"backbone": "fm"},
            r"model\.backbone = 'fm' is unknown; choose dnn or wide_deep or ipnn or deepfm or",
        ),
        ({"skip": "meta"}, r"model\.skip = 'meta' is unknown; choose vanilla or relu or .* or meta_tanh"),
        ({"scale": "diagonal"}, r"model\.scale = 'diagonal' is unknown; choose unit or scalar or low_rank"),
        ({"backbone": "deepfm", "sml": True, "hidden": ()}, r"model\.sml = true needs hidden layers"),
        ({"cross_layers": 0}, r"model\.cross_layers must be between 1 and 100, got 0"),
        ({"cross_experts": -1}, r"model\.cross_experts must be between 0 and 1000, got -1"),
        ({"cin": (8, 0)}, r"every width in model\.cin must be at least 1, got \[8, 0\]"),
        ({"cin": (8, 70_000)}, r"model\.cin must be between 1 and 65536, got 70000"),
        ({"backbone": "xdeepfm", "cin": ()}, r"'xdeepfm' needs an .* model\.cin is empty"),
        ({"backbone": "autoint", "attention_width": 5}, r"attention_width must .*attention_heads = 2, got 5"),
        ({"backbone": "dlrm", "bottom_fields": 4}, r"bottom_fields must be less .* 4, got 4; choose 3 or"),
        ({"dropout": 1.0}, r"model\.dropout must be between 0 and 0\.99, got 1\.0"),
        ({"dropout": float("nan")}, r"model\.dropout must be .* got nan"),
        ({"scale_rank": 0}, r"model\.scale_rank must be between 1 .* got 0"),
    ],
)
def test_an_invalid_setting_is_rejected_with_its_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_network(small(**settings), FIELDS)


@pytest.mark.parametrize("backbone", ["ipnn", "dlrm"])
def test_products_need_two_fields(backbone: str) -> None:
    with pytest.raises(ModelError, match=rf"'{backbone}' needs at least two fields, and the schema has one"):
        build_network(small(backbone=backbone), 1)


def test_unused_settings_do_not_change_the_identity_of_a_network() -> None:
    one = ModelConfig(backbone="deepfm", cin=(1,), cross_layers=9, bottom=(2,), attention_heads=1)
    assert canonical(one) == ModelConfig(backbone="deepfm")
    assert model_identity(one) == model_identity(ModelConfig(backbone="deepfm"))
    for other in (
        ModelConfig(backbone="xdeepfm", cin=(1,)),
        ModelConfig(skip="tanh"),
        ModelConfig(scale="low_rank", scale_rank=2),
    ):
        assert canonical(other) == other
        assert model_identity(other) != model_identity(ModelConfig(backbone=other.backbone))


def test_identity_of_the_first_version_still_holds() -> None:
    # what a checkpoint of the version before the backbones holds, key by key
    assert model_identity(ModelConfig()) == {
        "backbone": "dnn",
        "embedding": 16,
        "hidden": (128, 64),
        "sml": True,
        "scale": "unit",
        "slope": 0.2,
        "beta": 1.0,
        "pooling": "mean",
        "embedding_scale": 0.003,
        "base_rate": 0.5,
    }
