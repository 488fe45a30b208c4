"""Two jobs that need nothing of each other, in one launch.

    for item in range(first, last):                          # whichever thread is free
        first quarter of the items:  pieces of the first job, its first half
        second                       of the second job, its first half
        third                        of the first job, its second half
        last                         of the second job, its second half

The leader takes pieces from the front and the workers from the back (pool.py): so one
thread begins with the first job while the others begin with the second, and each does
both for its part of the arrays.  Where memory is the limit that is faster than one
after the other: a core's stores past the caches leave the way for loads idle, and no
thread waits between the jobs.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from numbadw import jit
from numbadw.cpu.atomics import write
from numbadw.cpu.pool import JOB_BYTES, read_job, run_piece
from numbadw.cpu.records import get, index

# A pair's memory: a plan that knows its items alone, then both jobs.
ITEMS = 8 * index("plan.items")
JOBS = ITEMS + 8
# Pieces for each thread to take: pieces of the jobs differ, and at the end the others
# wait for the last.
PIECES = 8
_ALIVE: list[Any] = []  # compiled functions that others know by address alone


@intrinsic  # type: ignore[untyped-decorator]
def pair_memory(typingctx: Any) -> Any:
    """Return the address of a pair's memory on the caller's stack."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.ArrayType(ir.IntType(64), (JOBS + 2 * JOB_BYTES) // 8)
        at = cgutils.alloca_once(builder, kind)
        return builder.ptrtoint(at, ir.IntType(64))

    return types.int64(), codegen


@register_jitable  # type: ignore[untyped-decorator]
def hold(pair: int, number: int, job: Any) -> None:
    """Keep a job as the first or the second of a pair."""
    write(pair + JOBS + number * JOB_BYTES, job)


@register_jitable  # type: ignore[untyped-decorator]
def held(pair: int, number: int) -> Any:
    """Return a job of a pair."""
    return read_job(pair + JOBS + number * JOB_BYTES)


@register_jitable  # type: ignore[untyped-decorator]
def item_count(shares: int, threads: int) -> int:
    """Return into how many items to cut a pair that so many threads share."""
    return 4 * max(1, min(shares, PIECES * threads) // 4)


@register_jitable  # type: ignore[untyped-decorator]
def join(pair: int, kernel: int, items: int) -> Any:
    """Return both jobs as one of so many items; `kernel` is `pair_kernel()`."""
    write(pair + ITEMS, (items,))
    return kernel, 0, 0, 0, 0, 0, pair


def run_pair(
    x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
) -> None:
    """Run items of a pair; the signature is that of all kernels."""
    quarter = get(plan, "plan.items") // 4
    for item in range(first, last):
        turn = item // quarter
        piece = item % quarter + turn // 2 * quarter
        run_piece(held(plan, turn % 2), piece, 2 * quarter)


@functools.cache
def pair_kernel() -> int:
    """Return the address of the compiled `run_pair`."""
    compiled = jit.compile_c_function(run_pair, 8)
    _ALIVE.append(compiled)
    return int(compiled.address)
