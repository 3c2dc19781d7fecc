"""Log losses at the ends of the unit interval, and the compiled form against the vectorised one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.metrics.log_loss import EPSILON, log_losses, vector_log_losses

PREDICTIONS = st.lists(st.tuples(st.floats(0.0, 1.0, width=32), st.booleans()), max_size=20)


def test_vector_log_losses_are_finite_at_the_ends_and_keep_nan() -> None:
    found = vector_log_losses(np.array([[0.0, 1.0, np.nan]]), np.array([[True]]))
    assert found[0, 0] == pytest.approx(-math.log(EPSILON))
    assert found[0, 1] == pytest.approx(EPSILON, rel=1e-6)
    assert math.isnan(found[0, 2])


@settings(deadline=None)  # the first call compiles
@given(PREDICTIONS)
def test_both_forms_agree(predictions: list[tuple[float, bool]]) -> None:
    p = np.array([probability for probability, _ in predictions], np.float32)
    clicked = np.array([click for _, click in predictions], np.bool_)
    compiled = log_losses(p, clicked.astype(np.uint8))
    np.testing.assert_allclose(vector_log_losses(p, clicked), compiled, rtol=1e-9)
