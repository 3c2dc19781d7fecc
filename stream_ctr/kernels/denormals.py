"""Denormal numbers that count as zero: in this thread, and for a while.

First moments of idle units decay into denormal numbers, which make everything that touches them several times
slower. Code outside the step (numpy's limits, for one) expects them to exist. What happens to them is said
by bits of the processor's floating-point control register, which every thread has of its own: of MXCSR on
x86 (Intel's manual, volume 1, section 10.2.3), of FPCR on 64-bit ARM (Arm's manual, D24.2).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from stream_ctr.kernels.decorators import kernel


class Register(NamedTuple):
    """How LLVM reads and writes a control register."""

    read: str
    write: str
    bits: int
    """Width of the register."""
    in_memory: bool
    """The intrinsics take a place in memory; else they give and take the value itself."""
    flush: int
    """The bits that make denormal results, and denormal operands, zero."""


_MXCSR: Final = Register("llvm.x86.sse.stmxcsr", "llvm.x86.sse.ldmxcsr", 32, True, 1 << 15 | 1 << 6)
_FPCR: Final = Register("llvm.aarch64.get.fpcr", "llvm.aarch64.set.fpcr", 64, False, 1 << 24)


def register_of(triple: str) -> Register | None:
    """The control register of the machine that a target triple names; None where it is not known.

    >>> register_of("x86_64-unknown-linux-gnu").read, register_of("arm64-apple-darwin23").read
    ('llvm.x86.sse.stmxcsr', 'llvm.aarch64.get.fpcr')
    """
    machine = triple.partition("-")[0]
    return {"x86_64": _MXCSR, "aarch64": _FPCR, "arm64": _FPCR}.get(machine)


REGISTER: Final = register_of(binding.get_process_triple())
"""That of this machine."""


def emit_read(builder: ir.IRBuilder, register: Register) -> ir.Value:
    """Code that gives the register, as 64 bits."""
    number = ir.IntType(register.bits)
    if not register.in_memory:
        value = builder.call(_intrinsic(builder, register.read, number, []), [])
    else:
        place = builder.alloca(number)
        builder.call(_intrinsic(builder, register.read, ir.VoidType(), [place.type]), [place])
        value = builder.load(place)
    return builder.zext(value, ir.IntType(64))


def emit_write(builder: ir.IRBuilder, register: Register, value: ir.Value) -> None:
    """Code that sets the register to the low bits of ``value``."""
    low = builder.trunc(value, ir.IntType(register.bits))
    if register.in_memory:
        place = builder.alloca(low.type)
        builder.store(low, place)
        low = place
    builder.call(_intrinsic(builder, register.write, ir.VoidType(), [low.type]), [low])


def _intrinsic(builder: ir.IRBuilder, name: str, gives: ir.Type, takes: list[ir.Type]) -> ir.Function:
    if name in builder.module.globals:
        return builder.module.globals[name]
    return ir.Function(builder.module, ir.FunctionType(gives, takes), name)


def _typed_read(typing: Any) -> Any:
    def code(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        assert REGISTER is not None
        return emit_read(builder, REGISTER)

    return types.int64(), code


def _typed_write(typing: Any, value: Any) -> Any:
    def code(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        assert REGISTER is not None
        emit_write(builder, REGISTER, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), code


_read = cast("Callable[[], int]", intrinsic(_typed_read))
_write = cast("Callable[[int], None]", intrinsic(_typed_write))


@kernel
def _flush(bits: int) -> int:
    """Set these bits of the control register; what it was."""
    before = _read()
    _write(before | bits)
    return before


@kernel
def _restore(before: int) -> None:
    """Set the control register."""
    _write(before)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Denormal numbers count as zero in this thread, and afterwards as they did before.

    A machine of another kind warns, and goes on without.
    """
    if REGISTER is None:
        warnings.warn(
            f"denormal numbers are not flushed to zero on {binding.get_process_triple()}: learning is right, "
            "and may be several times slower",
            RuntimeWarning,
            stacklevel=3,
        )
        yield
        return
    before = _flush(REGISTER.flush)
    try:
        yield
    finally:
        _restore(before)
