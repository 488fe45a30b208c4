"""Separable convolution: a depthwise convolution, then a pointwise one, in one pass."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy.typing as npt

from numbadw import activations, checks
from numbadw.calls import Calls, aligned, kind
from numbadw.dispatch import SeparableRun, bind_separable, choose_backend, without_cuda
from numbadw.functional import IMAGES, canonical, depthwise_conv2d
from numbadw.geometry import make_geometry
from numbadw.gradients import depthwise_conv2d_grad
from numbadw.memory import SMALL_BYTES, aligned_empty, dense_strides, require
from numbadw.pointwise import pointwise_conv2d_grad

Array = npt.NDArray[Any]
# Bytes of the depthwise result that the gradients keep at a time, or one image.
BAND_BYTES = 8 * 1024 * 1024


Arrays = tuple[Array, Array, Array | None, Array, Array | None]


class _Call(NamedTuple):
    run: SeparableRun
    shape: tuple[int, ...]  # of the result
    matrix: tuple[int, int]  # of the pointwise kernel


_calls: Calls[_Call] = Calls()


def separable_conv2d(
    inputs: Array,
    depthwise_kernel: Array,
    pointwise_kernel: Array,
    bias: Array | None = None,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
    depthwise_bias: Array | None = None,
    depthwise_activation: Any = None,
    activation: Any = None,
    data_format: str = "channels_last",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Convolve every channel by itself, then mix the channels of every pixel.

    The result is that of `pointwise_conv2d(depthwise_conv2d(inputs, depthwise_kernel,
    depthwise_bias, ..., activation=depthwise_activation), pointwise_kernel, bias,
    activation=activation)`; large images go through both a band of rows at a time, so
    that what lies between never leaves the cache.

    Parameters
    ----------
    inputs : ndarray, shape (N, H, W, C), float32 or float64
        The images; (N, C, H, W) with `data_format="channels_first"`.
    depthwise_kernel : ndarray, shape (kh, kw, C, M)
        The filters of each channel.
    pointwise_kernel : ndarray, shape (1, 1, C * M, F) or (C * M, F)
        The weights that mix the channels.
    bias : ndarray, shape (F,), optional
        Added to every output channel.
    strides, padding, dilation_rate : optional
        Of the depthwise convolution: see `depthwise_conv2d`.
    depthwise_bias : ndarray, shape (C * M,), optional
        Added to the depthwise result.
    depthwise_activation, activation : str or (str, float), optional
        Applied to the depthwise result, and to the result.
    data_format, out, backend : optional
        As in `depthwise_conv2d`.

    Returns
    -------
    ndarray, shape (N, oh, ow, F) or (N, F, oh, ow)
        New array, or `out`.

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape, or an `out` that overlaps an input.
    BackendUnavailableError
        For `backend="cuda"` and device arrays: there are no CUDA kernels for it.

    Notes
    -----
    Cost: N * oh * ow * C * M * (kh * kw + F) multiply-adds.  Channels last needs 256
    KiB of scratch a thread; images too small to be cut into bands, and channels first,
    an array of the size of the depthwise result.  The same bits for any number of
    threads.  Source: Howard et al., "MobileNets", 2017, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((1, 32, 32, 8), np.float32)
    >>> depthwise = np.ones((3, 3, 8, 1), np.float32)
    >>> pointwise = np.ones((1, 1, 8, 16), np.float32)
    >>> ndw.separable_conv2d(x, depthwise, pointwise, strides=2, padding="same").shape
    (1, 16, 16, 16)
    """
    arrays = inputs, depthwise_kernel, depthwise_bias, pointwise_kernel, bias
    options = strides, padding, dilation_rate, data_format, activation, backend
    known = (
        canonical(IMAGES, options),
        activations.canonical(depthwise_activation, "depthwise_activation"),
        kind(bias),
        kind(out),
    )
    call = None
    if aligned(depthwise_kernel, depthwise_bias) and aligned(pointwise_kernel, bias):
        call = _calls.find(known, *arrays[:4])
    if call is None:
        call, checked = _bind(arrays, out, (depthwise_activation, *options))
        _calls.keep(call, known, (*arrays, out), (*checked, out))
    else:
        checked = *arrays[:3], pointwise_kernel.reshape(call.matrix), bias
    return _run(call, checked, arrays, out)


