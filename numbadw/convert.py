"""Kernels between PyTorch's layout and this package's."""

from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw import checks

Array = npt.NDArray[Any]


def kernel_from_torch(weight: Any, depth_multiplier: int = 1) -> Array:
    """Turn the weight of a PyTorch convolution into a depthwise or pointwise kernel.

    `kernel[i, j, c, q] = weight[c * m + q, 0, i, j]`. The weight alone does not tell
    how its output channels divide into c * m: `depth_multiplier` does. Pointwise:
    `kernel[c, f] = weight[f, c, 0, 0]`.

    Parameters
    ----------
    weight : ndarray or torch.Tensor, shape (c * m, 1, kh, kw)
        `weight` of a Conv2d with `groups` equal to its input channels; (c * m, 1, k) of
        a Conv1d; or (f, c, 1, 1), c > 1, of a 1x1 Conv2d in one group. A tensor may
        need gradients and may lie on any device.
    depth_multiplier : int, default 1
        Output channels for each input channel, m: `out_channels // groups`.

    Returns
    -------
    ndarray, shape (kh, kw, c, m)
        C-contiguous copy in the weight's dtype; (k, c, m) for sequences, (c, f) for
        `pointwise_conv2d`.

    Raises
    ------
    TypeError
        `weight` is not an array of numbers, or `depth_multiplier` not an int.
    ValueError
        `weight` has another shape, or its channels do not divide by
        `depth_multiplier`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> ndw.kernel_from_torch(np.ones((32, 1, 3, 5), np.float32)).shape
    (3, 5, 32, 1)
    """
    m = checks.integer(depth_multiplier, "depth_multiplier", 1)
    array = _numbers(weight, "weight")
    if m == 1 and array.shape[2:] == (1, 1) and array.shape[1] > 1 and array.size:
        return np.array(array[:, :, 0, 0].T, order="C")
    if array.ndim not in (3, 4) or array.shape[1] != 1 or 0 in array.shape:
        raise ValueError(
            "weight must have shape (C*M, 1, kh, kw), (C*M, 1, k) or (F, C, 1, 1) with "
            f"every size >= 1, got {array.shape}"
        )
    channels, _, *taps = array.shape
    if channels % m:
        raise ValueError(
            f"weight of shape {array.shape} has {channels} output channels, which do "
            f"not divide by depth_multiplier {m}"
        )
    kernel = np.moveaxis(array.reshape(channels // m, m, *taps), (0, 1), (-2, -1))
    return np.array(kernel, order="C")


def kernel_to_torch(kernel: Any) -> Array:
    """Turn a depthwise or pointwise kernel into the weight of a PyTorch convolution.

    `weight[c * m + q, 0, i, j] = kernel[i, j, c, q]`, for a Conv2d with `groups=c`;
    `torch.from_numpy` makes it a tensor without another copy. Pointwise:
    `weight[f, c, 0, 0] = kernel[c, f]`.

    Parameters
    ----------
    kernel : ndarray, shape (kh, kw, c, m)
        Such as `layer.kernel`; (k, c, m) of sequences; (c, f) of 1x1 convolutions,
        whose four-dimensional kernels look like depthwise ones: pass `kernel[0, 0]`.

    Returns
    -------
    ndarray, shape (c * m, 1, kh, kw)
        C-contiguous copy in the kernel's dtype; (c * m, 1, k) of sequences,
        (f, c, 1, 1) of 1x1 convolutions.

    Raises
    ------
    TypeError
        `kernel` is not an array of numbers.
    ValueError
        `kernel` has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> ndw.kernel_to_torch(np.ones((3, 5, 16, 2), np.float32)).shape
    (32, 1, 3, 5)
    """
    array = _numbers(kernel, "kernel")
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise ValueError(
            "kernel must have shape (kh, kw, C, M), (k, C, M) or (C, F) with every "
            f"size >= 1, got {array.shape}"
        )
    if array.ndim == 2:
        return np.array(array.T[:, :, None, None], order="C")
    *taps, c, m = array.shape
    weight = np.moveaxis(array, (-2, -1), (0, 1)).reshape(c * m, 1, *taps)
    return np.array(weight, order="C")


def _numbers(value: Any, name: str) -> Array:
    """Read an array, or a tensor by the words that PyTorch's have."""
    if callable(getattr(value, "detach", None)):
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{name} must be a NumPy array or a PyTorch tensor, got an object of type "
            f"{type(value).__name__}"
        )
    if value.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
    return np.asarray(value)
