"""Plans with kernels loaded, and what a call does: fill in addresses, launch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from numbadw.cuda import compile as compiler
from numbadw.cuda import device
from numbadw.cuda.plan import Launch
from numbadw.cuda.spec import Spec, packed

# The labels of all kernels that this process has loaded.
LOADED: set[str] = set()


@functools.cache
def _kernel(spec: Spec, number: int) -> Any:
    """Compile a kernel, or find it in the cache, and load it onto a device."""
    from cuda.core import ObjectCode

    LOADED.add(spec.label)
    with device.using(number):
        code, symbol = compiler.cubin(spec, device.capability(number))
        return ObjectCode.from_cubin(code).get_kernel(symbol)


class _Step:
    """One launch: its kernel and grid, and its arguments as the driver reads them."""

    __slots__ = ("_arrays", "_bytes", "_free", "_function", "_grid", "_held", "_launch")

    def __init__(self, step: Launch, number: int, slope: float) -> None:
        bindings = device.driver()
        self._held = _kernel(step.spec, number)  # unloads its code when dropped
        self._function = bindings.CUfunction(int(self._held.handle))
        self._launch = bindings.cuLaunchKernel
        self._grid = *step.grid, step.spec.threads, 1, 1, 0
        self._bytes = packed(step.spec, step.sizes, slope)
        self._arrays = [
            (i, name, offset) for i, (name, offset) in enumerate(step.arrays) if name
        ]
        # Arguments that no call under way is using: the driver reads them without the
        # interpreter's lock.
        self._free: list[tuple[Any, Any, int]] = []

    def _fresh(self) -> tuple[Any, Any, int]:
        """Make arguments, an array of their addresses, and the address of that."""
        count = len(self._bytes) // 8
        values = (ctypes.c_int64 * count).from_buffer_copy(self._bytes)
        first = ctypes.addressof(values)
        places = (ctypes.c_void_p * count)(*(first + 8 * i for i in range(count)))
        return values, places, ctypes.addressof(places)

    def __call__(self, addresses: Mapping[str, int], on: int) -> None:
        try:
            arguments = self._free.pop()
        except IndexError:
            arguments = self._fresh()
        values = arguments[0]
        for i, name, offset in self._arrays:
            base = addresses.get(name, 0)
            values[i] = base + offset if base else 0
        status = self._launch(self._function, *self._grid, on, arguments[2], 0)
        self._free.append(arguments)
        if status[0]:
            device.check(status)


class Bound:
    """Launches on one device, their kernels, grids and numbers ready.

    Calling it takes addresses by array name and a stream's handle; arrays of `scratch`,
    (name, bytes), it allocates in the stream's order and frees again.
    """

    __slots__ = ("_number", "_pool", "_scratch", "_steps")

    def __init__(
        self,
        launches: Sequence[Launch],
        number: int,
        slope: float,
        scratch: Mapping[str, int] | None = None,
    ) -> None:
        self._number = number
        self._scratch = [item for item in (scratch or {}).items() if item[1]]
        self._steps = [_Step(step, number, slope) for step in launches]
        # Its release threshold keeps freed memory for the next call.
        self._pool: Any = device.device(number).memory_resource

    def __call__(self, addresses: Mapping[str, int], on: int) -> None:
        """Launch on a stream; addresses of arrays that are not given are 0."""
        if not self._scratch:
            for step in self._steps:
                step(addresses, on)
            return
        bindings, more = device.driver(), dict(addresses)
        allocate, pool = bindings.cuMemAllocFromPoolAsync, self._pool.handle
        made = []
        try:
            for name, size in self._scratch:
                more[name] = int(device.check(allocate(size, pool, on)))
                made.append(more[name])
            for step in self._steps:
                step(more, on)
        finally:
            for address in made:
                bindings.cuMemFreeAsync(address, on)
