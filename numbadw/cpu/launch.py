"""Call a compiled kernel by address, serially or over Numba's threads.

    launch(kernel, x, w, b, o, plan, items, chunks, check):
        read the data pointers of the four arrays
        refuse a read-only result or one that may overlap an input
        for chunk in prange(chunks):                 # serial when chunks == 1
            kernel(x, w, b, o, plan, items * chunk // chunks, ...)

Arrays come as `id(array)`: an integer crosses into compiled code in 30 ns where an
array takes 100 ns and one compiled driver per array type.  The data pointer is the
first field of NumPy's public array struct, right after the object header.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, prange
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from numbadw import jit, threads
from numbadw.cpu.plan import Plan
from numbadw.cpu.records import get, word
from numbadw.dispatch import (
    ARRAYS,
    DONE,
    NOTHING,
    OVERLAPS,
    READ_ONLY,
    UNKNOWN,
    Run,
)

# Offsets in NumPy's public PyArrayObject_fields, fixed by its C interface: header,
# data, nd, dimensions, strides, base, descr, flags.
_HEADER = object.__basicsize__
_DATA = _HEADER
_NDIM = _HEADER + 8
_SHAPE = _HEADER + 16
_STRIDES = _HEADER + 24
_DTYPE = _HEADER + 40
_FLAGS = _HEADER + 48
_WRITEABLE = 0x0400
I32, I64 = ir.IntType(32), ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def call_kernel(
    typingctx: Any,
    kernel: Any,
    x: Any,
    w: Any,
    b: Any,
    o: Any,
    plan: Any,
    first: Any,
    last: Any,
) -> Any:
    """Call the kernel at an address with its seven integers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 7)
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen


@intrinsic  # type: ignore[untyped-decorator]
def use_threads(typingctx: Any, count: Any) -> Any:
    """Set Numba's thread count for the calling thread; return the one before.

    The symbols are those that Numba's own parallel loops call; its Python-level
    functions go through addresses that the disk cache cannot keep.  They are C ints,
    declared with the type that those loops declare in the same module.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        module = builder.module
        getter = ir.FunctionType(I64, [])
        setter = ir.FunctionType(ir.VoidType(), [I64])
        get_count = cgutils.get_or_insert_function(module, getter, "get_num_threads")
        set_count = cgutils.get_or_insert_function(module, setter, "set_num_threads")
        before = builder.call(get_count, [])
        builder.call(set_count, [args[0]])
        return builder.sext(builder.trunc(before, I32), I64)

    return types.int64(types.int64), codegen


@register_jitable  # type: ignore[untyped-decorator]
def _known(array: int, sizes: int, dtype: int) -> bool:
    """Tell whether an array has the four sizes, the four steps and the dtype object."""
    same = (word(array + _NDIM) & 0xFFFFFFFF) == 4 and word(array + _DTYPE) == dtype
    if same:
        shape, steps = word(array + _SHAPE), word(array + _STRIDES)
        for axis in range(4):
            same &= word(shape + 8 * axis) == word(sizes + 8 * axis)
            same &= word(steps + 8 * axis) == word(sizes + 32 + 8 * axis)
    return same


@register_jitable  # type: ignore[untyped-decorator]
def _status(x: int, o: int, wa: int, ba: int, plan: int, check: int) -> int:
    """Tell whether the kernel may run: writable result, no possible overlap."""
    if check == ARRAYS:
        sizes, dtype = plan + get(plan, "plan.sizes_at"), get(plan, "plan.dtype")
        if not _known(x, sizes, dtype) or not _known(o, sizes + 64, dtype):
            return UNKNOWN
    if not word(o + _FLAGS) & _WRITEABLE:
        return READ_ONLY
    if check == NOTHING:
        return DONE
    xa, oa = word(x + _DATA), word(o + _DATA)
    low, high = oa + get(plan, "plan.o_low"), oa + get(plan, "plan.o_high")
    if xa + get(plan, "plan.x_low") < high and low < xa + get(plan, "plan.x_high"):
        return OVERLAPS
    if wa < high and low < wa + get(plan, "plan.w_bytes"):
        return OVERLAPS
    if ba and ba < high and low < ba + get(plan, "plan.b_bytes"):
        return OVERLAPS
    return DONE


def _serial(
    kernel: int, x: int, w: int, b: int, o: int, plan: int, items: int, check: int
) -> int:
    xa, wa = word(x + _DATA), word(w + _DATA)
    ba = word(b + _DATA) if b else 0
    status = _status(x, o, wa, ba, plan, check)
    if status == DONE:
        call_kernel(kernel, xa, wa, ba, word(o + _DATA), plan, 0, items)
    return status


def _parallel(
    kernel: int,
    x: int,
    w: int,
    b: int,
    o: int,
    plan: int,
    items: int,
    chunks: int,
    check: int,
) -> int:
    xa, wa, oa = word(x + _DATA), word(w + _DATA), word(o + _DATA)
    ba = word(b + _DATA) if b else 0
    status = _status(x, o, wa, ba, plan, check)
    if status == DONE:
        before = use_threads(chunks)
        for chunk in prange(chunks):
            first, last = items * chunk // chunks, items * (chunk + 1) // chunks
            call_kernel(kernel, xa, wa, ba, oa, plan, first, last)
        use_threads(before)
    return status


@functools.cache
def serial_driver() -> Any:
    """Return the compiled driver for the calling thread alone."""
    _check_struct()
    return jit.compile_driver(_serial, _signature(8), parallel=False)


@functools.cache
def parallel_driver() -> Any:
    """Return the compiled driver that spreads items over Numba's threads."""
    _check_struct()
    return jit.compile_driver(_parallel, _signature(9), parallel=True)


