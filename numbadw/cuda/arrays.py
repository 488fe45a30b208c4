"""Arrays on a CUDA device, whoever made them: read in place, results from their maker.

PyTorch's tensors, CuPy's arrays and Numba's device arrays are known; each allocates
results like its own and names its current stream.  Any other array that speaks DLPack
(JAX's) is read through it, and its library takes the result by its `from_dlpack`.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

from numbadw.cuda import device, dlpack
from numbadw.cuda.emit import ITEMSIZE
from numbadw.cuda.halves import KINDS
from numbadw.cuda.resident import LEGACY, Resident

# By PyTorch's and DLPack's names, and as __cuda_array_interface__ writes them.
_KINDS = KINDS | {"<f4": "f32", "<f8": "f64", "<f2": "f16"}


class Seen(NamedTuple):
    """An array as it was read: its address, its form, and what keeps it readable.

    The form is (library, shape, strides, dtype, device), as the library gives them:
    all that a plan depends on besides the address, and quick to hash.
    """

    address: int
    form: Any
    held: Any = None


NOT_GIVEN = Seen(0, None)


class View(NamedTuple):
    """What a form means: shape, byte strides, kind and device."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: str
    number: int

    def ends(self) -> tuple[int, int]:
        """Give the first byte and the one after the last, from the address on."""
        if 0 in self.shape:
            return 0, 0
        steps = [
            (size - 1) * step
            for size, step in zip(self.shape, self.strides, strict=True)
        ]
        low = sum(step for step in steps if step < 0)
        high = sum(step for step in steps if step > 0)
        return low, high + ITEMSIZE[self.kind]


@functools.cache
def _library(kind: type) -> str:
    if kind is Resident:
        return "own"
    name = kind.__module__.partition(".")[0]
    if name in ("torch", "cupy"):
        return name
    if getattr(kind, "__cuda_ndarray__", False):
        return "numba"
    if hasattr(kind, "__dlpack__"):
        return "dlpack"
    raise TypeError(
        "device arrays must be PyTorch tensors, CuPy arrays, Numba device arrays or "
        f"speak DLPack, got a {kind.__module__}.{kind.__qualname__}"
    )


def read(array: Any, on: int) -> Seen:
    """Read where a device array lies, for work on a stream, without touching its data.

    Where the array says on which stream it is made, the other waits for that one; the
    host never does.
    """
    library = _library(type(array))  # type: ignore[arg-type]
    if library == "torch":
        own = array.shape, array.stride(), array.dtype, array.get_device()
        return Seen(array.data_ptr(), (library, *own))
    if library == "cupy":
        own = array.shape, array.strides, array.dtype.str, array.device.id
        return Seen(array.data.ptr, (library, *own))
    if library == "own":
        return Seen(array.address, array.form)
    if library == "dlpack":
        tensor = dlpack.read(array, on)
        return Seen(tensor.address, (library, *tensor.own), tensor.capsule)
    facts = array.__cuda_array_interface__
    address = facts["data"][0] or 0
    number = _number(address)
    made_on = facts.get("stream")
    if made_on is not None and made_on != on:
        device.wait(made_on, on, number)
    own = tuple(facts["shape"]), facts.get("strides"), facts["typestr"], number
    return Seen(address, (library, *own))


@functools.cache
def _name(dtype: Any) -> str:
    """Name a dtype of any library, without the library's name."""
    return str(dtype).rpartition(".")[2]


@functools.lru_cache(maxsize=4096)
def view(form: Any, name: str) -> View:
    """Make a form's meaning plain; another dtype than ours is an error."""
    library, shape, strides, dtype, number = form
    kind = _KINDS.get(_name(dtype))
    if kind is None:
        raise TypeError(
            f"{name} must be float32, float64, float16 or bfloat16 on a CUDA device, "
            f"got {dtype}"
        )
    item = ITEMSIZE[kind]
    shape = tuple(shape)
    dense = _dense(shape, item)
    unit = item if library in ("torch", "dlpack") else 1
    steps = dense if strides is None else [step * unit for step in strides]
    # Libraries leave any step along an axis of one entry.
    strides = [
        step if size > 1 else usual
        for size, step, usual in zip(shape, steps, dense, strict=True)
    ]
    if any(step % item for step in strides):
        raise ValueError(
            f"{name} must have strides of whole elements on a CUDA device, got "
            f"{tuple(strides)} bytes"
        )
    return View(shape, tuple(strides), kind, int(number))


