"""Pointwise convolution with constant weights, packed once for all calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from numbadw import activations, checks
from numbadw.dispatch import (
    ARRAYS,
    Run,
    bind_pointwise,
    choose_backend,
    panel_columns,
    takes_reference,
    without_cuda,
)
from numbadw.functional import Prepared
from numbadw.geometry import PixelGeometry
from numbadw.memory import aligned_copy, aligned_empty, dense_strides, require

Array = npt.NDArray[Any]
# Bound calls that are kept; more kinds of arrays than this start over.
MOST_CALLS = 64


class PreparedPointwise:
    """What `prepare_pointwise_conv2d` returns: `prepared(inputs, out=None)`.

    The kernel is kept in the order in which the tile reads it, so a call packs nothing;
    with `out=` it also has less overhead than the function.  Safe for many threads.
    """

    def __init__(
        self,
        kernel: Array,
        bias: Array | None,
        activation: tuple[str, float],
        channels_first: bool,
        backend: str,
        accumulate: bool,
    ) -> None:
        self._options = activation, channels_first, backend
        self._accumulate = accumulate
        self.shape, self.dtype = kernel.shape, kernel.dtype
        self._bias = bias
        # With channels first the kernel is the factor that is not packed.
        self._packed = not channels_first
        self._kernel = pack(kernel) if self._packed else kernel
        self._calls: dict[tuple[Any, ...], Prepared] = {}
        self._last: tuple[Run, Array, Array | None] | None = None

    def __call__(self, inputs: Array, out: Array | None = None) -> Array:
        """Convolve `inputs`; both arguments are those of `pointwise_conv2d`.

        Raises
        ------
        TypeError
            As there, and for inputs of another dtype than the kernel's.
        ValueError
            As there.
        """
        plain = type(inputs) is ndarray and (out is None or type(out) is ndarray)
        if plain and out is not None:
            # The call made last tells by itself whether it fits.
            last = self._last
            if last is not None:
                run, kernel, bias = last
                if not run(inputs, kernel, bias, out, ARRAYS):  # done
                    return out
        call = None
        if plain:
            key: tuple[Any, ...] = inputs.shape, inputs.strides, inputs.dtype
            if out is not None:
                key += out.shape, out.strides, out.dtype
            call = self._calls.get(key)
        if call is None:
            inputs, call = self._bind(inputs, out)
            if plain:
                if len(self._calls) >= MOST_CALLS:
                    self._calls.clear()
                self._calls[key] = call
        if plain and out is not None:
            self._last = call.bound
        return call(inputs, out)

    def _bind(self, inputs: Any, out: Any) -> tuple[Array, Prepared]:
        """Check the arrays; return the inputs and a call for such ones."""
        activation, first, backend = self._options
        target = without_cuda(choose_backend(backend, inputs), "pointwise convolution")
        x = checks.input_array(inputs, "inputs")
        if x.dtype != self.dtype:
            raise TypeError(
                f"inputs must have the dtype that was prepared, {self.dtype}, got "
                f"{x.dtype}"
            )
        c, f = self.shape
        n, h, w, channels = (
            x.shape[axis] for axis in ((0, 2, 3, 1) if first else range(4))
        )
        if channels != c:
            raise ValueError(
                f"inputs must have {c} channels, those of the kernel of shape "
                f"{self.shape}, got shape {x.shape}"
            )
        geometry = PixelGeometry(n, h, w, c, f, first)
        shape = geometry.output_shape
        strides = dense_strides(shape, x.dtype.itemsize)
        if out is None:
            if self._accumulate:
                raise TypeError("out must be an ndarray to accumulate in, got None")
            require(shape, x.dtype)
        else:
            strides = checks.out_array(out, shape, x.dtype, inputs=inputs).strides
        # The tile's lanes are the kernel's columns where these are neighbours in `out`.
        near = strides[-1] == x.dtype.itemsize
        packed = self._packed and near and not takes_reference(target, geometry)
        kernel = self._kernel
        if self._packed and not packed:
            kernel = unpack(kernel, f)
        run = bind_pointwise(
            target,
            geometry,
            x.dtype,
            x.strides,
            strides,
            *activation,
            packed,
            self._accumulate,
        )
        return x, Prepared(run, kernel, self._bias, shape, x.dtype)


def prepare_pointwise_conv2d(
    kernel: Array,
    bias: Array | None = None,
    *,
    activation: Any = None,
    data_format: str = "channels_last",
    backend: str = "auto",
    accumulate: bool = False,
) -> PreparedPointwise:
    """Prepare a pointwise convolution whose weights stay as they are.

    `prepared = prepare_pointwise_conv2d(kernel, bias, ...)` copies the weights;
    `prepared(inputs, out)` then gives, bit for bit, what `pointwise_conv2d(inputs,
    kernel, bias, ..., out=out)` gave when they were copied.

    Parameters
    ----------
    kernel : ndarray, shape (1, 1, C, F) or (C, F), float32 or float64
        The weights; their dtype is that of all inputs.
    bias, activation, data_format, backend : optional
        As in `pointwise_conv2d`.
    accumulate : bool
        Add what `out` holds before the activation; `out` is then required.  A block
        that adds its input to its result needs no pass of its own for that.

    Returns
    -------
    PreparedPointwise
        A callable that takes `inputs` and `out`.

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape.

    Notes
    -----
    The function packs the kernel at every call, as it cannot know whether it changed:
    a fifth of the time at 7x7x1024 to 1024.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> mix = ndw.prepare_pointwise_conv2d(np.ones((8, 32), np.float32))
    >>> mix(np.ones((1, 14, 14, 8), np.float32)).shape
    (1, 14, 14, 32)
    """
    first = checks.data_format(data_format)
    target = checks.backend(backend)
    name, parameter = activations.resolve(activation)
    given = checks.input_array(kernel, "kernel", 2 if np.ndim(kernel) == 2 else 4)
    inner = given.shape[-2]
    shape = (1, inner, 1, 1) if first else (1, 1, 1, inner)
    matrix, geometry = checks.pointwise_kernel(given, shape, first, given.dtype)
    copy = aligned_copy(matrix)
    b = checks.bias_array(bias, geometry.f, copy.dtype, axis="F")
    b = None if b is None else aligned_copy(b)
    if not isinstance(accumulate, (bool, np.bool_)):
        raise TypeError(f"accumulate must be a bool, got {accumulate!r}")
    options = (name, parameter), first, target, bool(accumulate)
    return PreparedPointwise(copy, b, *options)


def pack(kernel: Array) -> Array:
    """Return (C, F) as panels of columns, (panels, C, columns), the last with zeros."""
    c, f = kernel.shape
    columns = panel_columns(f, kernel.dtype)
    count = -(-f // columns)
    panels = aligned_empty((count, c, columns), kernel.dtype)
    panels[-1] = 0
    for number in range(count):
        part = kernel[:, number * columns : (number + 1) * columns]
        panels[number, :, : part.shape[1]] = part
    return panels


def unpack(panels: Array, filters: int) -> Array:
    """Return the kernel (C, F) that `pack` made into panels."""
    rows = panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)
    return np.ascontiguousarray(rows[:, :filters])
