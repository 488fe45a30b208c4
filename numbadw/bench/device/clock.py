"""Time on the device: events round calls that were queued up before the first began.

    fill the stream with work of no interest
    event, calls, event          queued while the device is busy
    the difference               of the device's own time, no gaps of the host in it

A call that its own library runs on another stream, or that waits by itself, is timed by
the host's clock, as is the time that queueing takes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numbadw.bench.measure import interleaved
from numbadw.cuda import device
from numbadw.cuda.resident import LEGACY, Resident

# Bytes that one piece of the work in front writes, and how many pieces at most.
FILLER, MOST_PIECES = 1 << 25, 1 << 10
TRIES = 6
# No batch takes less: events tell half microseconds apart, and may show none at all.
RESOLUTION = 1e-7


@dataclass(frozen=True)
class HostCall:
    """A call that the host's clock times: with its end (`wait`), or its queueing."""

    function: Callable[[], Any]
    wait: Callable[[], object] | None

    def __call__(self) -> Any:
        """Make the call."""
        return self.function()


class DeviceClock:
    """Times calls on one device's legacy default stream."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._filler = Resident.empty((FILLER,), "f16", number)
        self._pieces = 1
        bindings = device.driver()
        with device.using(number):
            self._events = [device.check(bindings.cuEventCreate(0)) for _ in range(2)]

    def __call__(self, call: Callable[[], object], repeat: int) -> float:
        """Give the seconds that `repeat` calls take."""
        with device.using(self._number):
            if isinstance(call, HostCall):
                return self._by_host(call, repeat)
            self._pieces = max(1, self._pieces // 2)
            for _ in range(TRIES):
                seconds, queued = self._by_events(call, repeat)
                if queued or self._pieces >= MOST_PIECES:
                    break
                self._pieces *= 4
            return seconds

    def _by_events(self, call: Callable[[], object], repeat: int) -> tuple[float, bool]:
        """Give the seconds, and whether all was queued before the device came to it."""
        bindings = device.driver()
        first, last = self._events
        for _ in range(self._pieces):
            device.check(
                bindings.cuMemsetD8Async(self._filler.address, 0, 2 * FILLER, LEGACY)
            )
        device.check(bindings.cuEventRecord(first, LEGACY))
        for _ in range(repeat):
            call()
        queued = bool(int(bindings.cuEventQuery(first)[0]))
        device.check(bindings.cuEventRecord(last, LEGACY))
        device.check(bindings.cuEventSynchronize(last))
        elapsed = device.check(bindings.cuEventElapsedTime(first, last))
        return max(RESOLUTION, 1e-3 * float(elapsed)), queued

    def _by_host(self, call: HostCall, repeat: int) -> float:
        bindings = device.driver()
        device.check(bindings.cuCtxSynchronize())
        begin = time.perf_counter()
        for _ in range(repeat):
            call()
        if call.wait is not None:
            call.wait()
        seconds = time.perf_counter() - begin
        device.check(bindings.cuCtxSynchronize())
        return seconds


@functools.cache
def clock(number: int) -> DeviceClock:
    """Return the clock of a device."""
    return DeviceClock(number)


def timed(calls: Any, **options: Any) -> dict[str, float]:
    """Time calls on the current device as `measure.interleaved` does on the CPU."""
    return interleaved(calls, settle=0.0, clock=clock(device.current()), **options)
