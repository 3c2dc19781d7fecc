"""The part of Triton that this project uses; Triton itself has no types."""

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

from triton import language as language

_Function = TypeVar("_Function", bound=Callable[..., object])

@overload
def jit(fn: _Function) -> _Function: ...
@overload
def jit(*, do_not_specialize: Sequence[str] = ...) -> Callable[[_Function], _Function]: ...
def compile(src: object, target: object = ...) -> CompiledKernel: ...

class CompiledKernel:
    asm: dict[str, str | bytes]
