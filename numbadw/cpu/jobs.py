"""Run compiled kernels one after the other, from Python, on plain addresses.

The gradients take several kernels a call: copies, sums, one for each result.  A `Job`
is one of them with its plan; `run_all` goes through a list of jobs.

    with the threads, if they are free:
        for job, addresses in work:
            for piece in range(pieces):                  # whichever thread is free
                kernel(x, w, b, o, g, plan, items * piece // pieces, ...)
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from numbadw import jit, threads
from numbadw.cpu import launch
from numbadw.cpu.kernels import kernel_address
from numbadw.cpu.plan import Plan
from numbadw.cpu.pool import call_kernel
from numbadw.cpu.records import get

# The five addresses a kernel takes: inputs, kernel, bias, result, gradient.
Places = Sequence[int]


class Job(NamedTuple):
    """A compiled kernel, its plan, and into how many shares it is worth splitting."""

    kernel: int
    plan: Plan
    address: int
    shares: int


def make_job(plan: Plan, flops: int, touched: int) -> Job:
    """Compile a plan's kernel; it does so many operations and touches so many bytes."""
    kernel = kernel_address(plan.feed, plan.tiles)
    shares = launch.shares(flops, touched, plan.items)
    return Job(kernel, plan, plan.address, shares)


def _serial(kernel: int, x: int, w: int, b: int, o: int, g: int, plan: int) -> None:
    items = get(plan, "plan.items")
    call_kernel(kernel, (x, w, b, o, g, plan, 0, items))


def _parallel(
    carrier: int,
    kernel: int,
    x: int,
    w: int,
    b: int,
    o: int,
    g: int,
    plan: int,
    pieces: int,
    threads: int,
) -> None:
    items = get(plan, "plan.items")
    launch.spread(carrier, (kernel, x, w, b, o, g, plan, items, pieces), threads)


@functools.cache
def serial_driver() -> Any:
    """Return the compiled driver for the calling thread alone."""
    return jit.compile_driver(_serial, launch.signature(7, "void"))


@functools.cache
def parallel_driver() -> Any:
    """Return the compiled driver that spreads items over threads."""
    return launch.compile_parallel(_parallel, launch.signature(10, "void"))


def run_all(work: Iterable[tuple[Job, Places]]) -> None:
    """Run jobs in order, each over the threads where that pays and they are free."""
    serial = serial_driver()
    limit = threads.state.limit
    me = object()
    try:
        many = limit > 1 and threads.running.setdefault(None, me) is me
        for (kernel, _, address, most), places in work:
            if many and most > 1:
                parallel = parallel_driver()
                count = min(most, limit)
                pieces = min(most, launch.PIECES * limit)
                carrier = launch.carrier(count)
                parallel(carrier, kernel, *places, address, pieces, count)
            else:
                serial(kernel, *places, address)
        if many:
            threads.running.clear()
    except BaseException:
        threads.give_back(me)
        raise