def _signature(count: int) -> str:
    return f"int64({', '.join(['int64'] * count)})"


def _check_struct() -> None:
    """Make sure that this interpreter lays NumPy arrays out as documented."""
    array = np.zeros((3, 5), np.float32)[:, ::2]

    def at(offset: int, kind: Any = ctypes.c_int64) -> Any:
        return kind.from_address(id(array) + offset).value

    shape = tuple((ctypes.c_int64 * 2).from_address(at(_SHAPE)))
    steps = tuple((ctypes.c_int64 * 2).from_address(at(_STRIDES)))
    right = (
        at(_DATA) == array.ctypes.data
        and at(_NDIM, ctypes.c_int) == array.ndim
        and (shape, steps) == (array.shape, array.strides)
        and at(_DTYPE) == id(array.dtype)
        and at(_FLAGS, ctypes.c_int) & _WRITEABLE
    )
    if not right:
        msg = "numbadw needs CPython and NumPy's documented array struct"
        raise RuntimeError(msg)


# A parallel launch costs 1.2 us with the threads awake: a share below this gains
# nothing.  Rates are rough on purpose; they only decide how many threads to wake.
SHARE_SECONDS = 2e-6
FLOPS_PER_SECOND = 120e9
BYTES_PER_SECOND = 60e9


def shares(flops: int, touched: int, items: int) -> int:
    """Return into how many parallel shares a problem is worth splitting."""
    seconds = max(flops / FLOPS_PER_SECOND, touched / BYTES_PER_SECOND)
    return max(1, min(items, int(seconds / SHARE_SECONDS)))


def bind(kernel: int, plan: Plan, flops: int, touched: int) -> Run:
    """Return the run of a compiled kernel with its plan."""
    address, items = plan.address, plan.items
    chunks = min(shares(flops, touched, items), config.NUMBA_NUM_THREADS)
    serial = serial_driver()
    state, lock = threads.state, threads.running

    # `alive` keeps the integers that the kernel reads as long as the run.
    def run_serial(
        x: Any, w: Any, b: Any, o: Any, check: int, alive: Any = plan.integers
    ) -> int:
        bias = 0 if b is None else id(b)
        status = serial(kernel, id(x), id(w), bias, id(o), address, items, check)
        return status  # type: ignore[no-any-return]

    if chunks == 1 or state.allowed == 1:
        return run_serial
    parallel: Any = None

    def run(
        x: Any, w: Any, b: Any, o: Any, check: int, alive: Any = plan.integers
    ) -> int:
        nonlocal parallel
        limit = state.limit
        if limit == 1 or not lock.acquire(False):
            return run_serial(x, w, b, o, check)
        try:
            if parallel is None:
                parallel = parallel_driver()
            share = chunks if chunks < limit else limit
            bias = 0 if b is None else id(b)
            status = parallel(
                kernel, id(x), id(w), bias, id(o), address, items, share, check
            )
            return status  # type: ignore[no-any-return]
        finally:
            lock.release()

    return run
