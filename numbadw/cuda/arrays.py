"""Arrays on a CUDA device, whoever made them: read in place, results from their maker.

PyTorch's tensors, CuPy's arrays and Numba's device arrays are known; each allocates
results like its own and names its current stream.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

import numpy as np

from numbadw.cuda import device

# By PyTorch's names, and as __cuda_array_interface__ writes them.
_KINDS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
_KINDS |= {"<f4": "f32", "<f8": "f64", "<f2": "f16"}
# Streams as __cuda_array_interface__ numbers them; None: nothing to wait for.
_LEGACY = 1


class View(NamedTuple):
    """Where a device array lies: address, shape, byte strides, kind and device."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: str
    number: int


def library(array: Any) -> str:
    """Name the library of a device array: torch, cupy or numba."""
    return _library(type(array))  # type: ignore[arg-type]


@functools.cache
def _library(kind: type) -> str:
    name = kind.__module__.partition(".")[0]
    if name in ("torch", "cupy"):
        return name
    if getattr(kind, "__cuda_ndarray__", False):
        return "numba"
    raise TypeError(
        "device arrays must be PyTorch tensors, CuPy arrays or Numba device arrays, "
        f"got a {kind.__module__}.{kind.__qualname__}"
    )


def view(array: Any, name: str) -> View:
    """Read a device array's whereabouts, without touching its data."""
    if library(array) == "torch":
        dtype = str(array.dtype).rpartition(".")[2]
        item = array.element_size()
        strides = tuple(step * item for step in array.stride())
        place = array.data_ptr(), tuple(array.shape), strides
        number = array.device.index
    else:
        facts = array.__cuda_array_interface__
        dtype = facts["typestr"]
        shape, strides = tuple(facts["shape"]), facts.get("strides")
        if strides is None:
            strides = _dense(shape, np.dtype(dtype).itemsize)
        place = facts["data"][0], shape, tuple(strides)
        number = _number(array)
    if dtype not in _KINDS:
        raise TypeError(
            f"{name} must be float32, float64, float16 or bfloat16 on a CUDA device, "
            f"got {dtype}"
        )
    return View(*place, _KINDS[dtype], int(number))


def _number(array: Any) -> int:
    """Ask which device an array is on."""
    if library(array) == "cupy":
        return int(array.device.id)
    bindings = device.driver()
    attribute = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    address = array.__cuda_array_interface__["data"][0]
    return int(device.check(bindings.cuPointerGetAttribute(attribute, address)))


def _dense(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for size in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(1, size)
    return tuple(reversed(strides))


def empty_like(array: Any, shape: tuple[int, ...]) -> Any:
    """Allocate a result of a shape in the library, dtype and device of an array.

    A PyTorch tensor in channels_last order gives one in that order.
    """
    if library(array) == "torch":
        torch = sys.modules["torch"]
        options = {}
        last = torch.channels_last
        ordered = len(shape) == array.ndim == 4 and not array.is_contiguous()
        if ordered and array.is_contiguous(memory_format=last):
            options["memory_format"] = last
        return torch.empty(shape, dtype=array.dtype, device=array.device, **options)
    if library(array) == "cupy":
        cupy = sys.modules["cupy"]
        with array.device:
            return cupy.empty(shape, array.dtype)
    from numba import cuda

    with cuda.gpus[_number(array)]:
        return cuda.device_array(shape, array.dtype)


def current_stream(array: Any) -> int:
    """Return the handle of the stream that the array's library works on now."""
    if library(array) == "torch":
        torch = sys.modules["torch"]
        return int(torch.cuda.current_stream(array.device).cuda_stream)
    if library(array) == "cupy":
        cupy = sys.modules["cupy"]
        with array.device:
            return int(cupy.cuda.get_current_stream().ptr)
    made_on = array.__cuda_array_interface__.get("stream")
    return _LEGACY if made_on is None else int(made_on)