def _run(call: _Call, checked: Arrays, given: tuple[Any, ...], out: Any) -> Array:
    """Run a checked call, into a new array where `out` is None."""
    if out is None:
        result = aligned_empty(call.shape, checked[0].dtype, small=SMALL_BYTES)
        call.run(*checked, result)
        return result
    call.run(*checked, _check_out(given, out, call.shape, checked[0].dtype))
    return out  # type: ignore[no-any-return]


class PreparedSeparable:
    """A plan bound to kernels and biases, which are read in place at each call."""

    def __init__(self, call: _Call, checked: Arrays) -> None:
        self._call, self._weights = call, checked[1:]

    @property
    def bound(self) -> None:
        """Give nothing: the arrays must be looked at before a run."""

    def __call__(self, x: Array, out: Array | None) -> Array:
        """Run on inputs, and `out` or None, of the kinds it was prepared for."""
        arrays = (x, *self._weights)
        return _run(self._call, arrays, arrays, out)


def prepare_separable(
    given: tuple[Any, ...], out: Any, options: tuple[Any, ...]
) -> PreparedSeparable:
    """Check a call and return it bound to its weights, C-contiguous and native."""
    return PreparedSeparable(*_bind(given, out, options))


def _bind(
    given: tuple[Any, ...], out: Any, options: tuple[Any, ...]
) -> tuple[_Call, Arrays]:
    """Turn the user's arguments into a bound run and the arrays it takes."""
    first, strides, padding, dilation_rate, data_format, second, backend = options
    target = without_cuda(choose_backend(backend, given[0]), "separable convolution")
    channels_first = checks.data_format(data_format)
    steps = checks.pair(strides, "strides"), checks.pair(dilation_rate, "dilation_rate")
    pads = checks.padding(padding)
    names = (
        activations.resolve(first, "depthwise_activation"),
        activations.resolve(second),
    )
    x = checks.input_array(given[0], "inputs")
    kernel = checks.weight_array(given[1], "depthwise_kernel", 4, x.dtype)
    g = make_geometry(
        x.shape, kernel.shape, steps[0], pads, steps[1], channels_first, _KERNEL
    )
    between = checks.bias_array(given[2], g.out_channels, x.dtype, "depthwise_bias")
    matrix, pixels = checks.pointwise_kernel(
        given[3], g.output_shape, channels_first, x.dtype, "pointwise_kernel"
    )
    bias = checks.bias_array(given[4], pixels.f, x.dtype, axis="F")
    shape = pixels.output_shape
    o_strides = dense_strides(shape, x.dtype.itemsize)
    if out is None:
        require(shape, x.dtype)
    else:
        o_strides = _check_out(given, out, shape, x.dtype).strides
    run = bind_separable(target, g, pixels.f, x.dtype, (x.strides, o_strides), names)
    return _Call(run, shape, matrix.shape), (x, kernel, between, matrix, bias)


_KERNEL = "depthwise_kernel"


def _check_out(
    given: tuple[Any, ...], out: Any, shape: tuple[int, ...], dtype: Any
) -> Array:
    names = ("inputs", _KERNEL, "depthwise_bias", "pointwise_kernel", "bias")
    return checks.out_array(out, shape, dtype, **dict(zip(names, given, strict=True)))


