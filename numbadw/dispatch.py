"""Which backend runs a call, and the plans bound so far.

A backend is one function, `bind_forward`, that turns a geometry, a dtype and strides
into a *run*: `run(inputs, kernel, bias, out, check) -> status`.  Backends are imported
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

# What a run reports.
DONE, OVERLAPS, READ_ONLY, UNKNOWN = 0, 1, 2, 3
# What a run checks before it touches `out` (that it is writable, always): nothing else,
# that it does not overlap, and that both arrays are also of the kind the run is for.
NOTHING, OVERLAP, ARRAYS = 0, 1, 2


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
        kind = (geometry.input_shape, x_strides), (geometry.output_shape, o_strides)
        return _bind_reference(geometry, dtype, kind, activation, parameter)
    from numbadw.cpu import bind_forward as bind

    return bind(geometry, dtype, x_strides, o_strides, activation, parameter)


def _bind_reference(
    geometry: Geometry,
    dtype: np.dtype[Any],
    kind: Any,
    activation: str,
    parameter: float,
) -> Run:
    from numbadw import reference

    def run(x: Any, w: Any, b: Any, out: Any, check: int) -> int:
        if check == ARRAYS and (
            (x.shape, x.strides) != kind[0]
            or (out.shape, out.strides) != kind[1]
            or not x.dtype == out.dtype == dtype
        ):
            return UNKNOWN
        if not out.flags.writeable:
            return READ_ONLY
        inputs = [array for array in (x, w, b) if array is not None]
        if check and any(np.may_share_memory(out, array) for array in inputs):
            return OVERLAPS
        reference.forward(x, w, b, activation, parameter, geometry, out)
        return DONE

    return run
