"""Programs: compiled kernels one after the other, on the arrays of one call.

The gradients take several kernels a call: copies, sums, one for each result, maybe for
each of many bands.  A `Program` is their list with all that can be known before, and
one compiled call runs it.

    read the data pointers of the arrays
    with the threads, unless another call has them:
        for stretch to clear: set it to 0
        for step:
            for piece in range(pieces):                  # whichever thread is free
                kernel(x, w, b, o, g, plan, items * piece // pieces, ...)

Arrays come as objects.py says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from numbadw import jit, threads
from numbadw.cpu import launch
from numbadw.cpu.atomics import put, update
from numbadw.cpu.kernels import kernel_address
from numbadw.cpu.objects import OBJECT, data
from numbadw.cpu.plan import Plan
from numbadw.cpu.pool import run_piece
from numbadw.cpu.records import get, size

# The arrays of a call: none, those of a gradient's, and the program's own scratch.
NOTHING, X, W, B, G, X_GRAD, W_GRAD, B_GRAD, SCRATCH = range(9)
SIGNATURE = types.void(OBJECT, types.int64, types.int64, types.UniTuple(OBJECT, 8))
# An array and bytes from its start; those of NOTHING are an address, or 0 for none.
Place = tuple[int, int]
NONE: Place = (NOTHING, 0)


class Job(NamedTuple):
    """A compiled kernel, its plan, and into how many shares it is worth splitting."""

    kernel: int
    plan: Plan
    address: int
    shares: int


class Step(NamedTuple):
    """A job, and where its five addresses (x, w, b, o, g) are."""

    job: Job
    places: tuple[Place, Place, Place, Place, Place]


def make_job(plan: Plan, flops: int, touched: int) -> Job:
    """Compile a plan's kernel; it does so many operations and touches so many bytes."""
    kernel = kernel_address(plan.feed, plan.tiles)
    shares = launch.shares(flops, touched, plan.items)
    return Job(kernel, plan, plan.address, shares)


@intrinsic  # type: ignore[untyped-decorator]
def _clear(typingctx: Any, address: Any, count: Any) -> Any:
    """Set so many bytes from an address on to 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.PointerType(ir.IntType(8)))
        cgutils.memset(builder, pointer, args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@register_jitable  # type: ignore[untyped-decorator]
def _place(bases: Any, name: int, skip: int) -> int:
    """Return the address of a place, 0 where the call has no such array."""
    base = bases[name]
    return base + skip if base or name == NOTHING else 0


@register_jitable  # type: ignore[untyped-decorator]
def _run_alone(carrier: int, job: Any, shares: int, threads: int) -> None:
    run_piece(job, 0, 1)


@register_jitable  # type: ignore[untyped-decorator]
def _run_spread(carrier: int, job: Any, shares: int, threads: int) -> None:
    count = min(shares, threads)
    if count == 1:
        run_piece(job, 0, 1)
    else:
        launch.spread(carrier, job, launch.piece_count(shares, threads), count)


CLEAR_BYTES, STEP_BYTES, HEAD_BYTES = (size(r) for r in ("clear", "step", "program"))


def _executor(run: Any) -> Callable[..., None]:
    """Build the loop over a program's steps round the way to run one."""

    def execute(words: Any, carrier: int, limit: int, arrays: Any) -> None:
        x, w, b, g, x_grad, w_grad, b_grad, scratch = arrays
        inputs = (0, data(x), data(w), data(b), data(g))
        bases = (*inputs, data(x_grad), data(w_grad), data(b_grad), data(scratch))
        program = data(words)
        taken = get(program, "program.taken")
        mine = limit > 1 and update("xchg", taken, 1) == 0
        threads = limit if mine else 1
        at = program + HEAD_BYTES
        for _ in range(get(program, "program.clears")):
            start = _place(bases, get(at, "clear.base"), get(at, "clear.skip"))
            if start:
                _clear(start, get(at, "clear.bytes"))
            at += CLEAR_BYTES
        for _ in range(get(program, "program.steps")):
            o = _place(bases, get(at, "step.o"), get(at, "step.o_skip"))
            if o:
                job = (
                    get(at, "step.kernel"),
                    _place(bases, get(at, "step.x"), get(at, "step.x_skip")),
                    _place(bases, get(at, "step.w"), get(at, "step.w_skip")),
                    _place(bases, get(at, "step.b"), get(at, "step.b_skip")),
                    o,
                    _place(bases, get(at, "step.g"), get(at, "step.g_skip")),
                    get(at, "step.plan"),
                )
                run(carrier, job, get(at, "step.shares"), threads)
            at += STEP_BYTES
        if mine:
            put(taken, 0)

    return execute


@functools.cache
def serial_driver() -> jit.Driver:
    """Return the compiled driver for the calling thread alone."""
    function = _executor(_run_alone)
    function.__qualname__ = f"{__name__}.execute_alone"
    return jit.compile_driver(function, SIGNATURE)


@functools.cache
def parallel_driver() -> jit.Driver:
    """Return the compiled driver that spreads items over threads, if they are free."""
    function = _executor(_run_spread)
    return launch.compile_parallel(function, SIGNATURE)


class Program:
    """Steps in order, with what is to be 0 before them: (place, bytes)."""

    def __init__(
        self, steps: Sequence[Step], clears: Sequence[tuple[Place, int]] = ()
    ) -> None:
        self.steps = tuple(steps)  # keeps the plans alive
        words = [threads.TAKEN, len(clears), len(self.steps)]
        for place, count in clears:
            words += [*place, count]
        for (kernel, _, address, shares), places in self.steps:
            words += [kernel, address, shares]
            for place in places:
                words += place
        self._words = np.array(words, np.int64)
        self._shares = max((step.job.shares for step in self.steps), default=1)

    def run(self, *arrays: Any) -> None:
        """Run on the arrays X, W, B, G, X_GRAD, W_GRAD, B_GRAD and SCRATCH, or None."""
        limit = threads.state.limit if self._shares > 1 else 1
        if limit == 1:
            serial_driver().call(self._words, 0, 1, arrays)
            return
        driver, carrier = parallel_driver(), launch.carrier(min(self._shares, limit))
        driver.call(self._words, carrier, limit, arrays)
