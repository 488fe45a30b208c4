"""How many threads numbadw uses, and when it must not use any of its own.

The count is process-wide and numbadw's alone: Numba's own setting is read and put
back round every parallel call.  It never exceeds the CPU affinity, the cgroup's CPU
quota or what the environment allows.

Three rules keep the host process alive, whoever's threads run (cpu/launch.py).  One
parallel call runs at a time and others meanwhile run on their own thread alone: Numba's
workqueue layer ends the process on concurrent launches, and more threads would only
fight for the same cores.  A forked child runs serially: threads do not survive a fork.
A fork waits for the first call of a kind that another thread is in: the child would
wait for ever for the locks of that thread, which it does not have.
"""

from __future__ import annotations

import ctypes
import gc
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llvmlite.binding import ffi
from numba.core.compiler_lock import global_compiler_lock as compiling

from numbadw import interrupts

_LIMITS = ("NUMBADW_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")

# One word that is not 0 while a call has the threads, in a cache line of its own.
# Compiled code takes and leaves them: Ctrl-C cannot come between, as it would between a
# lock's acquisition and the block that releases it.
_taken = (ctypes.c_int64 * 16)()
TAKEN = ctypes.addressof(_taken) + ctypes.sizeof(_taken) // 2


def busy() -> bool:
    """Tell whether a call has the threads."""
    return ctypes.c_int64.from_address(TAKEN).value != 0


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep forks, other threads' first calls and Ctrl-C waiting until the block ends.

    For all that a first call does: import, compile, start threads.  Python's cycle
    collector keeps still, too, which would take a tenth of the time.
    """
    with interrupts.held(), compiling, uncollected():
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's cycle collector still until the block ends."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the CPUs that the cgroup's quota amounts to, at least 1."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota == "max" or not quota.isdigit():
        return None
    return max(1, int(quota) // int(period))


def _environment() -> list[int]:
    """Return the limits set by environment variables (OMP's list: its first)."""
    values = (os.environ.get(name, "").split(",")[0].strip() for name in _LIMITS)
    return [int(value) for value in values if value.isdigit() and int(value) > 0]


def allowed() -> int:
    """Return the most threads this process may use."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    quota = _quota()
    limits = [cpus, *_environment()] + ([quota] if quota is not None else [])
    return max(1, min(limits))


class _State:
    """The present count; `limit` is what launches read."""

    def __init__(self) -> None:
        self.allowed = allowed()
        self.limit = self.allowed
        self.forked = False


state = _State()


# llvmlite's own lock, of calls that hold no other: what LLVM made is freed whenever
# Python collects garbage, on any thread.
_llvm = ffi.lib._lock._lock


def _before_fork() -> None:
    compiling.acquire()
    _llvm.acquire()


def _release() -> None:
    for lock in (_llvm, compiling._lock):
        if lock._is_owned():  # not where Ctrl-C ended the wait for it
            lock.release()


def _after_fork() -> None:
    state.forked = True
    state.limit = 1
    _release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_release,
        after_in_child=_after_fork,
    )


def get_num_threads() -> int:
    """Return how many threads numbadw may use.

    Examples
    --------
    >>> import numbadw
    >>> numbadw.get_num_threads() >= 1
    True
    """
    return state.limit


def set_num_threads(n: int) -> None:
    """Set how many threads numbadw may use, for the whole process.

    Parameters
    ----------
    n : int
        At least 1; above the allowed count (affinity, cgroup quota, environment) it
        is lowered to it.  In a forked child the count stays 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1.

    Examples
    --------
    >>> import numbadw
    >>> numbadw.set_num_threads(1)
    >>> numbadw.get_num_threads()
    1
    """
    if isinstance(n, bool):
        msg = "n must be an int, got bool"
        raise TypeError(msg)
    try:
        count = operator.index(n)
    except TypeError:
        msg = f"n must be an int, got {type(n).__name__}"
        raise TypeError(msg) from None
    if count < 1:
        msg = f"n must be at least 1, got {count}"
        raise ValueError(msg)
    state.limit = 1 if state.forked else min(count, state.allowed)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Set the thread count within a `with` block and put it back afterwards.

    Parameters
    ----------
    n : int
        As in `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        As `set_num_threads` raises them.

    Examples
    --------
    >>> import numbadw
    >>> with numbadw.num_threads(1):
    ...     numbadw.get_num_threads()
    1
    """
    before = state.limit
    set_num_threads(n)
    try:
        yield
    finally:
        state.limit = 1 if state.forked else before
