"""Named optimizer settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.optim.presets import PRESETS, preset
from stream_ctr.optim.validation import check_optimizer, for_batches, for_stream


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_usable(name: str) -> None:
    check_optimizer(preset(name))


def test_default_is_what_an_empty_configuration_gives() -> None:
    assert preset("default") == OptimizerConfig()


def test_helen_is_the_published_form() -> None:
    helen = preset("helen")
    assert (helen.method, helen.perturb, helen.xi) == ("helen", "both", 0.0)
    assert (helen.row_norm, helen.dense_norm) == ("row", "dense")
    assert helen.rho >= 0.001
    assert helen.rho_dense >= 0.001


def test_method_helen_alone_gives_the_published_form() -> None:
    assert OptimizerConfig(method="helen") == preset("helen")


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam", "nadam", "radam"])
def test_presets_of_base_rules_use_these_rules(name: str) -> None:
    found = preset(name)
    assert (found.method, found.row_rule, found.dense_rule) == ("base", name, name)


@pytest.mark.parametrize("name", ["sam", "asam", "helen"])
def test_presets_of_perturbations_use_the_default_rules(name: str) -> None:
    found, default = preset(name), OptimizerConfig()
    assert found.method == name
    assert (found.row_rule, found.row_rate) == (default.row_rule, default.row_rate)
    assert (found.dense_rule, found.dense_rate) == (default.dense_rule, default.dense_rate)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"unknown optimizer preset 'hellen' \(did you mean 'helen'\?\)"):
        preset("hellen")
    with pytest.raises(ModelError, match="; choose one of default, "):
        preset("zzz")


@pytest.mark.parametrize(
    ("change", "settled"),
    [
        ({}, "revisit"),
        ({"row_rule": "sgd"}, "revisit"),
        ({"row_rule": "adam"}, "base"),
        ({"dense_rule": "adam"}, "base"),
        ({"l2": 1e-5}, "base"),
        ({"first_order_rule": "ftrl"}, "base"),
        ({"method": "helen"}, "helen"),
        ({"method": "base"}, "base"),
    ],
)
def test_a_stream_revisits_where_its_rules_allow_it(change: dict[str, Any], settled: Any) -> None:
    config = replace(preset("default"), **change)
    check_optimizer(for_stream(config))
    assert for_stream(config) == replace(config, method=settled)
    assert for_batches(config).method == {"revisit": "base"}.get(settled, settled)
