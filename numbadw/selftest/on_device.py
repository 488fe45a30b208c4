"""The calls of the self-test on a CUDA device: arrays go there as they lie here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw.cuda import device
from numbadw.cuda.halves import KINDS
from numbadw.cuda.resident import Resident
from numbadw.selftest.check import compute
from numbadw.selftest.draws import Call

Array = npt.NDArray[Any]
# One call in so many takes NumPy arrays, which go there and back by themselves; of the
# others' kernels and biases as many stay NumPy arrays.
STAGED = 4


def results(call: Call, out: Array | None) -> tuple[Array, ...]:
    """Compute what a call asks for on the device, into `out` where there is one."""
    if call.threads % STAGED == 0:
        return compute(call, call, out, backend="cuda")
    own = call._replace(
        inputs=_there(call.inputs),
        kernel=_weight(call, call.kernel),
        bias=None if call.bias is None else _weight(call, call.bias),
        grad=_there(call.grad),
    )
    if out is None:
        return tuple(array.numpy() for array in compute(call, own, None))
    # A gradient at the kernel is written dense: no other order lies open there.
    dense = call.function == "kernel"
    laid_out = np.full(out.shape, np.nan, out.dtype) if dense else _aligned(out)
    target = _there(laid_out)
    (made,) = compute(call, own, target)
    if made is not target:
        return (made.numpy(),)  # which is not out
    target.fetch(laid_out)
    if laid_out is not out:
        out[...] = laid_out
    return (out,)


def _aligned(array: Array) -> Array:
    """Give an array whose elements a GPU can read: aligned, of native byte order."""
    item = array.itemsize
    fits = array.dtype.isnative and array.flags.aligned
    if fits and not any(step % item for step in array.strides):
        return array
    return array.astype(array.dtype.newbyteorder("="), order="C")


def _there(array: Array) -> Any:
    """Copy an array to the device with its strides and its place in memory."""
    whole = _aligned(array)
    return Resident.of(whole, KINDS[whole.dtype.name], device.current())


def _weight(call: Call, array: Array) -> Any:
    """Copy a kernel or a bias to the device, dense, or leave that to the call."""
    if call.threads % STAGED == 1 or array.dtype != call.inputs.dtype.newbyteorder("="):
        return array
    return _there(np.ascontiguousarray(array))
