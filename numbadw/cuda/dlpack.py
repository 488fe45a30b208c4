"""DLPack, both ways: arrays of any library in, results of ours out.

    in    array.__dlpack__(stream=ours)    its library has `ours` wait for what it does
    out   library.from_dlpack(resident)    it has the library's stream wait for ours

Structures are those of dlpack.h (dmlc/dlpack, version 0.8, "dltensor"), which every
library exchanges unless asked for a newer one.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from numbadw.cuda import device

# DLDataTypeCode and bits, by the names of `arrays` and by our kinds.
_DTYPES = {(2, 32): "float32", (2, 64): "float64", (2, 16): "float16"}
_DTYPES |= {(4, 16): "bfloat16"}
_CODES = {"f32": (2, 32), "f64": (2, 64), "f16": (2, 16), "bf16": (4, 16)}
CUDA = 2  # kDLCUDA
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = [
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
    ]


_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_api = ctypes.pythonapi
_get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _api)
)
_new = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor
)(("PyCapsule_New", _api))
_is_whole = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _api)
)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _api)
)


class Tensor(NamedTuple):
    """An array that was read: `own` is (shape, strides in elements, dtype, device)."""

    address: int
    own: tuple[Any, ...]
    capsule: Any


def read(array: Any, on: int) -> Tensor:
    """Ask an array for its memory, to be used on a stream.

    The memory stays valid as long as the capsule lives: nobody takes it over, so the
    capsule itself returns it.
    """
    # Handle 0 is another word for the legacy default stream, which DLPack refuses.
    capsule = array.__dlpack__(stream=on or 1)
    managed = _Managed.from_address(_get(capsule, _NAME))
    t = managed.tensor
    shape = tuple(t.shape[: t.ndim])
    strides = tuple(t.strides[: t.ndim]) if t.strides else None
    known = _DTYPES.get((t.code, t.bits)) if t.lanes == 1 else None
    dtype = known or f"type {t.code} of {t.bits} bits and {t.lanes} lanes"
    address = (t.data or 0) + t.byte_offset
    return Tensor(address, (shape, strides, dtype, t.device_id), capsule)


# Capsules of arrays that a stream may still read, and the event after which not.
_HELD: deque[tuple[Any, Any]] = deque()


def hold(capsules: list[Any], on: int, number: int) -> None:
    """Keep arrays until a stream has done what it was given; drop what is done."""
    bindings = device.driver()
    while _HELD:
        try:
            event, kept = _HELD.popleft()
        except IndexError:  # another thread was faster
            break
        if int(bindings.cuEventQuery(event)[0]):
            _HELD.appendleft((event, kept))
            break
        bindings.cuEventDestroy(event)
    _HELD.append((device.event(on, number), capsules))


# What capsules refer to, until their consumer returns it.
_EXPORTED: dict[int, Any] = {}


def export(
    place: tuple[int, tuple[int, int]], shape: tuple[int, ...], kind: str, owner: Any
) -> Any:
    """Make a capsule of dense memory: (address, (device type, number)).

    `owner` lives until the consumer, or the capsule that nobody took, lets it go.
    """
    steps = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    sizes = (ctypes.c_int64 * (2 * len(shape)))(*shape, *steps)
    managed = _Managed()
    t = managed.tensor
    t.data, (t.device_type, t.device_id) = place
    t.ndim, t.lanes = len(shape), 1
    t.code, t.bits = _CODES[kind]
    pointer = ctypes.POINTER(ctypes.c_int64)
    t.shape = ctypes.cast(sizes, pointer)
    t.strides = ctypes.cast(ctypes.addressof(sizes) + 8 * len(shape), pointer)
    managed.deleter = _release
    address = ctypes.addressof(managed)
    _EXPORTED[address] = managed, sizes, owner
    return _new(address, _NAME, _drop)


@_Deleter
def _release(address: int) -> None:
    """Let go of an exported array; called by whoever took it."""
    _EXPORTED.pop(address, None)


@_Destructor
def _drop(capsule: int) -> None:
    """Let go of an array whose capsule ends; one that was taken has another name."""
    if _is_whole(capsule, _NAME):
        _EXPORTED.pop(_pointer_of(capsule, _NAME) or 0, None)


def importer(array: Any) -> Callable[[Any], Any]:
    """Return the `from_dlpack` of the library that an array comes from."""
    namespace = getattr(array, "__array_namespace__", None)
    package = type(array).__module__.partition(".")[0]
    places = [namespace()] if callable(namespace) else []
    places += [sys.modules.get(name) for name in (package, f"{package}.dlpack")]
    for place in places:
        found = getattr(place, "from_dlpack", None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    raise TypeError(
        f"there is no from_dlpack in {package}, to give the result as a "
        f"{type(array).__name__}"
    )
