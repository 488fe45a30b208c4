"""Pointwise (1x1) convolution: every pixel's channels times a matrix.

A call whose arguments were seen before costs one look-up (calls.py).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from numbadw import activations, checks
from numbadw.calls import Calls, aligned
from numbadw.dispatch import (
    NOTHING,
    OVERLAP,
    Run,
    bind_pointwise,
    bind_pointwise_gradients,
    choose_backend,
    without_cuda,
)
from numbadw.functional import settle
from numbadw.memory import (
    SMALL_BYTES,
    Maker,
    aligned_copy,
    aligned_empty,
    dense_strides,
    maker,
    require,
)

Array = npt.NDArray[Any]

Call = tuple[Run, Maker, tuple[int, int]]  # and the kernel's shape as a matrix
_calls: Calls[Call] = Calls()


def pointwise_conv2d(
    inputs: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    activation: Any = None,
    data_format: str = "channels_last",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Mix the channels of every pixel: a 1x1 convolution.

    Output channel f at (n, i, j) is `activation(bias[f] + sum over c of
    inputs[n, i, j, c] * kernel[c, f])`.

    Parameters
    ----------
    inputs : ndarray, shape (N, H, W, C), float32 or float64
        The images; (N, C, H, W) with `data_format="channels_first"`.  Any strides,
        alignment and byte order.
    kernel : ndarray, shape (1, 1, C, F) or (C, F)
        The weights (Keras' and TensorFlow's layout, or its matrix).  The dtype of
        `inputs`, or one that casts to it safely.
    bias : ndarray, shape (F,), optional
        Added to every output channel.
    activation, data_format, backend : optional
        As in `depthwise_conv2d`.
    out : ndarray, optional
        Where to write: exactly the result's shape and dtype, writable, apart from
        every input.

    Returns
    -------
    ndarray, shape (N, H, W, F) or (N, F, H, W)
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
    A tile of our own rather than NumPy's BLAS: bias and activation in the same pass,
    the thread setting of numbadw, and the same bits for any number of threads: sums
    run over C in order, in blocks of 256.  Cost: N * H * W * C * F multiply-adds;
    O(threads) of scratch.  Source: Van Zee and van de Geijn, "BLIS", ACM TOMS 41(3),
    2015.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((1, 14, 14, 8), np.float32)
    >>> ndw.pointwise_conv2d(x, np.ones((8, 32), np.float32), activation="relu6").shape
    (1, 14, 14, 32)
    """
    arrays = inputs, kernel, bias, out
    options = activations.canonical(activation), data_format, backend
    call = _calls.find(options, *arrays) if aligned(kernel, bias) else None
    if call is None:
        call, (x, w, b) = _check(*arrays, activation, data_format, backend)
        _calls.keep(call, options, arrays, (x, w, b, out))
    else:
        x, w, b = inputs, kernel.reshape(call[2]), bias
    run, make, _ = call
    if out is None:
        out = make(None)
        run(x, w, b, out, NOTHING)
        return out
    status = run(x, w, b, out, OVERLAP)
    if status:
        settle(status, run, x, w, b, out)
    return out


def _check(
    inputs: Any,
    kernel: Any,
    bias: Any,
    out: Any,
    activation: Any,
    data_format: Any,
    backend: Any,
) -> tuple[Call, tuple[Array, Array, Array | None]]:
    """Turn the user's arguments into a bound run and the arrays it takes."""
    target = without_cuda(choose_backend(backend, inputs), "pointwise convolution")
    first = checks.data_format(data_format)
    name, parameter = activations.resolve(activation)
    x = checks.input_array(inputs, "inputs")
    w, geometry = checks.pointwise_kernel(kernel, x.shape, first, x.dtype)
    b = checks.bias_array(bias, geometry.f, x.dtype, axis="F")
    shape = geometry.output_shape
    strides = dense_strides(shape, x.dtype.itemsize)
    if out is None:
        require(shape, x.dtype)
    else:
        strides = checks.out_array(
            out, shape, x.dtype, inputs=inputs, kernel=kernel, bias=bias
        ).strides
    run = bind_pointwise(target, geometry, x.dtype, x.strides, strides, name, parameter)
    return (run, maker(shape, x.dtype), (geometry.c, geometry.f)), (x, w, b)


def pointwise_conv2d_grad(
    inputs: Array,
    kernel: Array,
    grad: Array,
    *,
    bias: Array | None = None,
    activation: Any = None,
    data_format: str = "channels_last",
    backend: str = "auto",
) -> tuple[Array, Array, Array]:
    """Compute the gradients of a pointwise convolution at inputs, kernel and bias.

    They are those of `sum(grad * pointwise_conv2d(inputs, kernel, bias, ...))`.

    Parameters
    ----------
    inputs, kernel, bias, activation, data_format, backend : optional
        Those of the forward call: see `pointwise_conv2d`.
    grad : ndarray, shape of the forward call's result
        The gradient at the output.

    Returns
    -------
    inputs_grad : ndarray, shape of `inputs`
        New array of the dtype of `inputs`, as are the others.
    kernel_grad : ndarray, shape of `kernel`
    bias_grad : ndarray, shape (F,)
        Always given, whether or not there is a bias.

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
    Cost: 2 * N * H * W * C * F multiply-adds, half as many again with an activation,
    whose derivative is computed a band of pixels at a time.  The same bits for any
    number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x, kernel = np.ones((1, 4, 4, 8), np.float32), np.ones((8, 3), np.float32)
    >>> grad = np.ones((1, 4, 4, 3), np.float32)
    >>> [g.shape for g in ndw.pointwise_conv2d_grad(x, kernel, grad)]
    [(1, 4, 4, 8), (8, 3), (3,)]
    """
    target = without_cuda(choose_backend(backend, inputs), "pointwise convolution")
    first = checks.data_format(data_format)
    name, parameter = activations.resolve(activation)
    x = checks.input_array(inputs, "inputs")
    w, geometry = checks.pointwise_kernel(kernel, x.shape, first, x.dtype)
    b = checks.bias_array(bias, geometry.f, x.dtype, axis="F")
    g = checks.result_grad(grad, geometry.output_shape, x.dtype)
    require(x.shape, x.dtype)
    # A derivative is multiplied with whole vectors of the gradient.
    near = g.strides[3], g.strides[1 if first else 2]
    if name != "linear" and x.dtype.itemsize not in near:
        g = aligned_copy(g)
    x_grad = aligned_empty(x.shape, x.dtype, small=SMALL_BYTES)
    w_grad = aligned_empty(w.shape, x.dtype)
    b_grad = aligned_empty((geometry.f,), x.dtype)
    run = bind_pointwise_gradients(
        target,
        geometry,
        x.dtype,
        x.strides,
        g.strides,
        x_grad.strides,
        name,
        parameter,
    )
    run(x, w, b, g, x_grad, w_grad, b_grad)
    return x_grad, w_grad.reshape(kernel.shape), b_grad
