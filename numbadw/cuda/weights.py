"""Kernels and biases of calls on device arrays: theirs in place, NumPy's uploaded.

The copy of a NumPy array stays on the device and serves until the array's bytes
change, so that weights written in place count at the next call, as on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw import checks
from numbadw.cuda import arrays, device, plan
from numbadw.cuda.arrays import NOT_GIVEN, Seen, View
from numbadw.cuda.emit import ITEMSIZE
from numbadw.cuda.halves import stored
from numbadw.cuda.resident import LEGACY

# The dtype that weights are checked against; they are then rounded to the kind.
_DTYPES = {"f32": "float32", "f64": "float64", "f16": "float32", "bf16": "float32"}
# Uploads kept, by address, form and target; all are dropped when these are too much.
_KEPT: dict[Any, tuple[bytes, device.Memory]] = {}
MOST, MOST_BYTES = 4096, 256 << 20
_bytes = 0


def find(value: Any, name: str, ndim: int, like: View, on: int) -> Seen:
    """Read a kernel or bias, NumPy or on the device, for inputs of a form.

    Contract: shape and device are for `check` to look at, where a call is new.
    """
    if value is None:
        return NOT_GIVEN
    if type(value) is not np.ndarray:
        if checks.is_device_array(value):
            return arrays.read(value, on)
        value = checks.weight_array(value, name, ndim, _DTYPES[like.kind])
    return Seen(*_uploaded(value, name, ndim, like))


def check(seen: Seen, name: str, ndim: int, like: View) -> tuple[int, ...]:
    """Give the shape of what `find` gave; refuse what does not go with the inputs."""
    if seen.form[0] == "numpy":
        return tuple(seen.form[1])
    view = arrays.view(seen.form, name)
    same(view, name, like)
    if len(view.shape) != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {view.shape}")
    if view.strides != plan.dense(view.shape, ITEMSIZE[view.kind]):
        raise ValueError(f"{name} on a CUDA device must be C-contiguous")
    return view.shape


def same(seen: View, name: str, like: View) -> None:
    """Refuse an array of another device or dtype than the others'."""
    if seen.number != like.number:
        raise ValueError(
            f"{name} is on device {seen.number}, the other arrays on device "
            f"{like.number}: all must be on one"
        )
    if seen.kind != like.kind:
        raise TypeError(f"{name} must be of the other arrays' dtype ({like.kind})")


def _uploaded(
    array: npt.NDArray[Any], name: str, ndim: int, like: View
) -> tuple[int, Any, device.Memory]:
    """Give address, form and memory of a NumPy array's copy on the device."""
    global _bytes
    shape, now = array.shape, array.tobytes()
    place = array.__array_interface__["data"][0]
    key = place, shape, array.strides, array.dtype, like.kind, like.number
    found = _KEPT.get(key)
    if found is None or found[0] != now:
        whole = checks.weight_array(array, name, ndim, _DTYPES[like.kind])
        data = stored(whole, like.kind).tobytes()
        memory = device.Memory(max(len(data), 1), like.number)
        with device.using(like.number):
            bindings = device.driver()
            device.check(bindings.cuMemcpyHtoD(memory.address, data, len(data)))
            # The copy may return early; other streams must find what it brings.
            device.check(bindings.cuStreamSynchronize(LEGACY))
        if len(_KEPT) >= MOST or _bytes + len(now) > MOST_BYTES:
            _KEPT.clear()
            _bytes = 0
        _bytes += len(now) if key not in _KEPT else 0
        found = _KEPT[key] = now, memory
    return found[1].address, ("numpy", shape), found[1]
