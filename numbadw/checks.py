"""User arguments in, canonical ones out; every user-facing message about them.

A message names the argument, states the rule and shows what came. Shape rules that
tie arguments together live in `geometry`, activation names in `activations`.
"""

from typing import Any, SupportsIndex, cast

import numpy as np
import numpy.typing as npt
from numpy import ma

from numbadw import overlap
from numbadw.geometry import (
    AxisPadding,
    Geometry,
    Padding,
    PadMode,
    PixelGeometry,
    without_row,
)

Array = npt.NDArray[Any]

BACKENDS = ("auto", "cpu", "cuda", "reference")
DATA_FORMATS = ("channels_last", "channels_first")
PAD_MODES = ("valid", "same")
SEQUENCE_PAD_MODES: tuple[PadMode, ...] = ("valid", "same", "causal")
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# Strides, dilation and padding are below this, so that no offset exceeds 64 bits.
LIMIT = 2**31
# DLPack device types whose memory is the GPU's: kDLCUDA, kDLCUDAManaged.
DLPACK_CUDA = (2, 13)


def integer(value: object, name: str, least: int) -> int:
    """Read one int that is not below `least`."""
    return _integer(value, least, f"{name} must be an int >= {least}", value)


def pair(value: object, name: str) -> tuple[int, int]:
    """Read a positive int or a pair of them (vertical, horizontal)."""
    expected = f"{name} must be a positive int or a pair of them"
    if not isinstance(value, (tuple, list)):
        both = _small(value, 1, expected, value)
        return both, both
    if len(value) != 2:
        raise ValueError(f"{expected}, got {value!r} of length {len(value)}")
    first, second = (_small(item, 1, expected, value) for item in value)
    return first, second


def padding(value: object) -> Padding:
    """Read any of the padding forms into a mode or ((top, bottom), (left, right))."""
    expected = (
        "padding must be 'valid', 'same', an int >= 0, (ph, pw) or "
        "((top, bottom), (left, right))"
    )
    if isinstance(value, str):
        if value.lower() not in PAD_MODES:
            raise ValueError(f"{expected}, got {value!r}")
        return "same" if value.lower() == "same" else "valid"
    if not isinstance(value, (tuple, list)):
        every = _small(value, 0, expected, value)
        return (every, every), (every, every)
    if len(value) != 2:
        raise ValueError(f"{expected}, got {value!r} of length {len(value)}")
    if not any(isinstance(item, (tuple, list)) for item in value):
        ph, pw = (_small(item, 0, expected, value) for item in value)
        return (ph, ph), (pw, pw)
    for item in value:
        if not isinstance(item, (tuple, list)):
            raise TypeError(f"{expected}, got {value!r}, which mixes ints and pairs")
        if len(item) != 2:
            raise ValueError(f"{expected}, got {value!r}")
    (pt, pb), (pl, pr) = (
        tuple(_small(size, 0, expected, value) for size in item) for item in value
    )
    return (pt, pb), (pl, pr)


def step(value: object, name: str) -> int:
    """Read a positive int, which may come in a tuple of its own, as Keras gives it."""
    expected = f"{name} must be a positive int or a tuple of one"
    if not isinstance(value, (tuple, list)):
        return _small(value, 1, expected, value)
    if len(value) != 1:
        raise ValueError(f"{expected}, got {value!r} of length {len(value)}")
    return _small(value[0], 1, expected, value)


def sequence_padding(value: object) -> AxisPadding:
    """Read the padding of a sequence into a mode or (before, after)."""
    expected = (
        "padding must be 'valid', 'same', 'causal', an int >= 0 or (before, after)"
    )
    if isinstance(value, str):
        for mode in SEQUENCE_PAD_MODES:
            if value.lower() == mode:
                return mode
        raise ValueError(f"{expected}, got {value!r}")
    if not isinstance(value, (tuple, list)):
        both = _small(value, 0, expected, value)
        return both, both
    if len(value) != 2:
        raise ValueError(f"{expected}, got {value!r} of length {len(value)}")
    before, after = (_small(item, 0, expected, value) for item in value)
    return before, after


def shape(value: object, name: str, axes: str, least: int) -> tuple[int, ...]:
    """Read a shape of four sizes that are not below `least`; `axes` names them."""
    expected = f"{name} must be {axes}, four ints >= {least}"
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{expected}, got {value!r} of type {_type_name(value)}")
    if len(value) != 4:
        raise ValueError(f"{expected}, got {value!r} of length {len(value)}")
    return tuple(_integer(size, least, expected, value) for size in value)


