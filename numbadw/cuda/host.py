"""NumPy arrays in and out: through pinned memory, in chunks of whole images.

    copy to pinned -> copy to device -> kernel -> copy to pinned -> copy out

Two slots take chunks in turn, each on a stream of its own, so that copies both ways
and kernels overlap.  The kernel gradient needs all images at once and takes no chunks.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw.cuda import device, plan
from numbadw.cuda.gradients import backward
from numbadw.cuda.halves import KINDS
from numbadw.cuda.launch import Bound
from numbadw.geometry import Geometry

Array = npt.NDArray[Any]
# Bytes of a slot's pinned memory each way, unless one image is larger.
CHUNK = 32 << 20
# What device allocations and the pinned slots begin on.
ALIGN = 256


class Slot:
    """A stream with pinned memory both ways and the result that is still on its way."""

    def __init__(self, number: int) -> None:
        from cuda.core import StreamOptions

        options = StreamOptions(nonblocking=True)
        self.stream = device.device(number).create_stream(options=options)
        self.pending: tuple[Array, Array] | None = None
        self._memory: dict[str, Array] = {}

    def pinned(self, use: str, like: Array) -> Array:
        """Return pinned memory as a dense array of a shape and dtype."""
        size = max(like.nbytes, 1)
        held = self._memory.get(use)
        if held is None or held.nbytes < size:
            bindings = device.driver()
            if held is not None:
                device.check(bindings.cuMemFreeHost(held.ctypes.data))
                del self._memory[use]
            size = max(size, CHUNK)
            address = int(device.check(bindings.cuMemAllocHost(size)))
            raw = (ctypes.c_uint8 * size).from_address(address)
            held = self._memory[use] = np.ctypeslib.as_array(raw)
        return held[: like.nbytes].view(like.dtype).reshape(like.shape)

    def send(self, array: Array, address: int) -> None:
        """Copy an array of any strides to the device, dense."""
        staged = self.pinned("in", array)
        np.copyto(staged, array)
        copy = device.driver().cuMemcpyHtoDAsync
        source = staged.ctypes.data
        device.check(copy(address, source, array.nbytes, self.stream.handle))

    def fetch(self, address: int, out: Array) -> None:
        """Copy a dense array from the device; it is in `out` after `settle`."""
        staged = self.pinned("out", out)
        copy = device.driver().cuMemcpyDtoHAsync
        target = staged.ctypes.data
        device.check(copy(target, address, out.nbytes, self.stream.handle))
        self.pending = staged, out

    def settle(self) -> None:
        """Wait for the slot's work and hand its result over."""
        self.stream.sync()
        if self.pending is not None:
            staged, out = self.pending
            np.copyto(out, staged)
            self.pending = None


class Machine:
    """A device's slots; one call at a time uses them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()
        self.slots = Slot(number), Slot(number)

    def allocate(self, size: int, slot: Slot) -> Any:
        """Allocate device memory in the order of a slot's stream."""
        pool = device.device(self.number).memory_resource
        return pool.allocate(max(size, ALIGN), stream=slot.stream)


@functools.cache
def machine(number: int) -> Machine:
    """Return the machine of a device."""
    return Machine(number)


