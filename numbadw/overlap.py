"""Whether arrays of any strides share memory, with each other or within themselves."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Work allowed to NumPy's exact overlap test, which is exponential at worst; beyond it
# the arrays count as overlapping. Ordinary slices of one array need a few steps.
WORK: Any = 10_000  # NumPy's stubs know of -1 and 0 only.


def with_another(a: Array, b: Array) -> bool:
    """Tell whether two arrays share a byte, or may where the work is too much."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=WORK)
    except np.exceptions.TooHardError:
        return True


def with_itself(array: Array) -> bool:
    """Tell whether two elements share a byte.

    Axes sorted by stride almost always nest (each steps over all that lie below it),
    and bounds settle most of the rest; only then are the addresses compared.
    """
    if array.flags.c_contiguous or array.size < 2:
        return False
    steps = zip(array.strides, array.shape, strict=True)
    axes = sorted((abs(stride), size) for stride, size in steps if size > 1)
    span = array.itemsize
    nested = True
    for stride, size in axes:
        nested = nested and stride >= span
        span += stride * (size - 1)
    if nested:
        return False
    if axes[0][0] == 0 or span < array.nbytes:
        return True
    offsets = np.zeros(1, np.int64)
    for stride, size in axes:
        steps_along = np.arange(size, dtype=np.int64) * stride
        offsets = (offsets[:, None] + steps_along).ravel()
    offsets.sort()
    return bool(np.diff(offsets).min() < array.itemsize)
