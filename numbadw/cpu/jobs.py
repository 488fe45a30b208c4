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

A step may be joined with the next, as pairs.py says; one thread runs both in turn.
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
from numbadw.cpu import launch, pairs
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
    """A job, where its five addresses (x, w, b, o, g) are, and if the next joins it."""

    job: Job
    places: tuple[Place, Place, Place, Place, Place]
    joined: bool = False


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
def _run_alone(
    carrier: int, pair: int, count: int, kernel: int, shares: int, threads: int
) -> None:
    for number in range(count):
        run_piece(pairs.held(pair, number), 0, 1)


@register_jitable  # type: ignore[untyped-decorator]
def _run_spread(
    carrier: int, pair: int, count: int, kernel: int, shares: int, threads: int
) -> None:
    many = min(shares, threads)
    if many == 1:
        _run_alone(carrier, pair, count, kernel, shares, threads)
    elif count == 1:
        pieces = launch.piece_count(shares, threads)
        launch.spread(carrier, pairs.held(pair, 0), pieces, many)
    else:
        items = pairs.item_count(shares, many)
        launch.spread(carrier, pairs.join(pair, kernel, items), items, many)


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
        pair, count = pairs.pair_memory(), 0
        kernel = get(program, "program.pair_kernel")
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
                pairs.hold(pair, count, job)
                count += 1
            if count and not get(at, "step.joined"):
                run(carrier, pair, count, kernel, get(at, "step.shares"), threads)
                count = 0
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
        if steps and steps[-1].joined:
            msg = "the last step joins no other"
            raise ValueError(msg)
        pair = pairs.pair_kernel() if any(step.joined for step in self.steps) else 0
        words = [threads.TAKEN, len(clears), len(self.steps), pair]
        for place, count in clears:
            words += [*place, count]
        before, most = 0, 1
        for (kernel, _, address, shares), places, joined in self.steps:
            both = before + shares
            words += [kernel, address, both, joined]
            for place in places:
                words += place
            before, most = both if joined else 0, max(most, both)
        self._words = np.array(words, np.int64)
        self._shares = most

    def run(self, *arrays: Any) -> None:
        """Run on the arrays X, W, B, G, X_GRAD, W_GRAD, B_GRAD and SCRATCH, or None."""
        limit = threads.state.limit if self._shares > 1 else 1
        if limit == 1:
            serial_driver().call(self._words, 0, 1, arrays)
            return
        driver, carrier = parallel_driver(), launch.carrier(min(self._shares, limit))
        driver.call(self._words, carrier, limit, arrays)
