"""Threads of our own: a launch costs less than OpenMP's and never waits for an idler.

    leader                                   worker
    write the job                            wait for a ticket with pieces left
    write the ticket: so many pieces         take pieces from the back
    send sleepers off this core, wake them   done += 1 for each
    take pieces from the front
    wait until the others' are done

The ticket is one word: how many pieces there are, how many are taken from the front and
from the back, and how many workers may take any.  Pieces are taken one by one, so a
worker that the system does not run delays nobody: the leader does its share.  OpenMP,
which Numba uses, waits for every thread at every launch; with one more busy process on
2 cores that cost 8 ms a call.  The leader takes pieces from one end and the workers
from the other, so that consecutive calls find the same rows in the same core's cache.

Whoever has taken a piece may read the job: the leader writes the next only when all
pieces are done, and until it writes the next ticket none is left to take.

A line that another core has written takes 60 ns to come, 210 where that core has an L3
of its own, and an atomic operation waits for it: a launch stores to one line, ticket
and job, and is no atomic operation, and the first piece is the leader's without asking.

Workers spin for some tens of microseconds, then sleep on a semaphore.  They are plain
POSIX threads that run compiled code alone: they never need the GIL, no signal is
delivered to them, and they end before the interpreter does.  Where there are no POSIX
semaphores Numba's threading layer serves instead (launch.py).
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import signal
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, register_jitable

from numbadw import jit, threads
from numbadw.cpu import affinity
from numbadw.cpu.atomics import call_c, fetch, pause, put, update, write
from numbadw.cpu.records import index, word
from numbadw.memory import address, aligned_empty

I16, I64 = ir.IntType(16), ir.IntType(64)
LINE = 64
# Offsets in the pool's memory; what different threads write has a line of its own.
TICKET = 0
JOB = 8  # kernel, x, w, b, o, g, plan: these and the ticket fill a line
JOB_BYTES = 56
POST = LINE  # addresses of sem_post, sem_wait and sched_yield
WAIT = POST + 8
YIELD = POST + 16
PLACES = POST + 24  # address of what affinity.py keeps
STOPPED = POST + 32
DONE = 2 * LINE  # pieces that workers have done, ever
GIVEN = 3 * LINE  # pieces that leaders have left to workers, ever
SLEEPERS = 4 * LINE
SEMAPHORE = 5 * LINE
SIZE = 6 * LINE
# The ticket, 16 bits each: pieces taken from the back and from the front, pieces, and
# workers that may take them.
FRONT_AT, PIECES_AT, WORKERS_AT = 16, 32, 48
BACK, FRONT = 1, 1 << FRONT_AT
FIELD = (1 << 16) - 1
# Pauses before a worker sleeps or a leader yields: 30 to 100 us.
SPINS = 2000


@intrinsic  # type: ignore[untyped-decorator]
def call_kernel(typingctx: Any, kernel: Any, places: Any) -> Any:
    """Call the kernel at an address with its eight integers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call(builder, args[0], [builder.extract_value(args[1], i) for i in range(8)])
        return context.get_dummy_value()

    return types.void(types.int64, places), codegen


def _call(builder: Any, kernel: Any, values: list[Any]) -> None:
    """Emit the call of a kernel by address."""
    kind = ir.FunctionType(ir.VoidType(), [I64] * 8)
    builder.call(builder.inttoptr(kernel, kind.as_pointer()), values)


@intrinsic  # type: ignore[untyped-decorator]
def run_piece(typingctx: Any, job: Any, piece: Any, pieces: Any) -> Any:
    """Run one piece of a job: items `items * piece // pieces` to those of the next.

    Contract: job = (kernel, x, w, b, o, g, plan), whose plan knows the items.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        job, piece, pieces = args
        kernel, *places = (builder.extract_value(job, i) for i in range(7))
        at = builder.add(places[-1], ir.Constant(I64, 8 * index("plan.items")))
        items = builder.load(builder.inttoptr(at, ir.PointerType()), typ=I64)
        following = builder.add(piece, ir.Constant(I64, 1))
        bounds = [
            builder.udiv(builder.mul(items, number), pieces)
            for number in (piece, following)
        ]
        _call(builder, kernel, [*places, *bounds])
        return context.get_dummy_value()

    return types.void(job, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def read_job(typingctx: Any, at: Any) -> Any:
    """Return the seven words of the job that a leader wrote."""
    words = JOB_BYTES // 8
    kind = types.UniTuple(types.int64, words)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = builder.inttoptr(args[0], ir.PointerType())
        return builder.load(start, typ=ir.ArrayType(I64, words), align=8)

    return kind(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def left(typingctx: Any, ticket: Any) -> Any:
    """Return how many pieces a ticket has left, below zero where too many asked."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        back, front, pieces = (
            builder.zext(
                builder.trunc(builder.lshr(args[0], ir.Constant(I64, at)), I16), I64
            )
            for at in (0, FRONT_AT, PIECES_AT)
        )
        return builder.sub(builder.sub(pieces, front), back)

    return types.int64(types.int64), codegen


