"""Workers that keep off the leader's core.

A sleeping worker is woken on the core where it last ran. Where that is the leader's,
it waits there for the leader's time slice to end (some milliseconds), while another
core idles: calls after a pause of 5 ms ran on one thread's speed. So the leader, when
it is about to wake one and finds itself on another core than before, allows the workers
all of its cores but this one.  Not at every launch: to ask for the core can be a system
call of 1.2 us.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.extending import register_jitable

from numbadw.cpu.atomics import call_c, write
from numbadw.cpu.records import word
from numbadw.memory import address

# Offsets of the words in memory.
GET_CORE = 0  # addresses of sched_getcpu, sched_getaffinity, pthread_setaffinity_np
GET_MASK = 8
SET_MASK = 16
CORE = 24  # the leader's, when the workers were last told
WORKERS = 32
THREADS = 40  # address of the workers' pthread_t
MASK = 64
# Cores that glibc's own cpu_set_t has room for; with more, workers run anywhere.
MASK_BYTES = 128
UNKNOWN = -1


@register_jitable  # type: ignore[untyped-decorator]
def keep_off(places: int) -> None:
    """Send the workers off the core that this, the leader's, thread runs on."""
    core = call_c(word(places + GET_CORE), ())
    if core == word(places + CORE):
        return
    write(places + CORE, (core,))
    mask = places + MASK
    if core < 0 or call_c(word(places + GET_MASK), (0, MASK_BYTES, mask)):
        return
    at = mask + 8 * (core >> 6)
    write(at, (word(at) & ~(1 << (core & 63)),))
    # Refused where the leader has but this one core.
    for i in range(word(places + WORKERS)):
        thread = word(word(places + THREADS) + 8 * i)
        call_c(word(places + SET_MASK), (thread, MASK_BYTES, mask))


class Places:
    """The memory that `keep_off` works on."""

    def __init__(self, c: Any) -> None:
        self._memory = np.zeros((MASK + MASK_BYTES) // 8, np.int64)
        self.address = address(self._memory)
        functions = {
            GET_CORE: "sched_getcpu",
            GET_MASK: "sched_getaffinity",
            SET_MASK: "pthread_setaffinity_np",
        }
        for at, name in functions.items():
            function = ctypes.cast(getattr(c, name), ctypes.c_void_p).value
            self._memory[at // 8] = function or 0
        self.hold([])

    def hold(self, threads: Sequence[int]) -> None:
        """Take the workers' POSIX threads, to be told at the next call."""
        self._threads = np.array([*threads, 0], np.uint64)
        self._memory[THREADS // 8] = address(self._threads)
        self._memory[WORKERS // 8] = len(threads)
        self._memory[CORE // 8] = UNKNOWN
