"""The public functions: check, look the plan up, run.

A call whose arguments were seen before costs one look-up (calls.py).  Everything else
(checks, geometry, plan, compilation) happens on the first such call.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from numbadw import activations, checks
from numbadw.calls import Calls, as_given, exact
from numbadw.dispatch import (
    NOTHING,
    OVERLAP,
    OVERLAPS,
    READ_ONLY,
    GradientRun,
    Run,
    bind_forward,
    bind_gradients,
    choose_backend,
    on_device,
    require_device,
)
from numbadw.geometry import Geometry, make_geometry
from numbadw.memory import Maker, dense_strides, maker, require

Array = npt.NDArray[Any]

# strides, padding, dilation_rate, data_format, activation and backend.
Options = tuple[Any, Any, Any, Any, Any, Any]


class Rank(NamedTuple):
    """What tells images from sequences: how arguments are read, and what runs them."""

    ndim: int  # of inputs, kernel and result
    steps: Callable[[object, str], Any]  # reads strides and dilation_rate
    padding: Callable[[object], Any]
    geometry: Callable[..., Geometry]
    # As those of dispatch, for arrays of `ndim`.
    bind: Callable[..., Run]
    bind_gradients: Callable[..., GradientRun]
    shape: Callable[[Geometry], tuple[int, ...]]  # of the result


IMAGES = Rank(
    4,
    checks.pair,
    checks.padding,
    make_geometry,
    bind_forward,
    bind_gradients,
    operator.attrgetter("output_shape"),
)
_calls: Calls[tuple[Run, Maker]] = Calls()
_SIMPLE = (str, int)  # what paddings usually are


def depthwise_conv2d(  # noqa: PLR0913  (public: one argument an option)
    inputs: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
    data_format: str = "channels_last",
    activation: Any = None,
    out: Array | None = None,
    backend: str = "auto",
    stream: Any = None,
) -> Array:
    """Convolve every channel of a batch of images with its own filters.

    Output channel `c * M + q` at (n, i, j) is `activation(bias[c * M + q] + sum over
    ki, kj of inputs[n, i * sh + ki * dh - top, j * sw + kj * dw - left, c] *
    kernel[ki, kj, c, q])`, where inputs outside the image count as zero.  As in every
    neural network library the kernel is not flipped: this is a correlation.

    Parameters
    ----------
    inputs : ndarray, shape (N, H, W, C), float32 or float64
        The images; (N, C, H, W) with `data_format="channels_first"`.  Any strides,
        alignment and byte order; a dense array whose channels are neighbours is
        fastest, and best if its data starts on a 64-byte boundary.
    kernel : ndarray, shape (kh, kw, C, M)
        The filters, M of them a channel (Keras' and TensorFlow's layout).  The dtype
        of `inputs`, or one that casts to it safely.
    bias : ndarray, shape (C * M,), optional
        Added to every output channel.
    strides : int or (int, int), default 1
        Steps between outputs in input pixels, rows then columns; at least 1.
    padding : str, int or pairs, default "valid"
        "valid" (none), "same" (TensorFlow's rule: `ceil(size / stride)` outputs, the
        odd pixel at the bottom and right), an int, `(rows, columns)` or
        `((top, bottom), (left, right))`.
    dilation_rate : int or (int, int), default 1
        Steps between kernel taps in input pixels; may be combined with strides.
    data_format : {"channels_last", "channels_first"}, default "channels_last"
        Where the channels are, in `inputs` and in the result.
    activation : str or (str, float), optional
        Applied to the result: linear, relu, relu6, leaky_relu, elu, selu, sigmoid,
        hard_sigmoid, silu (swish), hard_silu (hard_swish), gelu (exact), tanh or
        softplus, as Keras 3 defines them; `("leaky_relu", 0.1)` gives a parameter.
    out : ndarray, optional
        Where to write: exactly the result's shape and dtype, writable, apart from
        every input.
    backend : {"auto", "cpu", "cuda", "reference"}, default "auto"
        "auto" is the GPU for arrays that lie on one, the CPU for NumPy arrays, which
        "cuda" copies there and back; "reference" is plain NumPy, slow and obvious.
    stream : int or stream, optional
        For arrays on a GPU: the CUDA stream to work on, its handle or an object of
        PyTorch, CuPy, Numba or cuda.core; by default the inputs' library's current one.

    Returns
    -------
    ndarray, shape (N, oh, ow, C * M) or (N, C * M, oh, ow)
        New array, or `out`; oh and ow as in `numbadw.geometry.output_size`.

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
    Direct convolution: no im2col, no FFT; beyond the result it needs O(threads x
    rows) of scratch, and none for dense channels_last arrays of many channels.
    Cost: N * oh * ow * C * M * kh * kw multiply-adds.  float32 accumulates in float32,
    within 4 eps sqrt(kh * kw) sum(abs(x) * abs(w)) before the activation.  The same
    bits for any number of threads.  The first call with a new kernel size, stride,
    dtype or activation compiles (a fraction of a second, kept on disk); new image
    sizes, channel counts and paddings do not.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((1, 32, 32, 8), np.float32)
    >>> kernel = np.ones((3, 3, 8, 2), np.float32)
    >>> ndw.depthwise_conv2d(x, kernel, strides=2, padding="same").shape
    (1, 16, 16, 16)
    """
    if stream is not None:
        require_device(backend, inputs)
    options = strides, padding, dilation_rate, data_format, activation, backend
    return convolve(IMAGES, inputs, kernel, bias, out, options, stream)


def convolve(
    rank: Rank,
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    out: Array | None,
    options: Options,
    stream: Any = None,
) -> Array:
    """Check the arguments as the user gave them, or know them again, and run."""
    strides, padding, dilation_rate, _, activation, _ = options
    # The usual options are told here: a call of `canonical` takes 0.1 us more.
    usual = (
        type(strides) is type(dilation_rate) is int
        and type(padding) in _SIMPLE
        and (activation is None or type(activation) is str)
    )
    known = options if usual else canonical(rank, options)
    call = _calls.find(known, inputs, kernel, bias, out)
    if call is not None:
        run, make = call
        if out is None:
            result = make(inputs)
            run(inputs, kernel, bias, result, NOTHING)
            return result
        status = run(inputs, kernel, bias, out, OVERLAP)
        if status:
            settle(status, run, inputs, kernel, bias, out)
        return out
    if on_device(options[5], inputs):
        arguments = inputs, kernel, bias, out
        result = device_functions().forward(rank, arguments, options[:5], stream)
        return cast(Array, result)
    run, shape, x, w, b, o = _check(rank, inputs, kernel, bias, out, options)
    make = maker(shape, x.dtype)
    result = make(x) if o is None else o
    run(x, w, b, result, NOTHING)
    _calls.keep((run, make), known, (inputs, kernel, bias, out), (x, w, b, o))
    return result if out is None else out


def canonical(rank: Rank, options: Options) -> Options:
    """Give options as `Calls` take them: equal only where they mean the same."""
    strides, padding, dilation_rate, data_format, activation, backend = options
    return (
        strides if exact(strides) else rank.steps(strides, "strides"),
        padding if exact(padding) else rank.padding(padding),
        dilation_rate
        if exact(dilation_rate)
        else rank.steps(dilation_rate, "dilation_rate"),
        data_format,
        activations.canonical(activation),
        backend,
    )


def prepare(
    rank: Rank, inputs: Array, kernel: Array, bias: Any, out: Any, options: Options
) -> Prepared:
    """Check a call and return it bound to the kernel and the bias.

    What is returned serves inputs and out of the same shapes, strides and dtypes
    as those given here; kernel and bias are read in place at each call, so they must be
    C-contiguous and of the inputs' dtype.  For arrays on a CUDA device it is the call
    itself, which keeps its own plans.
    """
    if on_device(options[5], inputs):
        functions = device_functions()
        known = functions.Options.of(rank, options[:5])

        def call(x: Any, target: Any) -> Any:
            return functions.forward(rank, (x, kernel, bias, target), known, None)

        return cast(Prepared, call)
    run, shape, x, w, b, _ = _check(rank, inputs, kernel, bias, out, options)
    if x.dtype != inputs.dtype or not (as_given(kernel, w) and as_given(bias, b)):
        msg = "a prepared call needs native, C-contiguous arrays of one dtype"
        raise ValueError(msg)
    return Prepared(run, kernel, bias, shape, x.dtype)


@functools.cache
def device_functions() -> Any:
    """Return the functions on device arrays, imported when first asked for."""
    from numbadw.cuda import functions

    return functions


class Prepared:
    """A plan bound to a kernel and a bias, which are read in place at each call.

    Calling it takes inputs, and `out` or None, of the shapes, strides and dtypes it was
    prepared for.  `bound` is its run, kernel and bias: with ARRAYS as the check a run
    takes any two NumPy arrays, and tells whether they are of that kind and fine.
    """

    __slots__ = ("_make", "bound")

    def __init__(
        self,
        run: Run,
        kernel: Array,
        bias: Array | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.bound = run, kernel, bias
        self._make = maker(shape, dtype)

    def __call__(self, x: Array, out: Array | None) -> Array:
        """Run, into a new array where `out` is None."""
        run, kernel, bias = self.bound
        if out is None:
            result = self._make(x)
            run(x, kernel, bias, result, NOTHING)
            return result
        status = run(x, kernel, bias, out, OVERLAP)
        if status:
            settle(status, run, x, kernel, bias, out)
        return out


def settle(
    status: int, run: Run, x: Array, w: Array, b: Array | None, out: Array
) -> None:
    """Run after all where the possible overlap is none, else raise."""
    checks.out_array(out, out.shape, out.dtype, inputs=x, kernel=w, bias=b)
    if status == OVERLAPS:
        run(x, w, b, out, NOTHING)
    elif status == READ_ONLY:
        msg = "out must be writable, got a read-only array"
        raise ValueError(msg)


Checked = tuple[Run, tuple[int, ...], Array, Array, Array | None, Array | None]


def _check(
    rank: Rank, inputs: Any, kernel: Any, bias: Any, out: Any, options: Options
) -> Checked:
    """Turn the user's arguments into a bound run, the result's shape and the arrays."""
    strides, padding, dilation_rate, data_format, activation, backend = options
    target = choose_backend(backend, inputs)
    channels_first = checks.data_format(data_format)
    steps = rank.steps(strides, "strides"), rank.steps(dilation_rate, "dilation_rate")
    pads = rank.padding(padding)
    name, parameter = activations.resolve(activation)
    x = checks.input_array(inputs, "inputs", rank.ndim)
    w = checks.weight_array(kernel, "kernel", rank.ndim, x.dtype)
    geometry = rank.geometry(x.shape, w.shape, steps[0], pads, steps[1], channels_first)
    b = checks.bias_array(bias, geometry.out_channels, x.dtype)
    shape = rank.shape(geometry)
    o = None
    if out is not None:
        o = checks.out_array(
            out, shape, x.dtype, inputs=inputs, kernel=kernel, bias=bias
        )
    else:
        require(shape, x.dtype)
    strides_out = dense_strides(shape, x.dtype.itemsize) if o is None else o.strides
    run = rank.bind(target, geometry, x.dtype, x.strides, strides_out, name, parameter)
    return run, shape, x, w, b, o