def data_format(value: object) -> bool:
    """Read the layout's name; True means channels first."""
    return _choice(value, "data_format", DATA_FORMATS) == "channels_first"


def backend(value: object) -> str:
    """Read the backend's name."""
    return _choice(value, "backend", BACKENDS)


def is_device_array(value: object) -> bool:
    """Tell whether the array lives on a CUDA device, without touching its data."""
    if isinstance(value, (np.ndarray, type)):
        return False
    if getattr(value, "__cuda_ndarray__", False):
        return True
    placed = getattr(value, "is_cuda", None)  # PyTorch's own word, and the quickest
    if type(placed) is bool:
        return placed
    # DLPack first: PyTorch refuses the other protocol on tensors that need gradients.
    device = getattr(value, "__dlpack_device__", None)
    if callable(device):
        return int(device()[0]) in DLPACK_CUDA
    return hasattr(value, "__cuda_array_interface__")


def input_array(value: object, name: str, ndim: int = 4) -> Array:
    """Read a float32 or float64 array of any strides and alignment.

    Never a copy, except that a byte-swapped array comes back in native byte order.
    """
    array = _plain_array(value, name)
    native = array.dtype.newbyteorder("=")
    if native not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, got {_describe(value)}")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got {_describe(value)}")
    return array if array.dtype.isnative else array.astype(native)


def weight_array(
    value: object, name: str, ndim: int, dtype: npt.DTypeLike, like: str = "inputs"
) -> Array:
    """Read weights as a C-contiguous, aligned array of `dtype`, copied if need be.

    `like` names the argument that decides the dtype, for the message.
    """
    array = _castable_array(value, name, ndim, np.dtype(dtype), like)
    return np.require(array, dtype, ("C", "A"))


def bias_array(
    value: object,
    out_channels: int,
    dtype: npt.DTypeLike,
    name: str = "bias",
    axis: str = "C*M",
) -> Array | None:
    """Read a bias of shape (C*M,), or None; `axis` is what the message calls it."""
    if value is None:
        return None
    array = weight_array(value, name, 1, dtype)
    if array.shape != (out_channels,):
        raise ValueError(
            f"{name} must have shape ({axis},) = ({out_channels},), "
            f"got {_describe(value)}"
        )
    return array


def grad_array(
    value: object, geometry: Geometry, dtype: npt.DTypeLike, ndim: int = 4
) -> Array:
    """Read a gradient at the output, of any strides and alignment.

    Never a copy, except that another dtype or byte order comes back as native `dtype`.
    With `ndim` 3 the geometry is that of sequences.
    """
    g = geometry
    shapes: tuple[tuple[int, ...], ...] = g.output_shape, g.input_shape, g.kernel_shape
    steps: Any = (g.sh, g.sw), ((g.pt, g.pb), (g.pl, g.pr)), (g.dh, g.dw)
    if ndim == 3:
        first, taps = g.channels_first, g.kernel_shape[1:]
        shapes = *(without_row(size, first) for size in shapes[:2]), taps
        steps = g.sw, (g.pl, g.pr), g.dw
    why = (
        f": inputs has shape {shapes[1]} and kernel has shape {shapes[2]}, with "
        f"strides {steps[0]}, padding {steps[1]} and dilation_rate {steps[2]}"
    )
    return result_grad(value, shapes[0], dtype, why)


def result_grad(
    value: object, shape: tuple[int, ...], dtype: npt.DTypeLike, why: str = ""
) -> Array:
    """Read a gradient at a result of this shape, as `grad_array` does."""
    wanted = np.dtype(dtype)
    array = _castable_array(value, "grad", len(shape), wanted, "inputs")
    if array.shape != shape:
        raise ValueError(
            f"grad must have the output's shape {shape}, got {_describe(value)}{why}"
        )
    return array.astype(wanted, copy=False)


def pointwise_kernel(
    value: object,
    x_shape: tuple[int, ...],
    channels_first: bool,
    dtype: npt.DTypeLike,
    name: str = "kernel",
) -> tuple[Array, PixelGeometry]:
    """Read a kernel (1, 1, C, F) or (C, F) as (C, F), and the geometry it makes."""
    ndim = value.ndim if isinstance(value, np.ndarray) and value.ndim == 2 else 4
    array = weight_array(value, name, ndim, dtype)
    n, c, h, w = x_shape if channels_first else (x_shape[0], *_last_to_first(x_shape))
    shape = (1,) * (ndim - 2) + (c,)
    if array.shape[:-1] != shape or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape (1, 1, C, F) or (C, F) with C = {c}, the channels "
            f"it reads, and F at least 1, got {_describe(value)}: it reads images of "
            f"shape {x_shape}"
        )
    f = array.shape[-1]
    return array.reshape(c, f), PixelGeometry(n, h, w, c, f, channels_first)


