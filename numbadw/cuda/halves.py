"""bfloat16, which NumPy does not know: its bits, and what they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# The kinds of elements by NumPy's name for them, bfloat16 by everybody else's.
KINDS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}


def to_bf16(array: Array) -> npt.NDArray[np.uint16]:
    """Round to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    top = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, top).astype(np.uint16)


def from_bf16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widen to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def stored(array: Array, kind: str) -> Array:
    """Give an array's elements in a kind; those of bf16 as uint16."""
    if kind == "bf16":
        return to_bf16(array)
    types = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
    return array.astype(types[kind])


def rounded(array: Array, dtype: str) -> Array:
    """Give float32 numbers as a dtype's name holds them, in float32."""
    if dtype == "bfloat16":
        return from_bf16(to_bf16(array))
    return array.astype(dtype).astype(np.float32)
