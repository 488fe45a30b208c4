"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def fold_batch_norm(
    kernel: Any,
    bias: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float = 1e-3,
) -> tuple[Array, Array]:
    """Fold a batch normalisation into the kernel and bias of the convolution before it.

    With `scale = gamma / sqrt(variance + epsilon)` of each output channel, the kernel
    becomes `kernel * scale` and the bias `beta + (bias - mean) * scale`: a convolution
    with these gives what normalising its result gave.  Computed in float64, rounded
    once.

    Parameters
    ----------
    kernel : ndarray
        Depthwise, shape (kh, kw, C, M) or (k, C, M): C * M output channels, channel
        `c * M + q` from `kernel[..., c, q]`.  Pointwise, shape (1, 1, C, F) or (C, F):
        F output channels.  A kernel of shape (1, 1, C, X) is depthwise where `mean`
        has C * X entries and pointwise where it has X; for C = 1 both say the same.
    bias : ndarray, shape (channels,), or None
        The convolution's own bias; None is zeros.
    gamma, beta : ndarray, shape (channels,), or None
        Scale and offset of the normalisation; None (Keras's `scale=False` and
        `center=False`) is ones and zeros.
    mean, variance : ndarray, shape (channels,)
        Its moving averages.
    epsilon : float, default 1e-3
        Added to the variance: 1e-3 is Keras's default, PyTorch's is 1e-5.

    Returns
    -------
    kernel : ndarray
        New array of the shape and dtype of `kernel`.
    bias : ndarray, shape (channels,)
        New array of the same dtype.

    Raises
    ------
    TypeError
        An argument is not an array of real numbers, `kernel` is not of a floating
        dtype, or `epsilon` is not a number.
    ValueError
        A shape does not fit, or `variance + epsilon` is not positive everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> kernel = np.ones((3, 3, 8, 2), np.float32)
    >>> gamma, beta, mean, variance = np.ones((4, 16), np.float32)
    >>> kernel, bias = ndw.fold_batch_norm(kernel, None, gamma, beta, mean, variance)
    >>> kernel.shape, bias.shape
    ((3, 3, 8, 2), (16,))
    """
    taps = _numbers(kernel, "kernel")
    if taps.dtype.kind != "f":
        raise TypeError(f"kernel must hold floating numbers, got dtype {taps.dtype}")
    average = _numbers(mean, "mean")
    shape = _scale_shape(taps.shape, average.shape)
    channels = average.shape

    def vector(value: Any, name: str, default: float) -> Array:
        if value is None:
            return np.full(channels, default)
        array = _numbers(value, name)
        if array.shape != channels:
            raise ValueError(
                f"{name} must have shape {channels} as mean, got {array.shape}"
            )
        return array.astype(np.float64)

    if isinstance(epsilon, bool) or not isinstance(
        epsilon, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"epsilon must be a number, got {epsilon!r}")
    if variance is None:
        raise TypeError("variance must be a NumPy array, got None")
    spread = vector(variance, "variance", 1.0) + float(epsilon)
    if not (spread > 0).all():
        raise ValueError(
            f"variance + epsilon must be positive, got a least value of {spread.min()}"
        )
    scale = vector(gamma, "gamma", 1.0) / np.sqrt(spread)
    shift = vector(bias, "bias", 0.0) - average.astype(np.float64)
    offset = vector(beta, "beta", 0.0) + shift * scale
    folded = taps.astype(np.float64) * scale.reshape(shape)
    return folded.astype(taps.dtype), offset.astype(taps.dtype)


def _scale_shape(kernel: tuple[int, ...], mean: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape in which one number an output channel multiplies the kernel."""
    readings = {}
    if len(kernel) in (3, 4):
        readings[kernel[-2] * kernel[-1]] = kernel[-2:]
    if len(kernel) == 2 or (len(kernel) == 4 and kernel[:2] == (1, 1)):
        readings.setdefault(kernel[-1], kernel[-1:])
    if not readings or 0 in kernel:
        raise ValueError(
            "kernel must have shape (kh, kw, C, M), (k, C, M), (1, 1, C, F) or (C, F) "
            f"with every size >= 1, got {kernel}"
        )
    if len(mean) != 1 or mean[0] not in readings:
        counts = " or ".join(f"({count},)" for count in readings)
        raise ValueError(
            f"mean must have shape {counts}, one number an output channel of a kernel "
            f"of shape {kernel}, got {mean}"
        )
    return readings[mean[0]]


def _numbers(value: Any, name: str) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} must be a NumPy array of real numbers, got {kind}")
    return np.asarray(value)
