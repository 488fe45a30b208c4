"""Which devices there are, and why none can be used.

Nothing is asked at import: the driver is loaded by the first call that needs it.
"""

from __future__ import annotations

import functools
import importlib
import threading
import weakref
from typing import Any

INSTALL = "pip install 'numbadw[cuda13]' (or cuda12)"
_LOCK = threading.Lock()
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING


@functools.cache
def driver() -> Any:
    """Return the driver's bindings."""
    return importlib.import_module("cuda.bindings.driver")


def check(result: tuple[Any, ...]) -> Any:
    """Give what a call of the driver returned, or raise its error by name."""
    error, *values = result
    if int(error):
        out_of_memory = error.name == "CUDA_ERROR_OUT_OF_MEMORY"
        kind = MemoryError if out_of_memory else RuntimeError
        raise kind(f"the CUDA driver reports {error.name}")
    return values[0] if len(values) == 1 else values


def version(number: int) -> str:
    """Write a version such as 13050 as 13.5."""
    return f"{number // 1000}.{number % 1000 // 10}"


def toolkit() -> int:
    """Return the version of the compiler's linker, whose code the driver must load."""
    major, minor = importlib.import_module("cuda.bindings.nvjitlink").version()
    return int(major) * 1000 + int(minor) * 10


def problem() -> str:
    """Tell why CUDA cannot be used and what would help; nothing where it can."""
    for name in ("numba.cuda.compiler", "cuda.core", "cuda.bindings.nvjitlink"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"numba-cuda is not installed ({error}): {INSTALL}"
    try:
        bindings = driver()
        status = bindings.cuInit(0)[0]
    except Exception as failure:
        return f"there is no CUDA driver ({failure}): install NVIDIA's driver"
    if status.name == "CUDA_ERROR_NO_DEVICE":
        return "the CUDA driver finds no device"
    if int(status):
        return f"the CUDA driver does not start: {status.name}"
    found, needed = check(bindings.cuDriverGetVersion()), toolkit()
    if found // 1000 < needed // 1000:
        return (
            f"the CUDA driver is too old: it is of CUDA {version(found)}, the "
            f"installed compiler of {version(needed)}: update the driver, or {INSTALL} "
            "for the driver's CUDA"
        )
    if not check(bindings.cuDeviceGetCount()):
        return "the CUDA driver finds no device"
    return ""


def require() -> None:
    """Raise RuntimeError with the reason where CUDA cannot be used."""
    reason = problem()
    if reason:
        raise RuntimeError(reason)


@functools.cache
def device(number: int) -> Any:
    """Return cuda.core's device, started."""
    from cuda.core import Device

    with _LOCK:
        found = Device(number)
        found.set_current()
    return found


@functools.cache
def _context(number: int) -> int:
    """Return the handle of a device's own context."""
    bindings = driver()
    before = check(bindings.cuCtxGetCurrent())
    device(number).set_current()
    own = int(check(bindings.cuCtxGetCurrent()))
    check(bindings.cuCtxSetCurrent(before))
    return own


class using:
    """Make a device the calling thread's for a while, and put its own back."""

    __slots__ = ("_before", "_own")

    def __init__(self, number: int) -> None:
        self._own = _context(number)

    def __enter__(self) -> None:
        bindings = driver()
        self._before = check(bindings.cuCtxGetCurrent())
        if int(self._before) != self._own:
            check(bindings.cuCtxSetCurrent(self._own))

    def __exit__(self, *failure: object) -> None:
        # A thread that had no device keeps this one, as with CUDA's own runtime.
        before = int(self._before)
        if before not in (0, self._own):
            check(driver().cuCtxSetCurrent(self._before))


class Memory:
    """Device memory that lives as long as this object."""

    def __init__(self, size: int, number: int) -> None:
        with using(number):
            self.address = int(check(driver().cuMemAlloc(size)))
        # The end of the process frees it, too, and needs no interpreter for that.
        weakref.finalize(self, _free, self.address, number).atexit = False


def _free(address: int, number: int) -> None:
    # Freeing waits for the device: no kernel that uses the memory is left.
    with using(number):
        driver().cuMemFree(address)


def event(on: int, number: int) -> Any:
    """Make an event that a stream comes to after what it was given so far."""
    bindings = driver()
    with using(number):
        made = check(bindings.cuEventCreate(_NO_TIMING))
        check(bindings.cuEventRecord(made, on))
    return made


def wait(first: int, then: int, number: int) -> None:
    """Have a stream wait for what another was given so far; the host goes on."""
    # 0 is another handle of the legacy default stream, 1.
    if (first or 1) == (then or 1):
        return
    bindings = driver()
    made = event(first, number)
    with using(number):
        check(bindings.cuStreamWaitEvent(then, made, 0))
        check(bindings.cuEventDestroy(made))


def capability(number: int) -> int:
    """Return a device's compute capability times ten, such as 90."""
    return int(device(number).arch)


def current() -> int:
    """Return the number of the calling thread's device, 0 where it has none."""
    bindings = driver()
    error, number = bindings.cuCtxGetDevice()
    return 0 if int(error) else int(number)


def describe() -> str:
    """Name the devices, the driver's and the compiler's CUDA; or why there are none."""
    reason = problem()
    if reason:
        return f"none: {reason}"
    bindings = driver()
    names = []
    for number in range(check(bindings.cuDeviceGetCount())):
        handle = check(bindings.cuDeviceGet(number))
        name = check(bindings.cuDeviceGetName(128, handle))
        names.append(f"{number}: {name.split(bytes(1))[0].decode()}")
    found = version(check(bindings.cuDriverGetVersion()))
    return f"{', '.join(names)} (driver CUDA {found}, compiler {version(toolkit())})"
