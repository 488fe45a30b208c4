"""Thread bodies into machine code, and the machine code into a cache of our own.

numba-cuda turns a kernel into LTO-IR, nvJitLink that into a cubin; neither needs a
device.  Numba's own cache never finds kernels that hold intrinsics, so cubins are kept
in the folder that `jit.cache_folder` names, whose path carries a hash of our sources.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

from numba.core.compiler_lock import global_compiler_lock as compiling

from numbadw import interrupts, jit
from numbadw.cuda import emit, kernels
from numbadw.cuda.spec import Spec, argument_types

_PACKAGES = ("numba", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink")
# These compile for one architecture alone, and then best.
_SPECIFIC = (90, 100)


def arch(cc: int) -> str:
    """Return the architecture's name for a compute capability such as 90."""
    return f"sm_{cc}a" if cc in _SPECIFIC else f"sm_{cc}"


@functools.cache
def _versions() -> str:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name}={metadata.version(name)}")
    return " ".join(found)


def _path(spec: Spec, cc: int) -> Path | None:
    folder = jit.cache_folder()
    if folder is None:
        return None
    key = hashlib.sha256(f"{spec!r} {arch(cc)} {_versions()}".encode()).hexdigest()
    return folder / f"{spec.label}.{arch(cc)}.{key[:12]}.cubin"


def cubin(spec: Spec, cc: int) -> tuple[bytes, str]:
    """Return a kernel's machine code and its symbol, from the cache where it is there.

    Contract: never raises for the cache's sake; a file that is not a whole cubin is
    made again.
    """
    path = _path(spec, cc)
    if path is not None:
        with contextlib.suppress(OSError):
            code = path.read_bytes()
            symbol, _, body = code.partition(b"\n")
            digest, _, body = body.partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() == digest:
                return body, symbol.decode()
    body, name = compile_cubin(spec, cc)
    if path is not None:
        digest = hashlib.sha256(body).hexdigest().encode()
        _write(path, name.encode() + b"\n" + digest + b"\n" + body)
    return body, name


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(name, path)
        except OSError:
            os.unlink(name)


@compiling  # type: ignore[untyped-decorator]
def compile_cubin(spec: Spec, cc: int) -> tuple[bytes, str]:
    """Compile a kernel for a compute capability such as 90; needs no device."""
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda
    from numba.cuda import types

    with warnings.catch_warnings(), interrupts.held():
        warnings.simplefilter("ignore")
        kernel = kernels.make_body(spec, emit.cuda_target(cc))
        ltoir, _ = cuda.compile(
            kernel,
            types.void(*argument_types(spec)),
            device=False,
            abi="numba",
            output="ltoir",
            cc=divmod(cc, 10),
            launch_bounds=(spec.threads, spec.blocks),
        )
        options = LinkerOptions(arch=arch(cc), link_time_optimization=True)
        linked = Linker(ObjectCode.from_ltoir(ltoir), options=options).link("cubin")
    code = bytes(linked.code)
    return code, _symbol(code, spec.label)


def _symbol(code: bytes, label: str) -> str:
    """Find the kernel's mangled name among the strings of a cubin."""
    for part in code.split(b"\0"):
        if part.startswith(b".text.") and label.encode() in part:
            return part[len(b".text.") :].decode()
    msg = f"no kernel {label} in the compiled code"
    raise RuntimeError(msg)
