"""splitmix64 against its published output and against plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.kernels.splitmix64 import GOLDEN, mix, splitmix64
from tests.support.splitmix64 import splitmix64 as oracle

STATES = st.lists(st.integers(0, 2**64 - 1), max_size=8)


def test_a_stream_is_that_of_the_reference_implementation() -> None:
    # The first outputs of Vigna's splitmix64.c for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = np.array([1234567], np.uint64) + np.arange(4, dtype=np.uint64) * GOLDEN
    assert splitmix64(states).tolist() == published


@settings(deadline=None)  # the first call compiles
@given(STATES)
def test_arrays_and_compiled_scalars_equal_plain_python(states: list[int]) -> None:
    expected = [oracle(x) for x in states]
    assert splitmix64(np.array(states, np.uint64)).tolist() == expected
    assert [int(mix(np.uint64(x))) for x in states] == expected
