"""The estimator checks of the installed river, applied to our classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from river.checks import yield_checks
from river.checks.common import check_seeding_is_idempotent
from river.datasets import Phishing

from stream_ctr.river import CTRClassifier

MODELS = {parameters["kind"]: CTRClassifier(**parameters) for parameters in CTRClassifier._unit_test_params()}
MINI_BATCH = {
    "check_learn_many_matches_learn_one",
    "check_predict_many_matches_predict_one",
    "check_predict_proba_many_matches_predict_proba_one",
}
CHECKS = [
    pytest.param(
        model,
        check,
        id=f"{kind}-{index:02d}-{check.__name__}",
        marks=[pytest.mark.slow]
        if kind == "torch" and check.__name__ == "check_bounded_memory_growth"
        else [],
    )
    for kind, model in MODELS.items()
    for index, check in enumerate(yield_checks(model))
]


@pytest.mark.parametrize(("model", "check"), CHECKS)
def test_check_of_river(model: CTRClassifier, check: Callable[[Any], None]) -> None:
    check(model.clone())


@pytest.mark.parametrize("kind", MODELS)
def test_no_check_is_left_out(kind: str) -> None:
    names = {check.__name__ for check in yield_checks(MODELS[kind])}
    assert names >= MINI_BATCH  # river skips them without pandas
    assert len(names) >= 25
    assert not MODELS[kind]._unit_test_skips()


@pytest.mark.parametrize("kind", MODELS)
def test_same_seed_same_model(kind: str) -> None:
    check: Callable[..., None] = check_seeding_is_idempotent
    check(MODELS[kind].clone(), Phishing().take(200))
