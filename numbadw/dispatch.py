"""Which backend runs a call, and the plans bound so far.

A backend is one function, `bind_forward`, that turns a geometry, a dtype and strides
into a *run*: `run(inputs, kernel, bias, out, force) -> status`.  Backends are imported
when first asked for; an explicit choice never falls back to another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config

from numbadw.geometry import Geometry

Run = Callable[[Any, Any, Any, Any, int], int]

# What a run reports; with `force` it skips the test for a possible overlap.
DONE, OVERLAPS, READ_ONLY = 0, 1, 2


class BackendUnavailableError(RuntimeError):
    """The CUDA backend was asked for and cannot be used; the message says why."""


def require_cuda() -> None:
    """Raise the error that says why the CUDA backend cannot be used."""
    msg = (
        "backend='cuda' is not available: this version of numbadw has no CUDA kernels; "
        "use backend='cpu' or 'auto' with NumPy arrays"
    )
    raise BackendUnavailableError(msg)


@functools.lru_cache(maxsize=4096)
def bind_forward(
    backend: str,
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: str,
    parameter: float,
) -> Run:
    """Return the run of one forward problem on a backend (`cpu` or `reference`)."""
    if backend == "reference" or config.DISABLE_JIT:
        return _bind_reference(geometry, activation, parameter)
    from numbadw.cpu import bind_forward as bind

    return bind(geometry, dtype, x_strides, o_strides, activation, parameter)


def _bind_reference(geometry: Geometry, activation: str, parameter: float) -> Run:
    from numbadw import reference

    def run(x: Any, w: Any, b: Any, out: Any, force: int) -> int:
        if not out.flags.writeable:
            return READ_ONLY
        inputs = [array for array in (x, w, b) if array is not None]
        if not force and any(np.may_share_memory(out, array) for array in inputs):
            return OVERLAPS
        reference.forward(x, w, b, activation, parameter, geometry, out)
        return DONE

    return run
