"""What the device can do at most: measured copies, and multiply-adds by its clock."""

from __future__ import annotations

import itertools
import math

from numbadw.bench.ceilings import Ceilings
from numbadw.bench.device.clock import clock
from numbadw.cuda import device
from numbadw.cuda.resident import LEGACY, Resident

# Bytes of source and target together.
SMALLEST, LARGEST = 1 << 20, 1 << 31
TRIALS, TRIAL_SECONDS, MOST_COPIES = 5, 1e-3, 200
# float32 multiply-adds a clock of a multiprocessor, by compute capability.
LANES = {75: 64, 80: 64, 90: 128, 100: 128}
USUAL_LANES = 128
# A working set so many times the second-level cache is read from memory.
PAST_CACHE = 4


def measure_ceilings(threads: int) -> Ceilings:
    """Measure the copies of all sizes; the host's threads do not matter."""
    number = device.current()
    buffer = Resident.empty((LARGEST // 2,), "f16", number)
    sizes = [1 << i for i in range(SMALLEST.bit_length() - 1, LARGEST.bit_length())]
    copies = []
    for size in sizes:
        speed = _copy_speed(buffer, size, number)
        copies.append((size, speed, speed))
    return Ceilings(threads, _multiply_adds(number), tuple(copies))


def sets(size: int, number: int) -> int:
    """Give how many sets of so many bytes calls must take in turn."""
    return max(1, min(64, math.ceil(PAST_CACHE * _cache_bytes(number) / size)))


def _cache_bytes(number: int) -> int:
    attribute = device.driver().CUdevice_attribute
    return _attribute(attribute.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, number)


def _multiply_adds(number: int) -> float:
    """Give the operations a second at the clock that the device names."""
    attribute = device.driver().CUdevice_attribute
    lanes = LANES.get(device.capability(number), USUAL_LANES)
    count = _attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, number)
    kilohertz = _attribute(attribute.CU_DEVICE_ATTRIBUTE_CLOCK_RATE, number)
    return 2e3 * lanes * count * kilohertz


def _attribute(name: object, number: int) -> int:
    bindings = device.driver()
    handle = device.check(bindings.cuDeviceGet(number))
    return int(device.check(bindings.cuDeviceGetAttribute(name, handle)))


def _copy_speed(buffer: Resident, size: int, number: int) -> float:
    """Give the bytes a second, read and written, of copies that move `size` bytes."""
    bindings, half = device.driver(), size // 2
    # Each copy reads and writes what the last few did not.
    room = max(1, min(buffer.shape[0] * 2 // size, sets(size, number)))
    places = itertools.cycle(buffer.address + i * size for i in range(room))

    def copy() -> None:
        at = next(places)
        device.check(bindings.cuMemcpyDtoDAsync(at + half, at, half, LEGACY))

    time = clock(number)
    once = time(copy, 1)
    repeat = max(1, min(MOST_COPIES, int(TRIAL_SECONDS / max(once, 1e-6))))
    return size * repeat / min(time(copy, repeat) for _ in range(TRIALS))