def _last_to_first(shape: tuple[int, ...]) -> tuple[int, int, int]:
    _, h, w, c = shape
    return c, h, w


def state_array(
    value: object,
    name: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    like: str = "inputs",
) -> Array:
    """Read the inputs before a sequence, of any strides, alignment and castable dtype.

    `like` names the argument that decides the dtype, for the message.
    """
    array = _castable_array(value, name, 3, np.dtype(dtype), like)
    if array.shape != shape:
        raise ValueError(
            f"{name} must have shape (N, (k - 1) * dilation_rate, C) = {shape}, got "
            f"{_describe(value)}"
        )
    return array


def out_array(
    out: object, shape: tuple[int, ...], dtype: npt.DTypeLike, **others: object
) -> Array:
    """Check that `out` can take the result, and give it as a plain array.

    Parameters
    ----------
    out : object
        What the user passed.
    shape, dtype : tuple of int, dtype
        The result's, to be matched exactly and in native byte order.
    **others : object
        The arrays that will be read, by argument name, as the user passed them. None
        and anything that is not a NumPy array is passed over.

    Returns
    -------
    ndarray
        A view of the same memory; `out` itself unless it is of a subclass.

    Raises
    ------
    TypeError
        `out` is not a NumPy array, is masked or has another dtype.
    ValueError
        `out` has another shape, is read-only, overlaps one of `others` or itself.
    """
    wanted = np.dtype(dtype)
    array = _plain_array(out, "out")
    if array.dtype != wanted:
        raise TypeError(
            f"out must have dtype {wanted} in native byte order, got {_describe(out)}"
        )
    if array.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {_describe(out)}")
    if not array.flags.writeable:
        raise ValueError(f"out must be writable, got a read-only {_describe(out)}")
    if overlap.with_itself(array):
        raise ValueError(
            "out must hold every element in memory of its own, got an "
            f"{_describe(out)} with overlapping strides {array.strides}"
        )
    for name, other in others.items():
        if isinstance(other, np.ndarray) and overlap.with_another(array, other):
            raise ValueError(
                f"out must not overlap {name}: out is an {_describe(out)}, "
                f"{name} an {_describe(other)}, and they share memory"
            )
    return array


def _castable_array(
    value: object, name: str, ndim: int, wanted: np.dtype[Any], like: str
) -> Array:
    """Give a plain array of so many dimensions that casts to `wanted` safely."""
    array = _plain_array(value, name)
    # NumPy casts bool to float safely; here a bool is somebody's mistake.
    if array.dtype.kind not in "iuf" or not np.can_cast(array.dtype, wanted, "safe"):
        raise TypeError(
            f"{name} must be {wanted} as {like}, or a number type that casts to it "
            f"safely, got {_describe(value)}"
        )
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got {_describe(value)}")
    return array


def _integer(value: object, least: int, expected: str, whole: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{expected}, got {whole!r} of type {_type_name(value)}")
    if value < least:
        raise ValueError(f"{expected}, got {whole!r}")
    return int(cast(SupportsIndex, value))


def _small(value: object, least: int, expected: str, whole: object) -> int:
    number = _integer(value, least, expected, whole)
    if number >= LIMIT:
        raise ValueError(f"{expected}, all below 2**31, got {whole!r}")
    return number


def _choice(value: object, name: str, allowed: tuple[str, ...]) -> str:
    expected = f"{name} must be one of {', '.join(map(repr, allowed))}"
    if not isinstance(value, str):
        raise TypeError(f"{expected}, got {value!r} of type {_type_name(value)}")
    if value.lower() not in allowed:
        raise ValueError(f"{expected}; got {value!r}")
    return value.lower()


def _plain_array(value: object, name: str) -> Array:
    """Give a NumPy array without its subclass; anything else is refused."""
    if isinstance(value, ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without a mask, got {_describe(value)}; "
            "fill it first"
        )
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if is_device_array(value):
        raise TypeError(
            f"{name} must be a NumPy array here, got a {_type_name(value)} on a "
            "CUDA device"
        )
    raise TypeError(f"{name} must be a NumPy array, got {_describe(value)}")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{_type_name(value)} of dtype {value.dtype} and shape {value.shape}"
    return f"an object of type {_type_name(value)}"


def _type_name(value: object) -> str:
    return type(value).__name__
