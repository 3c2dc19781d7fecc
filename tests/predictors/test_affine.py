"""The matrix product of the server: correct, and with the same bits for an event in any batch."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ctr.predictors.compiled_forward import SLICE, affine

SHAPES = [(1, 1), (4, 8), (5, 3), (7, 1), (0, 4), (37, 13), (70, 128), (129, 64), (3, SLICE + 5)]


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_it_is_the_sum_over_the_inputs(inputs: int, outputs: int) -> None:
    random = np.random.default_rng(inputs)
    x = random.normal(size=(11, inputs)).astype(np.float32)
    across = random.normal(size=(inputs, outputs)).astype(np.float32)
    bias = random.normal(size=outputs).astype(np.float32)
    found = affine(x, across, bias)
    expected = np.zeros((11, outputs)) + bias
    for i in range(inputs):
        expected += x[:, i : i + 1].astype(np.float64) * across[i]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for first in range(4):  # every place among the four that go together
        for events in (1, 2, 5, 7):
            part = affine(x[first : first + events], across, bias)
            assert part.tobytes() == found[first : first + events].tobytes()
    assert affine(x[:0], across, bias).shape == (0, outputs)
