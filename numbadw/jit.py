"""The only place with Numba options, the target's vector width and the disk cache.

Every kernel is compiled as a C function of 64-bit integers and called by address, so
one compiled driver serves all of them and nothing is ever compiled twice.  Whatever
calls LLVM does so undisturbed (threads.py).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numba
from numba import njit
from numba.core import types
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    _CacheLocator,
)
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.extending import overload

from numbadw import threads

# NaN and infinities keep their meaning and sums keep their order (the emitters set
# the same flags), so results have the same bits everywhere.
FASTMATH = {"contract", "nsz"}


class Target(NamedTuple):
    """What Numba's target can do, read off the code it makes."""

    vector_bytes: int
    fused: bool  # has a fused multiply-add
    registers: int  # vector registers, 16 or 32
    permutes: bool = False  # any lanes of a vector to any others in one step (AVX2)


_PROBE = """
define void @probe(ptr %p) {
  %a = load <16 x float>, ptr %p, align 4
  %b = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %a, <16 x float> %a,
                                              <16 x float> %a)
  store <16 x float> %b, ptr %p, align 4
  ret void
}
define void @whole(ptr %p) {
  %a = load <8 x i32>, ptr %p, align 4
  %b = add <8 x i32> %a, %a
  store <8 x i32> %b, ptr %p, align 4
  ret void
}
declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""


@functools.cache
@threads.undisturbed()
def target() -> Target:
    """Return the vector width, registers and FMA of the CPU Numba compiles for.

    Read from the machine code of two vector sums rather than from names or feature
    lists, so NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are followed whatever they hold.
    """
    machine = cpu_target.target_context.codegen()._tm
    code = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    whole = re.search(r"\tvpadd\w\t.*%ymm", code) is not None
    if "zmm" in code:
        return Target(64, "vfmadd" in code, 32, True)
    if "ymm" in code:
        return Target(32, "vfmadd" in code, 16, whole)
    if "xmm" in code:
        return Target(16, "vfmadd" in code, 16)
    return Target(16, "fmla" in code, 32)


def _usable(folder: Path) -> bool:
    """Tell whether a cache folder exists or can be made, ours and writable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            return False
        if status.st_mode & 0o022 and os.name != "nt":
            return False
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _roots() -> list[Path]:
    chosen = os.environ.get("NUMBADW_CACHE_DIR")
    roots = [Path(chosen)] if chosen else []
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        roots.append(Path(os.environ["LOCALAPPDATA"]) / "numbadw" / "cache")
    elif os.environ.get("XDG_CACHE_HOME"):
        roots.append(Path(os.environ["XDG_CACHE_HOME"]) / "numbadw")
    elif home is not None and sys.platform == "darwin":
        roots.append(home / "Library" / "Caches" / "numbadw")
    elif home is not None:
        roots.append(home / ".cache" / "numbadw")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    with contextlib.suppress(OSError):  # no folder, or none with room
        roots.append(Path(tempfile.gettempdir()) / f"numbadw-{user}")
    return roots


@functools.cache
def source_hash() -> str:
    """Return a hash of every source file of the package.

    Numba's own key sees edits of the cached function's file only, and the emitters
    that shape the machine code live in other files.  Empty where there are no such
    files to read, as in a frozen program.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parent
    paths = sorted(package.rglob("*.py"))
    for path in paths:
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16] if paths else ""


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder of compiled code, or None where no folder can be used.

    NUMBADW_CACHE_DIR, then the user's cache folder, then one in the temporary folder
    made with mode 0700, but nowhere in the package; the last part names the version of
    the sources.  None, too, where NUMBADW_CACHE is 0, off, no or false, or the version
    is not known.
    """
    switch = os.environ.get("NUMBADW_CACHE", "").lower()
    if switch in ("0", "off", "no", "false") or not source_hash():
        return None
    package = Path(__file__).resolve().parent
    for root in _roots():
        folder = root / source_hash()
        if package in folder.resolve().parents:
            continue
        if _usable(root) and _usable(folder):
            return folder
    return None


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Place cached code in our folder, one index file per label, CPU and compiler.

    In an index that two of them shared, each would find the other's code too often:
    Numba keeps one version's entries alone, and has no lock for them.
    """

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        cpu = cpu_target.target_context.codegen().magic_tuple()
        key = (cpu, numba.__version__, llvmlite.__version__)
        return hashlib.sha256(repr(key).encode()).hexdigest()[:12]


class _CacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    """Numba's way to keep code, without its settings for where it lies."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        self._lineno = py_func.__code__.co_firstlineno
        self._locator = _Locator()
        name = f"{Path(inspect.getfile(py_func)).stem}.{py_func.__qualname__}"
        flags = getattr(sys, "abiflags", "")
        self._filename_base = self.get_filename_base(name, flags)


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's function cache in our folder; a damaged entry is a miss."""

    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:
            self._drop()
            with contextlib.suppress(Exception):
                super().save_overload(sig, data)

    def _drop(self) -> None:
        """Remove an index that cannot be read, so that another can be written."""
        try:
            os.unlink(self._cache_file._index_path)
        except OSError:
            return


def _cache_for(function: Callable[..., Any]) -> Any:
    return _Cache(function) if cache_folder() is not None else None


def compile_kernel(function: Callable[..., None], label: str) -> Any:
    """Compile `function(x, w, b, o, g, plan, first, last)` and return the C function.

    All eight arguments are int64: five addresses, the address of the plan's integers
    and the range of work items.  `label` names the symbol and the cache file.
    """
    function.__qualname__ = function.__name__ = label
    return compile_c_function(function, 8)


@threads.undisturbed()
def compile_c_function(function: Callable[..., None], count: int) -> Any:
    """Compile a function of `count` int64 arguments for calls from compiled code."""
    args, result = (types.int64,) * count, types.void
    options = {"nopython": True, "fastmath": FASTMATH}
    compiled = CFunc(function, (args, result), locals={}, options=options)
    cache = _cache_for(function)
    if cache is not None:
        compiled._cache = cache
    compiled.compile()
    if os.environ.get("NUMBADW_PRINT") in ("ir", "asm"):
        _show(compiled)
    return compiled


def _show(compiled: Any) -> None:
    """Write the kernel's LLVM IR or machine code to stderr (NUMBADW_PRINT)."""
    library = compiled._library
    asm = os.environ["NUMBADW_PRINT"] == "asm"
    text = library.get_asm_str() if asm else library.get_llvm_str()
    sys.stderr.write(f"; {compiled.__name__}\n{text}\n")


class Driver(NamedTuple):
    """A compiled function that Python calls, and whether it came from the disk."""

    call: Callable[..., Any]
    cached: bool


@threads.undisturbed()
def compile_driver(function: Callable[..., Any], signature: Any) -> Driver:
    """Compile a function that Python calls, for arguments of this signature alone.

    Numba's dispatcher would look at the types of the arguments, in 0.07 us, and find
    the one function that there is.
    """
    dispatcher = njit(nogil=True, fastmath=FASTMATH)(function)
    cache = _cache_for(function)
    if cache is not None:
        dispatcher._cache = cache
    dispatcher.compile(signature)
    (compiled,) = dispatcher.overloads.values()
    return Driver(compiled.entry_point, bool(dispatcher.stats.cache_hits))


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a Python function callable from kernels, literal arguments kept literal."""

    def same(*args: Any) -> Callable[..., Any]:
        return function

    overload(function, strict=False, prefer_literal=True)(same)
    return function
