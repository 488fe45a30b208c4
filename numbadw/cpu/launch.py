"""Call a compiled kernel by address, serially or over threads.

    launch(x, w, b, o, call, check):                 # call: a record, see records.py
        read the data pointers of the four arrays
        refuse a read-only result or one that may overlap an input
        take the threads, or run alone if another call has them
        for piece in range(pieces):                  # whichever thread is free
            kernel(x, w, b, o, 0, plan, items * piece // pieces, ...)

The threads are our own (pool.py), or Numba's where those cannot run or the variable
NUMBADW_THREADING_LAYER says `numba`.  Arrays come as objects.py says.
"""

from __future__ import annotations

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
from numbadw.cpu.atomics import put, update
from numbadw.cpu.objects import (
    FLAGS,
    OBJECT,
    WRITEABLE,
    check_struct,
    data,
    is_like,
    where,
)
from numbadw.cpu.plan import Plan
from numbadw.cpu.pool import JOB_BYTES, read_job, run_piece
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

I32, I64 = ir.IntType(32), ir.IntType(64)
JOB = ir.ArrayType(I64, 8)  # kernel, x, w, b, o, g, plan, chunks


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
def _status(x: int, o: int, places: Any, plan: int, check: int) -> int:
    """Tell whether the kernel may run: writable result, no possible overlap.

    `x` and `o` are the arrays' addresses, `places` those of all data.
    """
    if check == ARRAYS:
        sizes, dtype = plan + get(plan, "plan.sizes_at"), get(plan, "plan.dtype")
        if not is_like(x, sizes, dtype) or not is_like(o, sizes + 64, dtype):
            return UNKNOWN
    if not word(o + FLAGS) & WRITEABLE:
        return READ_ONLY
    if check == NOTHING:
        return DONE
    xa, wa, ba, oa = places
    low, high = oa + get(plan, "plan.o_low"), oa + get(plan, "plan.o_high")
    if xa + get(plan, "plan.x_low") < high and low < xa + get(plan, "plan.x_high"):
        return OVERLAPS
    if wa < high and low < wa + get(plan, "plan.w_bytes"):
        return OVERLAPS
    if ba and ba < high and low < ba + get(plan, "plan.b_bytes"):
        return OVERLAPS
    return DONE


def _serial(x: Any, w: Any, b: Any, o: Any, call: Any, check: int) -> int:
    at = data(call)
    plan = get(at, "call.plan")
    places = (data(x), data(w), data(b), data(o))
    status = _status(where(x), where(o), places, plan, check)
    if status == DONE:
        run_piece((get(at, "call.kernel"), *places, 0, plan), 0, 1)
    return status


def _share(chunk: int, sizes: int, steps: int, job: int) -> None:
    """Run one chunk of a job; the arguments are those of a generalised ufunc."""
    run_piece(read_job(job), word(chunk), word(job + JOB_BYTES))


@register_jitable  # type: ignore[untyped-decorator]
def run_chunks(share: int, job: Any, pieces: int, threads: int) -> None:
    """Run a job on so many of Numba's threads: `pool.run_pieces` without a pool."""
    parallel_for(share, (*job, threads), threads)


def _layer() -> str:
    """Return whose threads to use: our own where they can run, or as the user says."""
    chosen = os.environ.get("NUMBADW_THREADING_LAYER", "").lower()
    return "own" if chosen != "numba" and pool.usable() else "numba"


LAYER = _layer()
# A global of compiled code, so that the drivers can be kept on disk.
spread = pool.run_pieces if LAYER == "own" else run_chunks


def _parallel(x: Any, w: Any, b: Any, o: Any, call: Any, check: int) -> int:
    at = data(call)
    plan = get(at, "call.plan")
    places = (data(x), data(w), data(b), data(o))
    status = _status(where(x), where(o), places, plan, check)
    if status == DONE:
        job = (get(at, "call.kernel"), *places, 0, plan)
        taken = get(at, "call.taken")
        if update("xchg", taken, 1):
            run_piece(job, 0, 1)
        else:
            pieces, threads = get(at, "call.pieces"), get(at, "call.threads")
            spread(get(at, "call.carrier"), job, pieces, threads)
            put(taken, 0)
    return status


SIGNATURE = types.int64(*[OBJECT] * 5, types.int64)
_ALIVE: list[Any] = []  # compiled functions that others know by address alone


@functools.cache
def serial_driver() -> jit.Driver:
    """Return the compiled driver for the calling thread alone."""
    check_struct()
    return jit.compile_driver(_serial, SIGNATURE)


@functools.cache
def parallel_driver() -> jit.Driver:
    """Return the compiled driver that spreads items over threads."""
    check_struct()
    return compile_parallel(_parallel, SIGNATURE)


@threads.undisturbed()
def compile_parallel(function: Any, kind: Any) -> jit.Driver:
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


# A launch costs 0.2 us with the threads awake, 1 us where their cores have no L3 in
# common, 6 us after idling: a share below that gains nothing.  Rates are rough on
# purpose; they only decide how many to wake.
SHARE_SECONDS = 1.5e-6
FLOPS_PER_SECOND = 120e9
BYTES_PER_SECOND = 60e9
# Pieces for each thread to take: enough for one to help another that is held up; one
# where a thread has fewer than so many shares, as to take a piece costs 0.1 us.
PIECES, FEW_SHARES = 2, 6


def shares(flops: int, touched: int, items: int) -> int:
    """Return into how many parallel shares a problem is worth splitting."""
    seconds = max(flops / FLOPS_PER_SECOND, touched / BYTES_PER_SECOND)
    return max(1, min(items, int(seconds / SHARE_SECONDS)))


@register_jitable  # type: ignore[untyped-decorator]
def piece_count(shares: int, threads: int) -> int:
    """Return into how many pieces to cut what so many threads share."""
    each = PIECES if shares >= FEW_SHARES * threads else 1
    return min(shares, each * threads)


def bind(kernel: int, plan: Plan, flops: int, touched: int) -> Run:
    """Return the run of a compiled kernel with its plan."""
    most = shares(flops, touched, plan.items)
    state = threads.state

    def record(carrier: int = 0, pieces: int = 1, count: int = 1) -> Any:
        words = [kernel, plan.address, carrier, pieces, count, threads.TAKEN]
        return np.array(words, np.int64)

    alone = record()
    serial: Any = None

    # `alive` keeps the integers that the kernel reads as long as the run.
    def run_serial(
        x: Any, w: Any, b: Any, o: Any, check: int, alive: Any = plan.integers
    ) -> int:
        nonlocal serial
        if serial is None:
            serial = serial_driver().call
        return serial(x, w, b, o, alone, check)  # type: ignore[no-any-return]

    if most == 1 or state.allowed == 1:
        return run_serial
    parallel: Any = None
    call: Any = None
    many = 0

    def run(
        x: Any, w: Any, b: Any, o: Any, check: int, alive: Any = plan.integers
    ) -> int:
        nonlocal parallel, call, many
        limit = state.limit
        if limit == 1:
            return run_serial(x, w, b, o, check)
        if limit != many:
            parallel, count = parallel_driver().call, min(most, limit)
            call = record(carrier(count), piece_count(most, limit), count)
            many = limit  # last: other threads and Ctrl-C may come between
        return parallel(x, w, b, o, call, check)  # type: ignore[no-any-return]

    return run
