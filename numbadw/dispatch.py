"""Which backend runs a call, and the plans bound so far.

A backend is two functions that turn a geometry, a dtype and strides into a *run*:
`bind_forward` into `run(inputs, kernel, bias, out, check) -> status`, `bind_gradients`
into `run(inputs, kernel, bias, grad, x_grad, w_grad, b_grad)`.  Backends are imported
when first asked for; an explicit choice never falls back to another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config

from numbadw import checks, threads
from numbadw.geometry import Geometry, PixelGeometry
from numbadw.memory import aligned_empty, dense_strides

Run = Callable[[Any, Any, Any, Any, int], int]
GradientRun = Callable[[Any, Any, Any, Any, Any, Any, Any], None]
# inputs, depthwise kernel and bias, pointwise kernel and bias, out.
SeparableRun = Callable[[Any, Any, Any, Any, Any, Any], None]

# What a run reports.
DONE, OVERLAPS, READ_ONLY, UNKNOWN = 0, 1, 2, 3
# What a run checks before it touches `out` (that it is writable, always): nothing else,
# that it does not overlap, and that both arrays are also of the kind the run is for.
NOTHING, OVERLAP, ARRAYS = 0, 1, 2


class BackendUnavailableError(RuntimeError):
    """The CUDA backend was asked for and cannot be used; the message says why."""


@functools.cache
def require_cuda() -> None:
    """Raise the error that says why the CUDA backend cannot be used, if it cannot."""
    from numbadw.cuda import device

    reason = device.problem()
    if reason:
        msg = (
            f"backend='cuda' is not available: {reason}; use backend='cpu' or 'auto' "
            "with NumPy arrays"
        )
        raise BackendUnavailableError(msg)


def choose_backend(backend: object, array: object) -> str:
    """Give the backend (`cpu`, `cuda`, `reference`) of a call that this array leads."""
    name = checks.backend(backend)
    if name == "cuda" or (name == "auto" and checks.is_device_array(array)):
        require_cuda()
        return "cuda"
    return "cpu" if name == "auto" else name


def without_cuda(target: str, what: str) -> str:
    """Return the target of a call that has no CUDA kernels, or raise on "cuda"."""
    if target == "cuda":
        msg = f"there are no CUDA kernels for {what}; use NumPy arrays, backend='cpu'"
        raise BackendUnavailableError(msg)
    return target


def on_device(backend: object, array: object) -> bool:
    """Tell whether a call takes its arrays where they lie, on a CUDA device."""
    if not checks.is_device_array(array):
        return False
    if checks.backend(backend) not in ("auto", "cuda"):
        return False
    require_cuda()
    return True


def cast_on_device(array: Any, dtype: np.dtype[Any], name: str) -> Any:
    """Give an array on a CUDA device in a dtype, by its own library."""
    from numbadw.cuda import arrays

    return arrays.cast(array, dtype.name, name)


def require_device(backend: object, array: object) -> None:
    """Raise where a call names a stream and takes no arrays on a CUDA device."""
    if not on_device(backend, array):
        msg = "stream must be None: it is for arrays on a CUDA device, these are not"
        raise ValueError(msg)


@functools.lru_cache(maxsize=4096)
@threads.undisturbed()
def bind_forward(
    backend: str,
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: str,
    parameter: float,
) -> Run:
    """Return the run of one forward problem on a backend, for NumPy arrays."""
    if takes_reference(backend, geometry):
        from numbadw.reference import forward

        return _bind_reference(
            forward,
            geometry,
            dtype,
            x_strides,
            o_strides,
            (activation, parameter),
        )
    if backend == "cuda":
        from numbadw.cuda import backend as target
    else:
        from numbadw import cpu as target  # type: ignore[no-redef]
    strides = x_strides, o_strides
    return target.bind_forward(geometry, dtype, *strides, activation, parameter)


@functools.lru_cache(maxsize=4096)
@threads.undisturbed()
def bind_gradients(
    backend: str,
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...] | None,
    g_strides: tuple[int, ...],
    x_grad_strides: tuple[int, ...] | None,
    activation: str,
    parameter: float,
    wanted: str,
) -> GradientRun:
    """Return the run of one backward problem on a backend, for NumPy arrays.

    `wanted` is "input" (writes x_grad), "kernel" (w_grad, and b_grad unless it is
    None) or "both" (all three).  `x_strides` is None where the run reads no inputs,
    `x_grad_strides` where it writes no gradient at them.  The run takes inputs, grad
    and x_grad of any strides and alignment in native byte order, all others
    C-contiguous and aligned; it checks nothing.
    """
    if takes_reference(backend, geometry):
        from numbadw.reference import gradients

        return _bind_reference_gradients(gradients, geometry, activation, parameter)
    if backend == "cuda":
        from numbadw.cuda import backend as cuda

        return cuda.bind_gradients(geometry, dtype, activation, parameter, wanted)
    from numbadw.cpu import bind_gradients as bind

    return bind(
        geometry,
        dtype,
        x_strides,
        g_strides,
        x_grad_strides,
        activation,
        parameter,
        wanted,
    )


@functools.lru_cache(maxsize=4096)
@threads.undisturbed()
def bind_pointwise(
    backend: str,
    geometry: PixelGeometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: str,
    parameter: float,
    packed: bool = False,
    accumulate: bool = False,
) -> Run:
    """Return the run of one 1x1 convolution; its kernel is (C, F).

    Or it is packed in panels, (panels, C, columns): see `panel_columns`.  It may add to
    what the result holds.
    """
    if takes_reference(backend, geometry):
        from numbadw.reference import pointwise

        return _bind_reference(
            functools.partial(pointwise, accumulate=accumulate),
            geometry,
            dtype,
            x_strides,
            o_strides,
            (activation, parameter),
        )
    from numbadw.cpu import bind_pointwise as bind

    strides = x_strides, o_strides
    return bind(geometry, dtype, *strides, activation, parameter, packed, accumulate)


def panel_columns(filters: int, dtype: np.dtype[Any]) -> int:
    """Return the columns of a panel of a packed (C, filters) kernel."""
    from numbadw.cpu import panel_columns as columns

    return columns(filters, dtype)


@functools.lru_cache(maxsize=4096)
@threads.undisturbed()
def bind_pointwise_gradients(
    backend: str,
    geometry: PixelGeometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    g_strides: tuple[int, ...],
    x_grad_strides: tuple[int, ...],
    activation: str,
    parameter: float,
) -> GradientRun:
    """Return the run that writes all three gradients of one 1x1 convolution.

    With an activation the channels or the columns of `grad` are neighbours.
    """
    if takes_reference(backend, geometry):
        from numbadw.reference import pointwise_gradients as run

        return _bind_reference_gradients(run, geometry, activation, parameter)
    from numbadw.cpu import bind_pointwise_gradients as bind

    strides = x_strides, g_strides, x_grad_strides
    return bind(geometry, dtype, *strides, activation, parameter)


@functools.lru_cache(maxsize=4096)
@threads.undisturbed()
def bind_separable(
    backend: str,
    geometry: Geometry,
    filters: int,
    dtype: np.dtype[Any],
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    activations: tuple[tuple[str, float], tuple[str, float]],
) -> SeparableRun:
    """Return the run of a depthwise and a pointwise convolution in one.

    `strides` are those of inputs and result, `activations` name and parameter of each.
    """
    pixels = PixelGeometry.after(geometry, filters)
    size = dtype.itemsize
    if not takes_reference(backend, geometry):
        from numbadw.cpu import bind_separable as bind

        run = bind(geometry, filters, dtype, strides, activations)
        if run is not None:
            return run
    between = dense_strides(geometry.output_shape, size)
    first = bind_forward(backend, geometry, dtype, strides[0], between, *activations[0])
    second = bind_pointwise(
        backend, pixels, dtype, between, strides[1], *activations[1]
    )

    def run_both(x: Any, dk: Any, db: Any, pk: Any, pb: Any, out: Any) -> None:
        middle = aligned_empty(geometry.output_shape, dtype, beside=x)
        first(x, dk, db, middle, NOTHING)
        second(middle, pk, pb, out, NOTHING)

    return run_both


def takes_reference(backend: str, geometry: Geometry | PixelGeometry) -> bool:
    """Tell whether plain NumPy runs a problem.

    Without a pixel there is nothing to be fast at, and NumPy's strides of 0 for empty
    arrays would have other kernels compiled.
    """
    return (
        backend == "reference" or bool(config.DISABLE_JIT) or 0 in geometry.input_shape
    )


def _bind_reference(
    forward: Callable[..., None],
    geometry: Geometry | PixelGeometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: tuple[str, float],
) -> Run:
    def work(x: Any, w: Any, b: Any, out: Any) -> None:
        forward(x, w, b, *activation, geometry, out)

    return checked_run(geometry, dtype, x_strides, o_strides, work)


def checked_run(
    geometry: Geometry | PixelGeometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    work: Callable[[Any, Any, Any, Any], None],
) -> Run:
    """Make a run that checks as asked and then does `work(inputs, kernel, bias, out)`.

    The CPU's own run does the same checks in compiled code.
    """
    kind = (geometry.input_shape, x_strides), (geometry.output_shape, o_strides)

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
        work(x, w, b, out)
        return DONE

    return run


def _bind_reference_gradients(
    gradients: Callable[..., None],
    geometry: Geometry | PixelGeometry,
    activation: str,
    parameter: float,
) -> GradientRun:
    def run(
        x: Any, w: Any, b: Any, g: Any, x_grad: Any, w_grad: Any, b_grad: Any
    ) -> None:
        gradients(x, w, b, g, activation, parameter, geometry, x_grad, w_grad, b_grad)

    return run