def _chunks(n: int, image_bytes: int) -> list[tuple[int, int]]:
    """Split images into chunks of at most `CHUNK` bytes, at least one image each."""
    most = max(1, CHUNK // max(1, image_bytes))
    return [(first, min(n, first + most)) for first in range(0, n, most)]


def _in_chunks(
    bind: Callable[[Geometry], Bound],
    geometry: Geometry,
    number: int,
    names: tuple[str, str],
) -> Callable[[Array, Array, Mapping[str, Array]], None]:
    """Return `run(source, target, weights)`: images through the device in chunks.

    `names` are the launches' for what is read and what is written.
    """
    # Chunks are of one size and perhaps one smaller one.
    bound = functools.cache(lambda n: bind(replace(geometry, n=n)))

    def run(source: Array, target: Array, weights: Mapping[str, Array]) -> None:
        here = machine(number)
        images = max(source[:1].nbytes, target[:1].nbytes)
        with here.lock, device.using(number):
            first = here.slots[0]
            buffers, addresses = _send_all(here, first, weights)
            # The other slot's stream must find the weights, too.
            first.settle()
            for turn, (begin, end) in enumerate(_chunks(len(source), images)):
                slot = here.slots[turn % 2]
                slot.settle()
                piece, out = source[begin:end], target[begin:end]
                both = [here.allocate(array.nbytes, slot) for array in (piece, out)]
                places = [int(buffer.handle) for buffer in both]
                slot.send(piece, places[0])
                own = dict(zip(names, places, strict=True))
                bound(end - begin)({**addresses, **own}, int(slot.stream.handle))
                slot.fetch(places[1], out)
                for buffer in both:
                    buffer.close(slot.stream)
            for slot in here.slots:
                slot.settle()
            for buffer in buffers:
                buffer.close(first.stream)

    return run


def _send_all(
    here: Machine, slot: Slot, arrays: Mapping[str, Array]
) -> tuple[list[Any], dict[str, int]]:
    """Copy arrays to the device one after the other; give buffers and addresses."""
    buffers, addresses = [], {}
    for name, array in arrays.items():
        buffer = here.allocate(array.nbytes, slot)
        buffers.append(buffer)
        addresses[name] = int(buffer.handle)
        slot.settle()
        slot.send(array, addresses[name])
    return buffers, addresses


def _problem(geometry: Geometry, dtype: np.dtype[Any]) -> plan.Problem:
    return plan.Problem(geometry, KINDS[dtype.name], 16)


def make_forward(
    geometry: Geometry, dtype: np.dtype[Any], activation: str, parameter: float
) -> Callable[[Array, Array, Mapping[str, Array]], None]:
    """Return `run(inputs, out, {"w": kernel, "b": bias})` for NumPy arrays."""
    number = device.current()

    def bind(part: Geometry) -> Bound:
        x, o = (
            plan.dense(shape, dtype.itemsize)
            for shape in (part.input_shape, part.output_shape)
        )
        launches = plan.forward(_problem(part, dtype), x, o, activation)
        return Bound(launches, number, parameter)

    return _in_chunks(bind, geometry, number, ("x", "o"))


def make_input_grad(
    geometry: Geometry, dtype: np.dtype[Any]
) -> Callable[[Array, Array, Mapping[str, Array]], None]:
    """Return `run(grad, x_grad, {"w": kernel})` for NumPy arrays."""
    number = device.current()

    def bind(part: Geometry) -> Bound:
        x, o = (
            plan.dense(shape, dtype.itemsize)
            for shape in (part.input_shape, part.output_shape)
        )
        return Bound(plan.input_grad(_problem(part, dtype), x, o), number, 0.0)

    return _in_chunks(bind, geometry, number, ("g", "x_grad"))


def make_gradients(
    geometry: Geometry,
    dtype: np.dtype[Any],
    activation: str,
    parameter: float,
    wanted: str,
) -> Callable[[Mapping[str, Array], Mapping[str, Array]], None]:
    """Return `run(given, results)` for NumPy arrays by the launches' names."""
    number = device.current()
    x, o = (
        plan.dense(shape, dtype.itemsize)
        for shape in (geometry.input_shape, geometry.output_shape)
    )
    steps = backward(_problem(geometry, dtype), x, o, x, activation, wanted)
    scratch = {"part": steps.parts, "inner": steps.inner}
    bound = Bound(steps.launches, number, parameter, scratch)

    def run(given: Mapping[str, Array], results: Mapping[str, Array]) -> None:
        here = machine(number)
        with here.lock, device.using(number):
            slot = here.slots[0]
            buffers, addresses = _send_all(here, slot, given)
            for name, array in results.items():
                buffers.append(here.allocate(array.nbytes, slot))
                addresses[name] = int(buffers[-1].handle)
            bound(addresses, int(slot.stream.handle))
            _fetch_all(slot, addresses, results)
            for buffer in buffers:
                buffer.close(slot.stream)

    return run


def _fetch_all(
    slot: Slot, addresses: Mapping[str, int], results: Mapping[str, Array]
) -> None:
    for name, array in results.items():
        slot.fetch(addresses[name], array)
        slot.settle()