def _work(me: int) -> None:
    """Serve the pool until it stops; `me` holds the pool's address and a number."""
    pool, number = word(me), word(me + 8)
    spins = 0
    while True:
        ticket = fetch(pool + TICKET)
        if left(ticket) > 0 and number < ticket >> WORKERS_AT:
            ticket = update("add", pool + TICKET, BACK)
            if left(ticket) > 0:
                pieces = ticket >> PIECES_AT & FIELD
                piece = pieces - 1 - (ticket & FIELD)
                run_piece(read_job(pool + JOB), piece, pieces)
                update("add", pool + DONE, 1)
            spins = 0
        elif fetch(pool + STOPPED):
            return
        elif spins < SPINS:
            pause()
            spins += 1
        else:
            # A job published between these two lines is done without us.
            update("add", pool + SLEEPERS, 1)
            call_c(word(pool + WAIT), (pool + SEMAPHORE,))
            spins = 0


@register_jitable  # type: ignore[untyped-decorator]
def run_pieces(pool: int, job: Any, pieces: int, threads: int) -> None:
    """Run a job in pieces on at most so many threads, the calling one among them.

    Contract: job as in `run_piece`, one call at a time.
    """
    write(pool + JOB, job)
    put(pool + TICKET, threads - 1 << WORKERS_AT | pieces << PIECES_AT | FRONT)
    if fetch(pool + SLEEPERS):
        affinity.keep_off(word(pool + PLACES))
        for _ in range(update("xchg", pool + SLEEPERS, 0)):
            call_c(word(pool + POST), (pool + SEMAPHORE,))
    own, piece = 0, 0
    while piece < pieces:
        run_piece(job, piece, pieces)
        own += 1
        ticket = update("add", pool + TICKET, FRONT)
        piece = ticket >> FRONT_AT & FIELD if left(ticket) > 0 else pieces
    given = word(pool + GIVEN) + pieces - own
    write(pool + GIVEN, (given,))
    spins = 0
    while fetch(pool + DONE) < given:
        if spins < SPINS:
            pause()
            spins += 1
        else:
            call_c(word(pool + YIELD), ())


def usable() -> bool:
    """Tell whether this system has POSIX threads and unnamed semaphores."""
    return sys.platform.startswith("linux")


class Pool:
    """The workers, and the memory they share with the leader."""

    @threads.undisturbed()
    def __init__(self) -> None:
        self._c = c = ctypes.CDLL(None, use_errno=True)
        self._memory = aligned_empty((SIZE // 8,), np.int64)
        self._memory.fill(0)
        self.address = address(self._memory)
        functions = {POST: "sem_post", WAIT: "sem_wait", YIELD: "sched_yield"}
        for at, name in functions.items():
            function = ctypes.cast(getattr(c, name), ctypes.c_void_p).value
            self._memory[at // 8] = function or 0
        self._places = affinity.Places(c)
        self._memory[PLACES // 8] = self._places.address
        c.sem_init(ctypes.c_void_p(self.address + SEMAPHORE), 0, 0)
        self._entry = jit.compile_c_function(_work, 1)
        self._threads: list[Any] = []
        self._records: list[Any] = []
        self._process = os.getpid()
        self.workers = 0
        atexit.register(self.stop)

    @threads.undisturbed()
    def grow(self, workers: int) -> None:
        """Start workers until there are so many, or the system refuses."""
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            while self.workers < workers and not self._memory[STOPPED // 8]:
                record = np.array([self.address, self.workers], np.int64)
                thread = ctypes.c_ulong()
                entry = ctypes.c_void_p(self._entry.address)
                place = ctypes.c_void_p(address(record))
                reference = ctypes.byref(thread)
                if self._c.pthread_create(reference, None, entry, place):
                    break
                self._threads.append(thread)
                self._records.append(record)
                self.workers += 1
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._places.hold([int(thread.value or 0) for thread in self._threads])

    def stop(self) -> None:
        """End the workers and wait for them; a forked child has none."""
        if os.getpid() != self._process:
            return
        self._memory[STOPPED // 8] = 1
        for _ in self._threads:
            self._c.sem_post(ctypes.c_void_p(self.address + SEMAPHORE))
        for thread in self._threads:
            self._c.pthread_join(thread, None)
        self._threads.clear()
        self.workers = 0


@functools.cache
def pool() -> Pool:
    """Return the process's pool, made at the first parallel call."""
    return Pool()
