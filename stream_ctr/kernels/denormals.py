"""Flushes denormal numbers to zero, in the current thread and for the duration of a context.

First moments of inactive units decay into denormal numbers, which make every operation on them several times
slower. Code outside the training step (numpy's limits, for one) needs denormal numbers. Each thread has its
own floating-point control register, whose bits select the behaviour: MXCSR on x86 (Intel's manual, volume 1,
section 10.2.3), FPCR on 64-bit ARM (Arm's manual, D24.2).
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
    """The LLVM intrinsics that read and write a control register."""

    read: str
    write: str
    bits: int
    """Width of the register in bits."""
    in_memory: bool
    """Whether the intrinsics take a memory address; otherwise they return and take the value itself."""
    flush: int
    """Mask of the bits that flush denormal results and denormal operands to zero."""


_MXCSR: Final = Register("llvm.x86.sse.stmxcsr", "llvm.x86.sse.ldmxcsr", 32, True, 1 << 15 | 1 << 6)
_FPCR: Final = Register("llvm.aarch64.get.fpcr", "llvm.aarch64.set.fpcr", 64, False, 1 << 24)


def register_of(triple: str) -> Register | None:
    """The control register of a target triple's machine; None if the machine is unknown.

    >>> register_of("x86_64-unknown-linux-gnu").read, register_of("arm64-apple-darwin23").read
    ('llvm.x86.sse.stmxcsr', 'llvm.aarch64.get.fpcr')
    """
    machine = triple.partition("-")[0]
    return {"x86_64": _MXCSR, "aarch64": _FPCR, "arm64": _FPCR}.get(machine)


REGISTER: Final = register_of(binding.get_process_triple())
"""The control register of this machine."""


def emit_read(builder: ir.IRBuilder, register: Register) -> ir.Value:
    """Emit code that reads the register as 64 bits."""
    number = ir.IntType(register.bits)
    if not register.in_memory:
        value = builder.call(_intrinsic(builder, register.read, number, []), [])
    else:
        place = builder.alloca(number)
        builder.call(_intrinsic(builder, register.read, ir.VoidType(), [place.type]), [place])
        value = builder.load(place)
    return builder.zext(value, ir.IntType(64))


def emit_write(builder: ir.IRBuilder, register: Register, value: ir.Value) -> None:
    """Emit code that sets the register to the low bits of ``value``."""
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
    """Set these bits of the control register; returns its previous value."""
    before = _read()
    _write(before | bits)
    return before


@kernel
def _restore(before: int) -> None:
    """Set the control register."""
    _write(before)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers to zero in this thread; restore the previous behaviour at the end.

    On an unsupported machine, a warning is issued and nothing is flushed.
    """
    if REGISTER is None:
        warnings.warn(
            f"denormal numbers are not flushed to zero on {binding.get_process_triple()}: learning is "
            "correct, but may be several times slower",
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