def separable_conv2d_grad(
    inputs: Array,
    depthwise_kernel: Array,
    pointwise_kernel: Array,
    grad: Array,
    *,
    bias: Array | None = None,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
    depthwise_bias: Array | None = None,
    depthwise_activation: Any = None,
    activation: Any = None,
    data_format: str = "channels_last",
    backend: str = "auto",
) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the gradients of a separable convolution at all that it takes.

    They are those of `sum(grad * separable_conv2d(...))`.

    Parameters
    ----------
    inputs, depthwise_kernel, pointwise_kernel, bias, depthwise_bias : ndarray
        Those of the forward call, as are all options: see `separable_conv2d`.
    grad : ndarray, shape of the forward call's result
        The gradient at the output.
    strides, padding, dilation_rate, data_format, backend : optional
        As in `separable_conv2d`.
    depthwise_activation, activation : optional
        As in `separable_conv2d`.

    Returns
    -------
    inputs_grad : ndarray, shape of `inputs`
        New array of the dtype of `inputs`, as are the others.
    depthwise_kernel_grad : ndarray, shape of `depthwise_kernel`
    pointwise_kernel_grad : ndarray, shape of `pointwise_kernel`
    depthwise_bias_grad : ndarray, shape (C * M,)
        Given whether or not there is a bias, as is the next.
    bias_grad : ndarray, shape (F,)

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape.
    BackendUnavailableError
        For `backend="cuda"` and device arrays: there are no CUDA kernels for it.

    Notes
    -----
    The depthwise result and its gradient are computed anew for some images at a time:
    8 MiB of them, or one image.  The same bits for any number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((1, 8, 8, 4), np.float32)
    >>> kernels = np.ones((3, 3, 4, 1), np.float32), np.ones((4, 2), np.float32)
    >>> grad = np.ones((1, 6, 6, 2), np.float32)
    >>> [g.shape for g in ndw.separable_conv2d_grad(x, *kernels, grad)]
    [(1, 8, 8, 4), (3, 3, 4, 1), (4, 2), (4,), (2,)]
    """
    given = inputs, depthwise_kernel, depthwise_bias, pointwise_kernel, bias
    first: dict[str, Any] = {
        "strides": strides,
        "padding": padding,
        "dilation_rate": dilation_rate,
    }
    both: dict[str, Any] = {"data_format": data_format, "backend": backend}
    steps = strides, padding, dilation_rate
    options = (depthwise_activation, *steps, data_format, activation, backend)
    call, (x, kernel, between, matrix, b) = _bind(given, None, options)
    g = checks.result_grad(grad, call.shape, x.dtype)
    first |= {**both, "activation": depthwise_activation}
    second = {**both, "activation": activation}
    step = max(1, BAND_BYTES // _image_bytes(x, kernel, first))
    x_grad = aligned_empty(x.shape, x.dtype, small=SMALL_BYTES)
    sums: list[Array] = []
    for n in range(0, max(1, len(x)), step):
        images = x[n : n + step]
        middle = depthwise_conv2d(images, kernel, between, **first)
        inner, *others = pointwise_conv2d_grad(
            middle, matrix, g[n : n + step], bias=b, **second
        )
        part, *more = depthwise_conv2d_grad(
            images, kernel, inner, bias=between, **first
        )
        x_grad[n : n + step] = part
        some = [more[0], others[0], more[1], others[1]]
        sums = [a + b for a, b in zip(sums, some, strict=True)] if sums else some
    k_grad, m_grad, between_grad, b_grad = sums
    return x_grad, k_grad, m_grad.reshape(pointwise_kernel.shape), between_grad, b_grad


def _image_bytes(x: Array, kernel: Array, options: dict[str, Any]) -> int:
    """Return the bytes of one image's depthwise result."""
    geometry = make_geometry(
        (1, *x.shape[1:]),
        kernel.shape,
        checks.pair(options["strides"], "strides"),
        checks.padding(options["padding"]),
        checks.pair(options["dilation_rate"], "dilation_rate"),
        checks.data_format(options["data_format"]),
    )
    return math.prod(geometry.output_shape) * x.dtype.itemsize
