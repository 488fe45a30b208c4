"""Plain NumPy with float64 sums: the oracle of every test and backend="reference".

Loops over kernel taps only; each tap adds the shifted image where it covers pixels:

    for i, j in taps:
        acc[:, rows, columns] += inputs[:, rows * sh + i * dh - pt, ...] * kernel[i, j]

The gradients walk the same pairs of outputs and pixels the other way round:

        x_grad[:, rows * sh + i * dh - pt, ...] += grad[:, rows, columns] * kernel[i, j]
        w_grad[i, j] = sum of grad[:, rows, columns] * inputs[:, rows * sh + ...]

Padding is left out by slicing, never multiplied, so that an infinite tap over padding
adds nothing and non-finite values reach only what they are really paired with.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw import activations
from numbadw.geometry import Geometry, PixelGeometry

Array = npt.NDArray[Any]
Slices = tuple[slice, slice, slice]


def forward(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    activation: str,
    parameter: float,
    geometry: Geometry,
    out: Array,
) -> None:
    """Write the convolution of `inputs` into `out`.

    Contract: arrays as `checks` returns them, of any strides, in the layout that
    `geometry` states; `activation` and `parameter` as `activations.resolve` returns
    them. The sums, bias and activation are float64; `out` is touched once, at the end.
    """
    with np.errstate(all="ignore"):
        result = _convolve(inputs, kernel, bias, geometry)
        result = activations.apply(result, activation, parameter)
        _channels_last(out, geometry)[...] = result


def gradients(
    inputs: Array | None,
    kernel: Array | None,
    bias: Array | None,
    grad: Array,
    activation: str,
    parameter: float,
    geometry: Geometry,
    x_grad: Array | None,
    w_grad: Array | None,
    b_grad: Array | None,
) -> None:
    """Write the gradients of `sum(grad * forward(...))` into those that are given.

    Contract: as `forward`. `inputs` and `kernel` may be None where nothing wanted
    depends on them: an activation needs both and the bias, `x_grad` the kernel,
    `w_grad` the inputs. All sums are float64; every result is touched once, at the end.
    """
    g = geometry
    with np.errstate(all="ignore"):
        inner = _channels_last(grad, g).astype(np.float64)
        if activation != "linear":
            before = _convolve(inputs, kernel, bias, g)
            inner *= activations.apply_derivative(before, activation, parameter)
        if b_grad is not None:
            b_grad[...] = _sum_pixels(inner)
        inner = inner.reshape(g.n, g.oh, g.ow, g.c, g.m)
        if x_grad is not None and kernel is not None:
            _channels_last(x_grad, g)[...] = _scatter(inner, kernel, g)
        if w_grad is not None and inputs is not None:
            w_grad[...] = _correlate(inner, inputs, g)


def pointwise(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    activation: str,
    parameter: float,
    geometry: PixelGeometry,
    out: Array,
    accumulate: bool = False,
) -> None:
    """Write the 1x1 convolution of `inputs` into `out`; contract as `forward`.

    `accumulate` adds what `out` holds before the activation.
    """
    with np.errstate(all="ignore"):
        result = _mix(inputs, kernel, bias, geometry)
        if accumulate:
            result = result + _channels_last(out, geometry)
        result = activations.apply(result, activation, parameter)
        _channels_last(out, geometry)[...] = result


def pointwise_gradients(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    grad: Array,
    activation: str,
    parameter: float,
    geometry: PixelGeometry,
    x_grad: Array,
    w_grad: Array,
    b_grad: Array,
) -> None:
    """Write the gradients of `sum(grad * pointwise(...))`; contract as `gradients`."""
    with np.errstate(all="ignore"):
        inner = _channels_last(grad, geometry).astype(np.float64)
        if activation != "linear":
            before = _mix(inputs, kernel, bias, geometry)
            inner *= activations.apply_derivative(before, activation, parameter)
        weights = kernel.astype(np.float64)
        _channels_last(x_grad, geometry)[...] = np.matmul(inner, weights.T)
        pixels = _channels_last(inputs, geometry).reshape(-1, geometry.c)
        inner = inner.reshape(-1, geometry.f)
        w_grad[...] = np.matmul(pixels.T.astype(np.float64), inner)
        b_grad[...] = _sum_pixels(inner[None, None])


def _mix(inputs: Array, kernel: Array, bias: Array | None, g: PixelGeometry) -> Array:
    """Give the float64 result before the activation, channels last."""
    images = _channels_last(inputs, g).astype(np.float64)
    result: Array = np.matmul(images, kernel.astype(np.float64))
    return result if bias is None else result + bias


def _convolve(inputs: Any, kernel: Any, bias: Array | None, g: Geometry) -> Array:
    """Give the float64 result before the activation, channels last."""
    images = _channels_last(inputs, g)
    taps = kernel.astype(np.float64)
    acc = np.zeros((g.n, g.oh, g.ow, g.c, g.m))
    for i, j, outputs, pixels in _windows(g):
        acc[outputs] += images[pixels][..., None] * taps[i, j]
    result = acc.reshape(g.n, g.oh, g.ow, g.out_channels)
    return result if bias is None else result + bias


def _scatter(inner: Array, kernel: Array, g: Geometry) -> Array:
    """Give the float64 gradient at the inputs, channels last."""
    taps = kernel.astype(np.float64)
    acc = np.zeros((g.n, g.h, g.w, g.c))
    for i, j, outputs, pixels in _windows(g):
        acc[pixels] += (inner[outputs] * taps[i, j]).sum(-1)
    return acc


def _correlate(inner: Array, inputs: Array, g: Geometry) -> Array:
    """Give the float64 gradient at the kernel."""
    images = _channels_last(inputs, g)
    acc = np.zeros(g.kernel_shape)
    for i, j, outputs, pixels in _windows(g):
        rows = np.einsum("nhwc,nhwcm->cmnh", images[pixels], inner[outputs])
        acc[i, j] = rows.reshape(g.c, g.m, -1).sum(-1)
    return acc


def _sum_pixels(array: Array) -> Array:
    """Sum (n, h, w, c) over all pixels.

    Along a contiguous last axis NumPy adds in pairs; along others one by one, which
    put a float64 sum of 2,303 equal numbers 229 eps off.
    """
    pixels = array.reshape(-1, array.shape[-1])
    total: Array = np.ascontiguousarray(pixels.T).sum(1)
    return total


def _channels_last(array: Array, g: Geometry | PixelGeometry) -> Array:
    """View images as (n, h, w, c)."""
    return array.transpose(0, 2, 3, 1) if g.channels_first else array


def _windows(g: Geometry) -> Iterator[tuple[int, int, Slices, Slices]]:
    """Yield each tap (i, j) with the outputs it adds to and the pixels it reads."""
    every = slice(None)
    for i in range(g.kh):
        rows, input_rows = _covered(g.oh, g.h, g.sh, i * g.dh - g.pt)
        for j in range(g.kw):
            columns, input_columns = _covered(g.ow, g.w, g.sw, j * g.dw - g.pl)
            yield i, j, (every, rows, columns), (every, input_rows, input_columns)


def _covered(steps: int, size: int, stride: int, shift: int) -> tuple[slice, slice]:
    """Pair the outputs r with inputs r * stride + shift, where these exist."""
    first = max(0, -(shift // stride))
    last = min(steps - 1, (size - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    start, stop = first * stride + shift, last * stride + shift + 1
    return slice(first, last + 1), slice(start, stop, stride)
