"""Call a compiled kernel by address, serially or over threads.

    launch(kernel, x, w, b, o, plan, pieces, threads, check):
        read the data pointers of the four arrays
        refuse a read-only result or one that may overlap an input
        for piece in range(pieces):                  # whichever thread is free
            kernel(x, w, b, o, 0, plan, items * piece // pieces, ...)

The threads are our own (pool.py), or Numba's where those cannot run or the variable
NUMBADW_THREADING_LAYER says `numba`.

Arrays come as `id(array)`: an integer crosses into compiled code in 30 ns where an
array takes 100 ns and one compiled driver per array type.  The data pointer is the
first field of NumPy's public array struct, right after the object header.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import numpy as np
from llvmlite import ir
from numba import get_num_threads
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from numbadw import jit, threads
from numbadw.cpu import pool
from numbadw.cpu.plan import Plan
from numbadw.cpu.pool import call_kernel, run_piece
from numbadw.cpu.records import equal, get, word
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
DATA = _HEADER
_NDIM = _HEADER + 8
_SHAPE = _HEADER + 16
_STRIDES = _HEADER + 24
_DTYPE = _HEADER + 40
_FLAGS = _HEADER + 48
_WRITEABLE = 0x0400
I32, I64 = ir.IntType(32), ir.IntType(64)
JOB = ir.ArrayType(I64, 9)  # kernel, x, w, b, o, g, plan, items, chunks


@intrinsic  # type: ignore[untyped-decorator]
def parallel_for(typingctx: Any, share: Any, job: Any, chunks: Any) -> Any:
    """Run `share(chunk, job)` for every chunk, one to each of Numba's threads.

    This is the call that a prange loop ends in, whatever the threading layer; made
    directly it costs 1.0 us, inside Numba's scheduling of array arguments 1.4 us, and
    no part of it needs Numba's slow parallel compilation.
    `share` gets the address of one "array argument" that starts at 0 with step 1: the
    number of its chunk.  Numba's own thread count stays as it was.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        share, job, chunks = args
        address = ir.PointerType()
        words = [cgutils.alloca_once(builder, kind) for kind in (JOB, I64, I64, I64)]
        fields, start, count, step = words
        builder.store(job, fields)
        builder.store(ir.Constant(I64, 0), start)
        builder.store(chunks, count)
        builder.store(ir.Constant(I64, 1), step)
        kind = ir.FunctionType(ir.VoidType(), [address] * 5 + [I64] * 3)
        name = "numba_parallel_for"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        pointers = [builder.inttoptr(share, address)]
        pointers += [builder.bitcast(w, address) for w in (start, count, step, fields)]
        sizes = [ir.Constant(I64, 0), ir.Constant(I64, 1), chunks]
        # The call leaves its own count behind as the calling thread's.
        getter, setter = ir.FunctionType(I32, []), ir.FunctionType(ir.VoidType(), [I32])
        module = builder.module
        get_count = cgutils.get_or_insert_function(module, getter, "get_num_threads")
        set_count = cgutils.get_or_insert_function(module, setter, "set_num_threads")
        before = builder.call(get_count, [])
        builder.call(function, [*pointers, *sizes])
        builder.call(set_count, [before])
        return context.get_dummy_value()

    return types.void(types.int64, job, types.int64), codegen


@register_jitable  # type: ignore[untyped-decorator]
def _known(array: int, sizes: int, dtype: int) -> bool:
    """Tell whether an array has the four sizes, the four steps and the dtype object."""
    same = (word(array + _NDIM) & 0xFFFFFFFF) == 4 and word(array + _DTYPE) == dtype
    return (
        same
        and equal(word(array + _SHAPE), sizes, 4)
        and equal(word(array + _STRIDES), sizes + 32, 4)
    )


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
    xa, oa = word(x + DATA), word(o + DATA)
    low, high = oa + get(plan, "plan.o_low"), oa + get(plan, "plan.o_high")
    if xa + get(plan, "plan.x_low") < high and low < xa + get(plan, "plan.x_high"):
        return OVERLAPS
    if wa < high and low < wa + get(plan, "plan.w_bytes"):
        return OVERLAPS
    if ba and ba < high and low < ba + get(plan, "plan.b_bytes"):
        return OVERLAPS
    return DONE


def _serial(kernel: int, x: int, w: int, b: int, o: int, plan: int, check: int) -> int:
    xa, wa = word(x + DATA), word(w + DATA)
    ba = word(b + DATA) if b else 0
    status = _status(x, o, wa, ba, plan, check)
    if status == DONE:
        items = get(plan, "plan.items")
        call_kernel(kernel, (xa, wa, ba, word(o + DATA), 0, plan, 0, items))
    return status


def _share(chunk: int, sizes: int, steps: int, job: int) -> None:
    """Run one chunk of a job; the arguments are those of a generalised ufunc."""
    run_piece(job, word(chunk))


@register_jitable  # type: ignore[untyped-decorator]
def run_chunks(share: int, fields: Any, threads: int) -> None:
    """Run a job on so many of Numba's threads: `pool.run_pieces` without a pool."""
    kernel, x, w, b, o, g, plan, items, _ = fields
    job = (kernel, x, w, b, o, g, plan, items, threads)
    parallel_for(share, job, threads)


