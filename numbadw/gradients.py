"""The public gradients: check, look the plan up, run.

A call whose arguments were seen before costs one look-up (calls.py).  The three
functions are one, `gradients`, that is asked for the gradient at the inputs, at the
kernel (and the bias), or for all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from numbadw import activations, checks, dispatch
from numbadw.calls import SHAPES, Calls, aligned
from numbadw.dispatch import GradientRun, choose_backend
from numbadw.functional import IMAGES, Options, Rank, canonical, device_functions
from numbadw.memory import Maker, dense_strides, maker, require

Array = npt.NDArray[Any]
# inputs, kernel, bias, grad and out, as given or as checked.
Arrays = tuple[Any, Any, Any, Any, Any]
# The gradients at inputs, kernel and bias; None where not wanted.
Results = tuple[Any, Any, Any]


class _Call(NamedTuple):
    """A checked call: what runs it and what it takes."""

    run: GradientRun
    dtype: np.dtype[Any]
    x_grad: Maker
    w_grad: Maker
    b_grad: Maker


_calls: Calls[_Call] = Calls()


def depthwise_conv2d_input_grad(
    grad: Array,
    kernel: Array,
    input_shape: tuple[int, int, int, int],
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
    data_format: str = "channels_last",
    out: Array | None = None,
    backend: str = "auto",
    stream: Any = None,
) -> Array:
    """Give the gradient at the inputs of `depthwise_conv2d`, from that at its result.

    At pixel (n, y, x, c) it is the sum of `grad[n, i, j, c * M + q] *
    kernel[ki, kj, c, q]` over all q and all pairs of outputs (i, j) and taps (ki, kj)
    that read this pixel; 0 where none does.  This is the transposed convolution, with
    no activation: multiply `grad` by the activation's derivative first, or call
    `depthwise_conv2d_grad`.

    Parameters
    ----------
    grad : ndarray, shape (N, oh, ow, C * M) or (N, C * M, oh, ow), float32 or float64
        The gradient at the result.  Any strides, alignment and byte order.
    kernel : ndarray, shape (kh, kw, C, M)
        The filters.  The dtype of `grad`, or one that casts to it safely.
    input_shape : (int, int, int, int)
        Shape of the inputs, which `grad` alone does not tell when strides exceed 1.
    strides, padding, dilation_rate, data_format, backend, stream : optional
        Those of the forward call: see `depthwise_conv2d`.
    out : ndarray, optional
        Where to write: exactly `input_shape` and the dtype of `grad`, writable, apart
        from `grad` and `kernel`.

    Returns
    -------
    ndarray, shape `input_shape`
        New array, or `out`.

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape, or an `out` that overlaps an input.
    BackendUnavailableError
        For `backend="cuda"` where it cannot run.

    Notes
    -----
    Cost: N * oh * ow * C * M * kh * kw multiply-adds.  Each result is within 4 eps
    sqrt(terms) sum(abs(grad) * abs(kernel)) of its at most kh * kw * M terms, with the
    same bits for any number of threads and on every run.  Extra memory: a copy of the
    kernel, and for channels first and odd strides dense copies of a band of images: a
    few MiB, or one image where it is larger.  Source: Dumoulin and Visin, "A guide to
    convolution arithmetic for deep learning", 2016, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> grad = np.ones((1, 16, 16, 16), np.float32)
    >>> kernel = np.ones((3, 3, 8, 2), np.float32)
    >>> options = {"strides": 2, "padding": "same"}
    >>> ndw.depthwise_conv2d_input_grad(grad, kernel, (1, 32, 32, 8), **options).shape
    (1, 32, 32, 8)
    """
    arrays = None, kernel, None, grad, out
    options = strides, padding, dilation_rate, data_format, None, backend
    result = gradients(IMAGES, "input", arrays, input_shape, options, stream)[0]
    return result if out is None else out


def depthwise_conv2d_kernel_grad(
    inputs: Array,
    grad: Array,
    kernel_shape: tuple[int, int, int, int],
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
    data_format: str = "channels_last",
    out: Array | None = None,
    backend: str = "auto",
    stream: Any = None,
) -> Array:
    """Give the gradient at the kernel of `depthwise_conv2d`, from that at its result.

    At tap (ki, kj, c, q) it is the sum over n, i, j of `inputs[n, i * sh + ki * dh -
    top, j * sw + kj * dw - left, c] * grad[n, i, j, c * M + q]`, where inputs outside
    the image count as zero.  No activation: see `depthwise_conv2d_input_grad`.

    Parameters
    ----------
    inputs : ndarray, shape (N, H, W, C) or (N, C, H, W), float32 or float64
        The images of the forward call.
    grad : ndarray, shape (N, oh, ow, C * M) or (N, C * M, oh, ow)
        The gradient at the result.  The dtype of `inputs`, or one that casts to it
        safely (a converted copy is made then).
    kernel_shape : (int, int, int, int)
        (kh, kw, C, M): `grad` alone does not tell the kernel's size.
    strides, padding, dilation_rate, data_format, backend, stream : optional
        Those of the forward call: see `depthwise_conv2d`.
    out : ndarray, optional
        Where to write: exactly `kernel_shape` and the dtype of `inputs`, writable,
        apart from `inputs` and `grad`.

    Returns
    -------
    ndarray, shape (kh, kw, C, M)
        New array, or `out`.

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape, or an `out` that overlaps an input.
    BackendUnavailableError
        For `backend="cuda"` where it cannot run.

    Notes
    -----
    Cost: N * oh * ow * C * M * kh * kw multiply-adds.  Each result is a sum of up to
    N * oh * ow terms, within 4 eps sqrt(terms) sum(abs(inputs) * abs(grad)): the sum
    goes in blocks, and where channels do not give enough parallel work, in at most 64
    parts that are then added in order.  Blocks and parts follow from the shapes alone,
    so the result has the same bits for any number of threads and on every run.  Extra
    memory: those parts, each of the kernel's size, and the copies of a band of images.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((1, 32, 32, 8), np.float32)
    >>> grad = np.ones((1, 16, 16, 16), np.float32)
    >>> options = {"strides": 2, "padding": "same"}
    >>> ndw.depthwise_conv2d_kernel_grad(x, grad, (3, 3, 8, 2), **options).shape
    (3, 3, 8, 2)
    """
    arrays = inputs, None, None, grad, out
    options = strides, padding, dilation_rate, data_format, None, backend
    result = gradients(IMAGES, "kernel", arrays, kernel_shape, options, stream)[1]
    return result if out is None else out


def depthwise_conv2d_grad(  # noqa: PLR0913  (public: one argument an option)
    inputs: Array,
    kernel: Array,
    grad: Array,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
    data_format: str = "channels_last",
    activation: Any = None,
    bias: Array | None = None,
    backend: str = "auto",
    stream: Any = None,
) -> tuple[Array, Array, Array]:
    """Give the gradients at inputs, kernel and bias of one `depthwise_conv2d` call.

    With an activation `f`, `grad` is first multiplied by `f'(z)`, where z, the result
    before the activation, is computed again inside: nothing of the forward call needs
    keeping but its inputs.  The rest is `depthwise_conv2d_input_grad` and
    `depthwise_conv2d_kernel_grad`; the bias's gradient is the sum over n, i, j.

    Parameters
    ----------
    inputs : ndarray, shape (N, H, W, C) or (N, C, H, W), float32 or float64
        The images of the forward call.
    kernel : ndarray, shape (kh, kw, C, M)
        The filters.
    grad : ndarray, shape (N, oh, ow, C * M) or (N, C * M, oh, ow)
        The gradient at the result.  The dtype of `inputs`, or one that casts to it
        safely (a converted copy is made then).
    strides, padding, dilation_rate, data_format, activation : optional
        Those of the forward call: see `depthwise_conv2d`.
    backend, stream : optional
        As there.
    bias : ndarray, shape (C * M,), optional
        The bias of the forward call.  It matters to an activation's derivative alone;
        None is no bias.

    Returns
    -------
    inputs_grad : ndarray, shape of `inputs`
        New array of the dtype of `inputs`, as are the others.
    kernel_grad : ndarray, shape (kh, kw, C, M)
    bias_grad : ndarray, shape (C * M,)
        Always given, whether or not there is a bias.

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape.
    BackendUnavailableError
        For `backend="cuda"` where it cannot run.

    Notes
    -----
    Cost: 2 * N * oh * ow * C * M * kh * kw multiply-adds, half as many again with an
    activation.  Accuracy, determinism and memory are those of the two functions, though
    the kernel's gradient may sum in another order than alone, where one pass over the
    arrays gives all; at a kink the derivative is 0 (relu, relu6, hard_*), for
    leaky_relu at 0 its slope.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((1, 32, 32, 8), np.float32)
    >>> kernel = np.ones((3, 3, 8, 2), np.float32)
    >>> grad = np.ones((1, 30, 30, 16), np.float32)
    >>> results = ndw.depthwise_conv2d_grad(x, kernel, grad, activation="relu")
    >>> [result.shape for result in results]
    [(1, 32, 32, 8), (3, 3, 8, 2), (16,)]
    """
    arrays = inputs, kernel, bias, grad, None
    options = strides, padding, dilation_rate, data_format, activation, backend
    return gradients(IMAGES, "both", arrays, None, options, stream)


def gradients(
    rank: Rank,
    wanted: str,
    given: Arrays,
    shape: Any,
    options: Options,
    stream: Any = None,
) -> Results:
    """Return the gradients at inputs, kernel and bias, None where not wanted.

    `wanted` is as in `dispatch.bind_gradients`, `shape` that of the gradient where no
    array tells it; all are those of images, and sequences have one row.
    """
    leader = given[3] if wanted == "input" else given[0]
    if stream is not None:
        dispatch.require_device(options[5], leader)
    if dispatch.on_device(options[5], leader):
        device = device_functions().gradients
        return cast(Results, device(rank, wanted, given, shape, options[:5], stream))
    known = wanted, _plain_shape(wanted, shape), canonical(rank, options)
    # `wanted` and their number tell which arrays these are, four at most.
    there = [array for array in given if array is not None]
    # A run takes inputs and grad of any alignment, and so does what writes into out.
    call = _calls.find(known, *there) if aligned(given[1], given[2]) else None
    arrays = given
    if call is None:
        call, arrays = _check(rank, wanted, given, shape, options)
        checked = [array for array in arrays if array is not None]
        _calls.keep(call, known, there, checked)
    elif given[4] is not None:
        _check_out(given, given[4].shape, call.dtype)
    return _run(wanted, call, arrays)


def _run(wanted: str, call: _Call, arrays: Arrays) -> Results:
    """Run a checked call, into new arrays where there is no out."""
    (x, w, b, g, out), run = arrays, call.run
    if wanted == "input":
        x_grad = call.x_grad(g) if out is None else out
        run(x, w, b, g, x_grad, None, None)
        return x_grad, None, None
    # An out that does not serve the sums has them copied to it.
    direct = out is not None and out.flags.carray
    w_grad = out if direct else call.w_grad(None)
    if wanted == "kernel":
        run(x, w, b, g, None, w_grad, None)
        if out is not None and not direct:
            out[...] = w_grad
        return None, w_grad, None
    x_grad, b_grad = call.x_grad(g), call.b_grad(None)
    run(x, w, b, g, x_grad, w_grad, b_grad)
    return x_grad, w_grad, b_grad


def _plain_shape(wanted: str, shape: Any) -> Any:
    """Give the shape that no array tells as a tuple of Python's integers, or None."""
    if shape is None or (type(shape) is tuple and {*map(type, shape)} == {int}):
        return shape
    return checks.shape(shape, *SHAPES[wanted])


