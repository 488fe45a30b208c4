"""One step of a causal convolution at a time: the state in, output and state out.

The state and the new inputs are copied side by side; their valid convolution is the
output, and all but the oldest of them are the new state, a view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw import activations, checks
from numbadw.calls import Calls
from numbadw.dispatch import NOTHING, Run, choose_backend, without_cuda
from numbadw.geometry import make_sequence_geometry
from numbadw.memory import (
    LEAST_KEPT,
    SMALL_BYTES,
    aligned_empty,
    dense_strides,
    require,
)
from numbadw.sequence.rank import bind_sequences, result_shape, state_size

Array = npt.NDArray[Any]
# What a step needs: its run, the shapes of its inputs and of its output, the dtype.
Step = tuple[Run, tuple[int, ...], tuple[int, ...], np.dtype[Any]]
_steps: Calls[Step] = Calls()


def depthwise_conv1d_update(
    state: Array,
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    dilation_rate: Any = 1,
    activation: Any = None,
) -> tuple[Array, Array]:
    """Give the next output of a causal convolution, and the state after it.

    The step of `depthwise_conv1d(..., padding="causal")` that reads the input `x`,
    with the same bits.

    Parameters
    ----------
    state : ndarray, shape (N, (k - 1) * dilation_rate, C)
        The inputs before `x`, oldest first; zeros at the start of a sequence.
    x : ndarray, shape (N, C), float32 or float64
        The next inputs.
    kernel : ndarray, shape (k, C, M)
        The filters.
    bias : ndarray, shape (C * M,), optional
        Added to every output channel.
    dilation_rate, activation : optional
        See `depthwise_conv1d`.

    Returns
    -------
    y : ndarray, shape (N, C * M)
        New array of the dtype of `x`.
    new_state : ndarray, shape of `state`
        New array: `state` without its oldest inputs, and `x`.

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x, kernel = np.ones((1, 5, 8), np.float32), np.ones((4, 8, 1), np.float32)
    >>> state = np.zeros((1, 3, 8), np.float32)
    >>> for step in range(5):
    ...     y, state = ndw.depthwise_conv1d_update(state, x[:, step], kernel)
    >>> whole = ndw.depthwise_conv1d(x, kernel, padding="causal")
    >>> np.array_equal(y, whole[:, -1])
    True
    """
    if type(dilation_rate) is not int:
        dilation_rate = checks.step(dilation_rate, "dilation_rate")
    options = dilation_rate, activations.canonical(activation)
    step = _steps.find(options, x, kernel, bias, state)
    if step is not None:
        return _take(step, x, kernel, bias, state)
    step, checked = _check(state, x, kernel, bias, dilation_rate, activation)
    _steps.keep(step, options, (x, kernel, bias, state), checked)
    return _take(step, *checked)


def _check(
    state: Any, x: Any, kernel: Any, bias: Any, dilation_rate: Any, activation: Any
) -> tuple[Step, tuple[Any, Any, Any, Any]]:
    """Turn the user's arguments into a bound step and the arrays it takes."""
    target = without_cuda(choose_backend("auto", x), "sequences in pieces")
    dilation = checks.step(dilation_rate, "dilation_rate")
    name, parameter = activations.resolve(activation)
    now = checks.input_array(x, "x", 2)
    w = checks.weight_array(kernel, "kernel", 3, now.dtype)
    n, c = now.shape
    size = state_size(w.shape, dilation)
    shape = n, size + 1, c
    geometry = make_sequence_geometry(shape, w.shape, 1, "valid", dilation, False)
    b = checks.bias_array(bias, geometry.out_channels, now.dtype)
    before = checks.state_array(state, "state", (n, size, c), now.dtype, "x")
    require(shape, now.dtype)
    o_shape = result_shape(geometry)
    itemsize = now.dtype.itemsize
    strides = dense_strides(shape, itemsize), dense_strides(o_shape, itemsize)
    run = bind_sequences(target, geometry, now.dtype, *strides, name, parameter)
    return (run, shape, o_shape, now.dtype), (now, w, b, before)


def _take(step: Step, x: Any, w: Any, b: Any, state: Any) -> tuple[Array, Array]:
    run, shape, o_shape, dtype = step
    window = aligned_empty(shape, dtype, small=LEAST_KEPT)  # aligning costs 0.7 us
    window[:, :-1] = state
    window[:, -1] = x
    y = aligned_empty(o_shape, dtype, small=SMALL_BYTES)
    run(window, w, b, y, NOTHING)
    return y[:, 0], window[:, 1:]