def _layer() -> str:
    """Return whose threads to use: our own where they can run, or as the user says."""
    chosen = os.environ.get("NUMBADW_THREADING_LAYER", "").lower()
    return "own" if chosen != "numba" and pool.usable() else "numba"


LAYER = _layer()
# A global of compiled code, so that the drivers can be kept on disk.
spread = pool.run_pieces if LAYER == "own" else run_chunks


def _parallel(
    carrier: int,
    kernel: int,
    x: int,
    w: int,
    b: int,
    o: int,
    plan: int,
    pieces: int,
    threads: int,
    check: int,
) -> int:
    xa, wa, oa = word(x + DATA), word(w + DATA), word(o + DATA)
    ba = word(b + DATA) if b else 0
    status = _status(x, o, wa, ba, plan, check)
    if status == DONE:
        items = get(plan, "plan.items")
        spread(carrier, (kernel, xa, wa, ba, oa, 0, plan, items, pieces), threads)
    return status


_ALIVE: list[Any] = []  # compiled functions that others know by address alone


@functools.cache
def serial_driver() -> Any:
    """Return the compiled driver for the calling thread alone."""
    _check_struct()
    return jit.compile_driver(_serial, signature(7))


@functools.cache
def parallel_driver() -> Any:
    """Return the compiled driver that spreads items over threads."""
    _check_struct()
    return compile_parallel(_parallel, signature(10))


@threads.undisturbed()
def compile_parallel(function: Any, kind: str) -> Any:
    """Compile a driver that calls `spread`, under a name that says whose threads."""
    if LAYER == "numba":
        get_num_threads()  # starts Numba's threads and defines `numba_parallel_for`
    function.__qualname__ = f"{function.__module__}.{function.__name__}_{LAYER}"
    return jit.compile_driver(function, kind)


@functools.cache
def _numba_share() -> int:
    share = jit.compile_c_function(_share, 4)
    _ALIVE.append(share)
    return int(share.address)


def carrier(threads: int) -> int:
    """Return what `spread` needs: the pool with enough workers, or `_share`."""
    if LAYER == "numba":
        return _numba_share()
    ours = pool.pool()
    if ours.workers < threads - 1:
        ours.grow(threads - 1)
    return ours.address


def signature(count: int, result: str = "int64") -> str:
    """Return Numba's words for a function of `count` integers."""
    return f"{result}({', '.join(['int64'] * count)})"


def _check_struct() -> None:
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
        and at(_FLAGS, ctypes.c_int) & _WRITEABLE
    )
    if not right:
        msg = "numbadw needs CPython and NumPy's documented array struct"
        raise RuntimeError(msg)


# A launch costs 0.5 us with the threads awake, 6 us after idling: a share below that
# gains nothing.  Rates are rough on purpose; they only decide how many to wake.
SHARE_SECONDS = 1.5e-6
FLOPS_PER_SECOND = 120e9
BYTES_PER_SECOND = 60e9
# Pieces for each thread to take: enough for one to help another that is held up.
PIECES = 2


def shares(flops: int, touched: int, items: int) -> int:
    """Return into how many parallel shares a problem is worth splitting."""
    seconds = max(flops / FLOPS_PER_SECOND, touched / BYTES_PER_SECOND)
    return max(1, min(items, int(seconds / SHARE_SECONDS)))


def bind(kernel: int, plan: Plan, flops: int, touched: int) -> Run:
    """Return the run of a compiled kernel with its plan."""
    address = plan.address
    most = shares(flops, touched, plan.items)
    state, running = threads.state, threads.running
    serial: Any = None

    # `alive` keeps the integers that the kernel reads as long as the run.
    def run_serial(
        x: Any, w: Any, b: Any, o: Any, check: int, alive: Any = plan.integers
    ) -> int:
        nonlocal serial
        if serial is None:
            serial = serial_driver()
        bias = 0 if b is None else id(b)
        status = serial(kernel, id(x), id(w), bias, id(o), address, check)
        return status  # type: ignore[no-any-return]

    if most == 1 or state.allowed == 1:
        return run_serial
    parallel: Any = None
    carried = many = pieces = 0

    def run(
        x: Any, w: Any, b: Any, o: Any, check: int, alive: Any = plan.integers
    ) -> int:
        nonlocal parallel, carried, many, pieces
        limit, me = state.limit, object()
        try:
            if limit == 1 or running.setdefault(None, me) is not me:
                return run_serial(x, w, b, o, check)
            if limit != many:
                parallel = parallel_driver()
                carried = carrier(min(most, limit))
                pieces = min(most, PIECES * limit)
                many = limit  # last: Ctrl-C may come between
            bias = 0 if b is None else id(b)
            arrays = id(x), id(w), bias, id(o)
            status = parallel(
                carried, kernel, *arrays, address, pieces, min(most, many), check
            )
            running.clear()
            return status  # type: ignore[no-any-return]
        except BaseException:
            threads.give_back(me)
            raise

    return run
