"""Plans with kernels loaded, and what a call does: fill in addresses, launch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numbadw.cuda import compile as compiler
from numbadw.cuda import device
from numbadw.cuda.plan import Launch
from numbadw.cuda.spec import Spec, typed


@functools.cache
def _kernel(spec: Spec, number: int) -> Any:
    """Compile a kernel, or find it in the cache, and load it onto a device."""
    from cuda.core import ObjectCode

    with device.using(number):
        code, symbol = compiler.cubin(spec, device.capability(number))
        return ObjectCode.from_cubin(code).get_kernel(symbol)


@functools.lru_cache(maxsize=256)
def stream(handle: int) -> Any:
    """Wrap a stream's handle; 0 and 1 are the legacy default stream, 2 the thread's."""
    from cuda.core import Stream

    return Stream.from_handle(handle)


class Bound:
    """Launches on one device, their kernels, grids and numbers ready.

    Calling it takes addresses by array name, the stream and the bytes of the parts
    come from the plan.
    """

    __slots__ = ("_launch", "_number", "_parts", "_steps")

    def __init__(
        self, launches: Sequence[Launch], number: int, slope: float, parts: int = 0
    ) -> None:
        from cuda.core import LaunchConfig, launch

        self._launch = launch
        self._number = number
        self._parts = parts
        self._steps = []
        for step in launches:
            config = LaunchConfig(grid=step.grid, block=step.spec.threads)
            own = np.float64 if step.spec.kind == "f64" else np.float32
            numbers = (*typed(step.sizes), own(slope))
            kernel = _kernel(step.spec, number)
            self._steps.append((config, kernel, step.arrays, numbers))

    def __call__(self, addresses: Mapping[str, int], on: Any) -> None:
        """Launch on a stream; addresses of arrays that are not given are 0."""
        parts = None
        if self._parts:
            pool = device.device(self._number).memory_resource
            parts = pool.allocate(self._parts, stream=on)
            addresses = {**addresses, "part": int(parts.handle)}
        for config, kernel, arrays, numbers in self._steps:
            places = []
            for name, offset in arrays:
                base = addresses.get(name, 0)
                places.append(base + offset if base else 0)
            self._launch(on, config, kernel, *places, *numbers)
        if parts is not None:
            parts.close(on)
