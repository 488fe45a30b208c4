"""Run compiled kernels one after the other, from Python, on plain addresses.

The gradients take several kernels a call: copies, sums, one for each result.  A `Job`
is one of them with its plan; `run_all` goes through a list of jobs.

    with the threads, if they are free:
        for job, addresses in work:
            for chunk in range(chunks):                  # each on its own thread
                kernel(x, w, b, o, g, plan, items * chunk // chunks, ...)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from numba import config

from numbadw import jit, threads
from numbadw.cpu import launch
from numbadw.cpu.kernels import kernel_address
from numbadw.cpu.plan import Plan

# The addresses a kernel takes: inputs, kernel, bias, result, gradient.
Places = tuple[int, int, int, int, int]


class Job(NamedTuple):
    """A compiled kernel, its plan, and into how many shares it is worth splitting."""

    kernel: int
    plan: Plan
    address: int
    chunks: int


def make_job(plan: Plan, flops: int, touched: int) -> Job:
    """Compile a plan's kernel; it does so many operations and touches so many bytes."""
    kernel = kernel_address(plan.feed, plan.tiles)
    chunks = min(launch.shares(flops, touched, plan.items), config.NUMBA_NUM_THREADS)
    return Job(kernel, plan, plan.address, chunks)


def _serial(
    kernel: int, x: int, w: int, b: int, o: int, g: int, plan: int, items: int
) -> None:
    launch.call_kernel(kernel, x, w, b, o, g, plan, 0, items)


def _parallel(
    share: int,
    kernel: int,
    x: int,
    w: int,
    b: int,
    o: int,
    g: int,
    plan: int,
    items: int,
    chunks: int,
) -> None:
    job = (kernel, x, w, b, o, g, plan, items, chunks)
    launch.parallel_for(share, job, chunks)


@functools.cache
def _serial_driver() -> Any:
    return jit.compile_driver(_serial, launch.signature(8, "void"))


@functools.cache
def _parallel_driver() -> tuple[Callable[..., None], int]:
    _, share = launch.parallel_driver()
    return jit.compile_driver(_parallel, launch.signature(10, "void")), share


def run_all(work: Iterable[tuple[Job, Places]]) -> None:
    """Run jobs in order, each over the threads where that pays and they are free."""
    serial = _serial_driver()
    limit = threads.state.limit
    many = limit > 1 and threads.running.acquire(False)
    try:
        for (kernel, plan, address, most), places in work:
            chunks = min(most, limit)
            if many and chunks > 1:
                parallel, share = _parallel_driver()
                parallel(share, kernel, *places, address, plan.items, chunks)
            else:
                serial(kernel, *places, address, plan.items)
    finally:
        if many:
            threads.running.release()
