"""The gradients of sequences."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from numbadw.gradients import gradients
from numbadw.sequence.rank import SEQUENCES

Array = npt.NDArray[Any]


def depthwise_conv1d_grad(  # noqa: PLR0913  (public: one argument an option)
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
    """Give the gradients at inputs, kernel and bias of one `depthwise_conv1d` call.

    What `depthwise_conv2d_grad` computes, for images of one row.  There is no gradient
    at a state: a sequence in pieces is the whole sequence here.

    Parameters
    ----------
    inputs : ndarray, shape (N, L, C) or (N, C, L), float32 or float64
        The sequences of the forward call.
    kernel : ndarray, shape (k, C, M)
        The filters.
    grad : ndarray, shape (N, length, C * M) or (N, C * M, length)
        The gradient at the result.  The dtype of `inputs`, or one that casts to it
        safely (a converted copy is made then).
    strides, padding, dilation_rate, data_format, activation : optional
        Those of the forward call: see `depthwise_conv1d`.
    backend, stream : optional
        As there.
    bias : ndarray, shape (C * M,), optional
        The bias of the forward call.  It matters to an activation's derivative alone;
        None is no bias.

    Returns
    -------
    inputs_grad : ndarray, shape of `inputs`
        New array of the dtype of `inputs`, as are the others.
    kernel_grad : ndarray, shape (k, C, M)
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

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((2, 100, 8), np.float32)
    >>> kernel = np.ones((4, 8, 1), np.float32)
    >>> results = ndw.depthwise_conv1d_grad(x, kernel, x, padding="causal")
    >>> [result.shape for result in results]
    [(2, 100, 8), (4, 8, 1), (8,)]
    """
    arrays = inputs, kernel, bias, grad, None
    options = strides, padding, dilation_rate, data_format, activation, backend
    x_grad, w_grad, b_grad = gradients(SEQUENCES, "both", arrays, None, options, stream)
    return x_grad.reshape(inputs.shape), w_grad[0], b_grad
