"""Denormal numbers are flushed inside the context only: not in other threads, and not in later code."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from llvmlite import binding, ir
from numpy.typing import NDArray

from stream_ctr.kernels import denormals
from stream_ctr.kernels.decorators import fast_kernel
from stream_ctr.kernels.denormals import Register, denormals_flushed, emit_read, emit_write, register_of

known = pytest.mark.skipif(denormals.REGISTER is None, reason="this processor's register is not known")
SMALLEST = float(np.finfo(np.float32).smallest_normal)


@fast_kernel
def halved(x: NDArray[np.float32]) -> float:
    """Half of the first number, computed so that the compiler cannot know the result."""
    return float(x[0] * np.float32(0.5))


def is_flushed(number: float = SMALLEST) -> bool:
    """Whether half of a number is zero; half of the smallest normal number is denormal."""
    return halved(np.full(1, number, np.float32)) == 0.0


@known
def test_denormal_numbers_are_zero_inside_and_exist_outside() -> None:
    assert not is_flushed()
    with denormals_flushed():
        assert is_flushed()
        assert not is_flushed(4.0 * SMALLEST)
    assert not is_flushed()


@known
def test_denormal_operands_count_as_zero_too() -> None:
    denormal = np.full(1, SMALLEST / 2.0, np.float32)
    scaled = denormal * np.float32(2.0**100)
    assert scaled[0] > 0.0
    with denormals_flushed():
        assert (denormal * np.float32(2.0**100))[0] == 0.0


@known
def test_the_previous_setting_is_restored_and_not_just_cleared() -> None:
    with denormals_flushed():
        with denormals_flushed():
            assert is_flushed()
        assert is_flushed()
    assert not is_flushed()


@known
def test_an_error_inside_restores_the_setting() -> None:
    with pytest.raises(ArithmeticError), denormals_flushed():
        raise ArithmeticError
    assert not is_flushed()


@known
def test_other_threads_are_not_affected() -> None:
    found: dict[str, bool] = {}
    inside, looked = threading.Event(), threading.Event()

    def look() -> None:
        inside.wait(60.0)
        found["other"] = is_flushed()
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    with denormals_flushed():
        inside.set()
        assert looked.wait(60.0)
        found["own"] = is_flushed()
    thread.join(60.0)
    assert found == {"other": False, "own": True}


def test_an_unsupported_machine_gets_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert register_of("riscv64-unknown-linux-gnu") is None
    monkeypatch.setattr(denormals, "REGISTER", None)
    with (
        pytest.warns(RuntimeWarning, match="not flushed to zero on .*: learning is correct"),
        denormals_flushed(),
    ):
        assert not is_flushed()


def assembly(triple: str, register: Register) -> str:
    """The machine code, for a target, of a function that sets all bits of ``flush``."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "flush")
    builder = ir.IRBuilder(function.append_basic_block())
    before = emit_read(builder, register)
    emit_write(builder, register, builder.or_(before, ir.Constant(before.type, register.flush)))
    builder.ret_void()
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine()
    return machine.emit_assembly(binding.parse_assembly(str(module)))


@pytest.mark.parametrize(
    ("triple", "read", "flush", "write"),
    [
        ("x86_64-unknown-linux-gnu", "stmxcsr", "$32832", "ldmxcsr"),
        ("aarch64-unknown-linux-gnu", "mrs\tx8, FPCR", "#0x1000000", "msr\tFPCR, x8"),
    ],
)
def test_code_for_either_kind_of_processor_sets_its_register(
    triple: str, read: str, flush: str, write: str
) -> None:
    register = register_of(triple)
    assert register is not None
    code = assembly(triple, register)
    places = [code.find(part) for part in (read, flush, write)]
    assert min(places) >= 0, code
    assert places == sorted(places)
