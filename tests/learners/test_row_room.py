"""Rows as numpy arrays and as torch tensors. Reserved rows are zero, cache-aligned and use no memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream_ctr.bench.machine import resident_bytes
from stream_ctr.errors import StateError
from stream_ctr.learners.compiled.rows import NumpyRows, Rows
from stream_ctr.learners.torch.row_table import RowTable
from stream_ctr.optim.rules import build_rule
from stream_ctr.optim.torch_accumulators import Accumulators
from stream_ctr.state.state import State

ADAGRAD = build_rule("adagrad", 0.1, 1e-3)
Make = Callable[[bool], Rows[Any]]


def of_torch(half: bool = False) -> RowTable:
    kept = Accumulators("bfloat16" if half else "float32", 0, torch.float32)
    return RowTable(16, ADAGRAD, 2, torch.device("cpu"), torch.float32, kept=kept)


def of_numpy(half: bool = False) -> NumpyRows:
    return NumpyRows(16, ADAGRAD, 2, np.float32, half)


def filled(rows: int, half: bool = False) -> State:
    """A saved state in which all numbers differ."""
    square = np.arange(rows * 16).reshape(rows, 16)
    arrays: dict[str, NDArray[Any]] = {
        "weight": np.arange(rows * 16, dtype=np.float32).reshape(rows, 16),
        "step": np.arange(rows)[:, None],
        "touched": 7 * np.arange(rows)[:, None],
        "square": square.astype(np.uint16 if half else np.float32),
    }
    return State(arrays, {})


@pytest.fixture(params=[of_torch, of_numpy])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


@pytest.mark.parametrize("half", [False, True])
def test_saved_rows_load_bit_for_bit_with_their_types(make: Make, half: bool) -> None:
    saved, rows = filled(3000, half), make(half)
    rows.load_state(saved)
    live, frozen = rows.state().arrays, rows.freeze()
    for name, array in saved.arrays.items():
        for found in (live[name], np.concatenate(list(frozen[name].pieces()))):
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("half", [False, True])
def test_numpy_and_torch_rows_start_equal(half: bool) -> None:
    one, other = of_torch(half).state().arrays, of_numpy(half).state().arrays
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


def test_a_state_is_a_copy(make: Make) -> None:
    rows = make(False)
    rows.load_state(filled(3))
    before = rows.state()
    rows.weight[:] = 9.0
    np.testing.assert_array_equal(before.arrays["weight"], filled(3).arrays["weight"])
    assert (rows.weights() == 9.0).all()


def test_rows_of_another_optimizer_are_rejected(make: Make) -> None:
    with pytest.raises(StateError, match=r"rows\.square is uint16, this optimizer keeps float32; .*bfloat16"):
        make(False).load_state(filled(3, half=True))
    arrays = filled(3).arrays
    del arrays["square"]
    with pytest.raises(StateError, match="hold step, touched, weight, this optimizer needs square, step"):
        make(False).load_state(State(arrays, {}))


@pytest.mark.parametrize("made_by", ["of_torch", "of_numpy"])
def test_reserved_rows_use_no_memory_until_written(made_by: str) -> None:
    """In a separate process: another thread could allocate memory between the two measurements."""
    if resident_bytes() is None:
        pytest.skip("this system does not report a process's memory")
    script = (
        f"from {__name__} import {made_by}, resident_bytes\n"
        f"rows, before = {made_by}(), resident_bytes()\n"
        "rows.reserve(2**20 + 1)\n"  # capacity for 2 million rows, 144 bytes each
        "print(resident_bytes() - before, rows.capacity)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    taken, capacity = map(int, run.stdout.split())
    assert capacity > 2**20
    assert taken < 0.1 * capacity * 144


def test_growth_keeps_rows_and_adds_aligned_zeros(make: Make) -> None:
    rows = make(False)
    rows.load_state(filled(2))
    rows.reserve(5_000)
    weight, touched = np.asarray(rows.weight), np.asarray(rows.touched)
    assert weight.ctypes.data % 64 == 0
    np.testing.assert_array_equal(weight[:2], filled(2).arrays["weight"])
    np.testing.assert_array_equal(touched[:2], [[0], [7]])
    assert not weight[2:].any()
    assert np.asarray(rows.step).dtype == np.int64


def test_loading_replaces_all_earlier_rows(make: Make) -> None:
    rows = make(False)
    rows.load_state(filled(900))
    rows.load_state(filled(2))
    assert rows.used == 2
    assert not np.asarray(rows.weight)[2:].any()
    assert not np.asarray(rows.touched)[2:].any()


def test_an_initialised_row_keeps_no_earlier_state() -> None:
    rows = of_torch()
    rows.load_state(filled(4))
    rows.initialise(torch.tensor([1, 3]), torch.ones(2, 16), 7)
    arrays = rows.state().arrays
    np.testing.assert_array_equal(arrays["weight"][[1, 3]], 1.0)
    np.testing.assert_array_equal(arrays["square"][[1, 3]], np.float32(1e-3))
    np.testing.assert_array_equal(arrays["touched"], [[0], [7], [14], [7]])
    np.testing.assert_array_equal(arrays["step"], [[0], [0], [2], [0]])
    np.testing.assert_array_equal(arrays["square"][2], filled(4).arrays["square"][2])
