"""Device arrays of our own: results on their way to another library, and test data.

Libraries that take arrays by DLPack alone get their results as these; the self-test
and the benchmark lay their arrays out with them, of any strides and alignment.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw.cuda import device, dlpack
from numbadw.cuda.emit import ITEMSIZE
from numbadw.cuda.halves import from_bf16

Array = npt.NDArray[Any]
_DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": np.uint16}
_NAMES = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16"}
LEGACY = 1  # the legacy default stream
_NAN = 0xFF  # all bytes so are NaN in every kind


class Resident:
    """An array in memory of ours on a device.

    Parameters
    ----------
    memory : device.Memory
        Where it lies.
    shape, strides : tuple of int
        Sizes, and steps in bytes.
    kind : str
        Of its elements: f32, f64, f16 or bf16.
    number : int
        The device.
    offset : int, default 0
        Bytes from the memory's begin to element 0.
    """

    def __init__(
        self,
        memory: device.Memory,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        kind: str,
        number: int,
        offset: int = 0,
    ) -> None:
        self.memory, self.kind, self.number = memory, kind, number
        self.shape, self.strides = tuple(shape), tuple(strides)
        self.address = memory.address + offset
        self.dtype = _NAMES[kind]
        self.made_on = LEGACY

    @classmethod
    def empty(cls, shape: tuple[int, ...], kind: str, number: int) -> Resident:
        """Make a dense array of whatever the memory holds."""
        item = ITEMSIZE[kind]
        memory = device.Memory(max(1, item * math.prod(shape)), number)
        steps = tuple(item * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        return cls(memory, shape, steps, kind, number)

    @classmethod
    def of(cls, array: Array, kind: str, number: int) -> Resident:
        """Copy a NumPy array as it lies: its strides, its place within 256 bytes.

        Its elements are of the kind already (bf16: uint16).
        """
        low, span = _span(array)
        place = array.__array_interface__["data"][0]
        before = (place + low) % 256
        memory = device.Memory(before + max(1, span), number)
        made = cls(memory, array.shape, array.strides, kind, number, before - low)
        if span:
            with device.using(number):
                copy = device.driver().cuMemcpyHtoD
                device.check(copy(memory.address + before, place + low, span))
        return made

    def poison(self) -> None:
        """Fill a dense array with NaN."""
        with device.using(self.number):
            size = ITEMSIZE[self.kind] * math.prod(self.shape)
            device.check(device.driver().cuMemsetD8(self.address, _NAN, size))

    def fetch(self, into: Array) -> Array:
        """Copy to a NumPy array of the same shape, strides and elements; wait."""
        low, span = _span(into)
        if span:
            with device.using(self.number):
                place = into.__array_interface__["data"][0] + low
                copy = device.driver().cuMemcpyDtoH
                device.check(copy(place, self.address + low, span))
        return into

    def numpy(self) -> Array:
        """Give a dense array's numbers, bfloat16 as float32."""
        found = self.fetch(np.empty(self.shape, _DTYPES[self.kind]))
        return from_bf16(found) if self.kind == "bf16" else found

    def part(self, first: int, last: int) -> Resident:
        """Give a view of the entries first .. last - 1 along the first axis."""
        offset = self.address - self.memory.address + first * self.strides[0]
        shape = (last - first, *self.shape[1:])
        return Resident(
            self.memory, shape, self.strides, self.kind, self.number, offset
        )

    @property
    def form(self) -> Any:
        """The form that `arrays.read` gives."""
        return "own", self.shape, self.strides, self.dtype, self.number

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.number

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> Any:
        """Export a dense array; the consumer's stream waits for the one it is made on.

        The options after `stream` are those of newer protocols, and have no effect.
        """
        if stream != -1:
            then = LEGACY if stream is None else stream
            device.wait(self.made_on, then, self.number)
        place = self.address, self.__dlpack_device__()
        return dlpack.export(place, self.shape, self.kind, self.memory)


def _span(array: Array) -> tuple[int, int]:
    """Give the first byte from element 0 on, and how many bytes there are."""
    if array.size == 0:
        return 0, 0
    steps = [
        (size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)
    ]
    low = sum(step for step in steps if step < 0)
    return low, sum(map(abs, steps)) + array.itemsize
