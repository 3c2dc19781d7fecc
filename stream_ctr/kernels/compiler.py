"""Every process runs kernels that it loaded from files, including the process that compiled them.

Numba by default runs the code that it has just compiled, and only later processes load the file. The last
bits of their results can differ. A kernel's object file contains copies of the functions that the kernel
calls, and the linker keeps one function of each name for the whole process. In a process that compiles, this
is the function compiled on its own, which LLVM optimized once. In a process that loads, it is the copy in the
first kernel loaded, which LLVM optimized again together with that kernel: the order of loading matters as
well.

Here these copies are private to their object file, so the file alone determines the results of a kernel. The
compiled form is not linked into the process. If several processes compile a kernel at the same time, all
of them load the file that was completed first.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llvmlite import binding
from numba import core
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary

from stream_ctr.kernels import cache
from stream_ctr.kernels.sources import Sources

_COPIES: Final = frozenset(
    (
        *(binding.Linkage.linkonce_any, binding.Linkage.linkonce_odr),
        *(binding.Linkage.weak_any, binding.Linkage.weak_odr),
    )
)
"""Linkages of functions that other object files may also define."""
_core: Final[Any] = core  # Numba's internals have no types
_SOURCES: Final = Sources(cache.PACKAGE)


class ObjectFile(JITCodeLibrary):
    """Compiled code that is only serialised and never linked into the process."""

    def _finalize_final_module(self: Any) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True
        self._get_module_for_linking()  # a clone for the kernels that call this one; they merge copies
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage in _COPIES:
                function.linkage = binding.Linkage.internal
        self._compiled_object = self._codegen._tm.emit_object(self._final_module)


class KernelFiles(NullCache):
    """The files of one kernel, one for each signature; replaces Numba's own cache."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Read the sources now, because now they are the ones being imported."""
        self._function = function
        self._sources = _SOURCES.digest(Path(inspect.getfile(function)).absolute())

    @property
    def cache_path(self) -> str:
        """The folder; empty if there is none."""
        return str(cache.folder() or "")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kernel for a signature, loaded from its file; None without a usable file."""
        target_context.refresh()
        arguments, returns = _core.sigutils.normalize_signature(sig)
        content = cache.read(self._name(arguments, returns))
        return None if content is None else _loaded(content, arguments, target_context)

    def exchange(self, compiled: Any, arguments: Any, returns: Any, target_context: Any) -> Any:
        """Write the compiled kernel and return the one loaded from the file."""
        content = _core.serialize.dumps(compiled._reduce())
        kept = cache.keep(self._name(arguments, returns), content)
        return _loaded(kept, arguments, target_context) or _loaded(content, arguments, target_context)

    def flush(self) -> None:
        """Delete the files of all signatures."""
        cache.remove(self._label() + "-")

    def _label(self) -> str:
        module = self._function.__module__.removeprefix(f"{cache.PACKAGE.name}.")
        return f"{module}.{self._function.__qualname__}".replace("<locals>.", "")

    def _name(self, arguments: Any, returns: Any) -> str:
        code, cells = self._function.__code__, self._function.__closure__ or ()
        digest = hashlib.blake2b(self._sources, digest_size=16)
        for part in (
            f"{self._label()} {code.co_firstlineno} {arguments} {returns}".encode(),
            code.co_code,
            _core.serialize.dumps(tuple(cell.cell_contents for cell in cells)) if cells else b"",
        ):
            digest.update(len(part).to_bytes(8, "little") + part)
        return f"{self._label()}-{digest.hexdigest()}"


def load_only(dispatcher: Any) -> None:
    """Let a Numba function run only what was loaded from its files."""
    files = dispatcher._cache = KernelFiles(dispatcher.py_func)
    dispatcher._compiler._compile_core = functools.partial(_compile, dispatcher, files)


def _compile(dispatcher: Any, files: KernelFiles, arguments: Any, returns: Any) -> Any:
    """Compile for Numba's dispatcher, but return the kernel loaded from the file."""
    target, context = dispatcher.targetdescr, dispatcher.targetctx
    flags = _core.compiler.Flags()
    target.options.parse_as_flags(flags, dispatcher.targetoptions)
    flags.no_compile = True  # create no executable form
    create: Any = ObjectFile
    library = create(context.codegen(), dispatcher.py_func.__qualname__)
    library.enable_object_caching()
    compiled = _core.compiler.compile_extra(
        target.typing_context,
        context,
        dispatcher.py_func,
        args=arguments,
        return_type=returns,
        flags=flags,
        locals=dispatcher.locals,
        library=library,
        pipeline_class=dispatcher._compiler.pipeline_class,
    )
    if compiled.library.has_dynamic_globals:
        raise TypeError(
            f"kernel {dispatcher.py_func.__qualname__} uses an address of this process (a ctypes function or "
            "a large global array), so other processes cannot run it; pass the object as an argument"
        )
    loaded = files.exchange(compiled, arguments, returns, context)
    context.insert_user_function(loaded.entry_point, loaded.fndesc, [loaded.library])
    return loaded


def _loaded(content: bytes, arguments: Any, target_context: Any) -> Any:
    """The kernel from a file's content; None if it cannot be loaded or has other argument types."""
    try:
        parts = _core.serialize.loads(content)
    except Exception:  # unpickling may raise anything
        return None
    loaded: Any = _core.compiler.CompileResult._rebuild(target_context, *parts)
    return loaded if tuple(loaded.signature.args) == tuple(arguments) else None
