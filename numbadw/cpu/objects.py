"""How a call's arrays come into compiled code: as the addresses of the Python objects.

Numba takes an array apart at every call, in 100 ns, and compiles a driver for each type
of array; an integer takes 40 ns, to make it of `id(array)` and to read it.  An address
is at hand and takes none: one driver serves all arrays, and finds what it needs of them
in NumPy's public array struct.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import (
    NativeValue,
    intrinsic,
    register_jitable,
    register_model,
    unbox,
)

from numbadw.cpu.records import equal, word
from numbadw.memory import DATA

I64 = ir.IntType(64)
# Offsets in NumPy's public PyArrayObject_fields, fixed by its C interface: header,
# data (memory.py), nd, dimensions, strides, base, descr, flags.
_NDIM = DATA + 8
_SHAPE = DATA + 16
_STRIDES = DATA + 24
_DTYPE = DATA + 40
FLAGS = DATA + 48
WRITEABLE = 0x0400


class _Object(types.Type):  # type: ignore[misc]
    """The address of any Python object, 0 for None, as an argument of a driver."""

    def __init__(self) -> None:
        super().__init__(name="numbadw.object")


OBJECT = _Object()


@register_model(_Object)
class _ObjectModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, I64)


@unbox(_Object)  # type: ignore[untyped-decorator]
def _unbox(kind: Any, value: Any, c: Any) -> Any:
    pointers = value, c.pyapi.borrow_none()
    here, none = (c.builder.ptrtoint(pointer, I64) for pointer in pointers)
    absent = c.builder.icmp_unsigned("==", here, none)
    return NativeValue(c.builder.select(absent, ir.Constant(I64, 0), here))


@intrinsic  # type: ignore[untyped-decorator]
def where(typingctx: Any, thing: Any) -> Any:
    """Return the address of an object, 0 for None."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]

    return types.int64(thing), codegen


@intrinsic  # type: ignore[untyped-decorator]
def data(typingctx: Any, array: Any) -> Any:
    """Return where an array's data lies, 0 for None."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(I64, 0)
        before, there = builder.block, builder.icmp_unsigned("!=", args[0], zero)
        with builder.if_then(there):
            at = builder.add(args[0], ir.Constant(I64, DATA))
            place = builder.load(builder.inttoptr(at, ir.PointerType()), typ=I64)
            inside = builder.block
        phi = builder.phi(I64)
        phi.add_incoming(zero, before)
        phi.add_incoming(place, inside)
        return phi

    return types.int64(array), codegen


@register_jitable  # type: ignore[untyped-decorator]
def is_like(at: int, sizes: int, dtype: int) -> bool:
    """Tell whether the array at an address has these sizes, steps and dtype object.

    Contract: `sizes` is the address of the four sizes, the steps follow.
    """
    same = (word(at + _NDIM) & 0xFFFFFFFF) == 4 and word(at + _DTYPE) == dtype
    return (
        same
        and equal(word(at + _SHAPE), sizes, 4)
        and equal(word(at + _STRIDES), sizes + 32, 4)
    )


def check_struct() -> None:
    """Make sure that this interpreter lays NumPy arrays out as documented."""
    array = np.zeros((3, 5), np.float32)[:, ::2]

    def at(offset: int, kind: Any = ctypes.c_int64) -> Any:
        return kind.from_address(id(array) + offset).value

    shape = tuple((ctypes.c_int64 * 2).from_address(at(_SHAPE)))
    steps = tuple((ctypes.c_int64 * 2).from_address(at(_STRIDES)))
    right = (
        at(DATA) == array.ctypes.data
        and at(_NDIM, ctypes.c_int) == array.ndim
        and (shape, steps) == (array.shape, array.strides)
        and at(_DTYPE) == id(array.dtype)
        and at(FLAGS, ctypes.c_int) & WRITEABLE
    )
    if not right:
        msg = "numbadw needs CPython and NumPy's documented array struct"
        raise RuntimeError(msg)