def _check(
    rank: Rank, wanted: str, given: Arrays, shape: Any, options: Options
) -> tuple[_Call, Arrays]:
    """Turn the user's arguments into a bound run and the arrays it takes."""
    inputs, kernel, bias, grad, out = given
    strides, padding, dilation_rate, data_format, activation, backend = options
    target = choose_backend(backend, grad if wanted == "input" else inputs)
    channels_first = checks.data_format(data_format)
    steps = rank.steps(strides, "strides"), rank.steps(dilation_rate, "dilation_rate")
    pads = rank.padding(padding)
    name, parameter = activations.resolve(activation)
    x = w = None
    if wanted == "input":
        grad = checks.input_array(grad, "grad", rank.ndim)
        dtype = grad.dtype
        x_shape = checks.shape(shape, *SHAPES[wanted])
    else:
        x = checks.input_array(inputs, "inputs", rank.ndim)
        dtype, x_shape = x.dtype, x.shape
    if wanted == "kernel":
        w_shape = checks.shape(shape, *SHAPES[wanted])
    else:
        like = "grad" if wanted == "input" else "inputs"
        w = checks.weight_array(kernel, "kernel", rank.ndim, dtype, like)
        w_shape = w.shape
    geometry = rank.geometry(x_shape, w_shape, steps[0], pads, steps[1], channels_first)
    b = checks.bias_array(bias, geometry.out_channels, dtype)
    g = checks.grad_array(grad, geometry, dtype, rank.ndim)
    size = w_shape if wanted == "kernel" else x_shape
    o = None if out is None else _check_out(given, size, dtype)
    if out is None:
        require(size, dtype)
    x_grad_strides = dense_strides(x_shape, dtype.itemsize) if o is None else o.strides
    run = rank.bind_gradients(
        target,
        geometry,
        dtype,
        None if x is None else x.strides,
        g.strides,
        None if wanted == "kernel" else x_grad_strides,
        name,
        parameter,
        wanted,
    )
    shapes = geometry.input_shape, geometry.kernel_shape, (geometry.out_channels,)
    return _Call(run, dtype, *(maker(each, dtype) for each in shapes)), (x, w, b, g, o)


def _check_out(given: Arrays, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    inputs, kernel, _, grad, out = given
    return checks.out_array(out, shape, dtype, inputs=inputs, kernel=kernel, grad=grad)