def cast(array: Any, dtype: str, name: str) -> Any:
    """Give a floating array in another dtype; the same object where it has that."""
    own = _name(array.dtype)
    if own == dtype:
        return array
    if own not in _KINDS:
        raise TypeError(f"{name} must be of a floating dtype, got {own}")
    if _library(type(array)) == "torch":  # type: ignore[arg-type]
        return array.to(getattr(sys.modules["torch"], dtype))
    if not hasattr(array, "astype"):
        raise TypeError(
            f"{name} must be {dtype}, the layer's dtype: a {type(array).__name__} of "
            f"{own} cannot be cast"
        )
    return array.astype(dtype)


def _number(address: int) -> int:
    """Ask which device an address is on; that of no memory is the thread's own."""
    if not address:
        return device.current()
    bindings = device.driver()
    attribute = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(device.check(bindings.cuPointerGetAttribute(attribute, address)))


def _dense(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for size in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(1, size)
    return tuple(reversed(strides))


def empty_like(array: Any, shape: tuple[int, ...], like: View, on: int | None) -> Any:
    """Allocate a result of a shape in the library, dtype and device of an array.

    `on` is a stream other than the library's current one, or None.  A PyTorch tensor in
    channels_last order gives one in that order.  What is given for an array known by
    DLPack alone is no array of its library before `finished`.
    """
    library = _library(type(array))  # type: ignore[arg-type]
    if library == "torch":
        return _torch_empty(array, shape, on)
    if library == "cupy":
        cupy = sys.modules["cupy"]
        with array.device:
            if on is None:
                return cupy.empty(shape, array.dtype)
            with cupy.cuda.ExternalStream(on):
                return cupy.empty(shape, array.dtype)
    if library in ("own", "dlpack"):
        if library == "dlpack":
            dlpack.importer(array)  # or an error, before anything is written
        return Resident.empty(shape, like.kind, like.number)
    from numba import cuda

    own = stream_of(array) if on is None else on
    with cuda.gpus[like.number]:
        # The array then tells other libraries what it is made on.
        stream = 0 if own in (0, LEGACY) else cuda.external_stream(own)
        return cuda.device_array(shape, array.dtype, stream=stream)


def _torch_empty(array: Any, shape: tuple[int, ...], on: int | None) -> Any:
    torch = sys.modules["torch"]
    options = {}
    last = torch.channels_last
    ordered = len(shape) == array.ndim == 4 and not array.is_contiguous()
    if ordered and array.is_contiguous(memory_format=last):
        options["memory_format"] = last
    if on is None:
        return torch.empty(shape, dtype=array.dtype, device=array.device, **options)
    # PyTorch hands memory on again in the order of the stream that it was made for.
    stream = torch.cuda.ExternalStream(on, device=array.device)
    with torch.cuda.stream(stream):
        return torch.empty(shape, dtype=array.dtype, device=array.device, **options)


def finished(result: Any, array: Any, on: int) -> Any:
    """Give a result whose kernels are launched as an array of its own library."""
    if type(result) is not Resident:
        return result
    result.made_on = on
    return result if type(array) is Resident else dlpack.importer(array)(result)


def may_be_written(array: Any) -> None:
    """Refuse an `out` that its library takes for unchangeable."""
    if _library(type(array)) == "dlpack":  # type: ignore[arg-type]
        raise TypeError(
            "out must be a PyTorch tensor, a CuPy array or a Numba device array: "
            f"a {type(array).__name__} known by DLPack alone may be read only"
        )


def stream_of(array: Any) -> int:
    """Return the handle of the stream that the array's library works on now."""
    library = _library(type(array))  # type: ignore[arg-type]
    if library == "torch":
        torch = sys.modules["torch"]
        return int(torch.cuda.current_stream(array.device).cuda_stream)
    if library == "cupy":
        cupy = sys.modules["cupy"]
        with array.device:
            return int(cupy.cuda.get_current_stream().ptr)
    if library in ("own", "dlpack"):
        return LEGACY
    made_on = array.__cuda_array_interface__.get("stream")
    return LEGACY if made_on is None else int(made_on)


def handle_of(stream: Any) -> int:
    """Return the handle of a stream that the user chose, of any library."""
    expected = (
        "stream must be a CUDA stream: its handle as an int, or one of PyTorch's, "
        "CuPy's, Numba's or cuda.core's"
    )
    if type(stream) is int:
        if stream < 0:
            raise ValueError(f"{expected}, got {stream}")
        return stream
    told = getattr(stream, "__cuda_stream__", None)
    if told is not None:
        return int((told() if callable(told) else told)[1])
    for name in ("cuda_stream", "ptr"):
        handle = getattr(stream, name, None)
        if type(handle) is int:
            return handle
    raise TypeError(f"{expected}, got a {type(stream).__name__}")
