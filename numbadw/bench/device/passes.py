"""numbadw's calls on the device: arrays that stay there, and NumPy arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import numbadw
from numbadw.bench.device import peers
from numbadw.bench.device.ceilings import sets
from numbadw.bench.device.clock import HostCall
from numbadw.bench.oracle import INPUT_GRAD, KERNEL_GRAD, OUTPUT
from numbadw.bench.passes import FORWARD, Pass
from numbadw.bench.workloads import Workload, make_grad
from numbadw.cuda import device
from numbadw.cuda.halves import KINDS, stored
from numbadw.cuda.resident import Resident

Array = npt.NDArray[Any]
Call = Callable[[], Any]
Calls = dict[str, Call]
# What is timed on the device, and what queueing it costs the host.
DEVICE, HOST = "device", "host"
# NumPy arrays in and out, end to end.
STAGED = "numpy"


def on_device(array: Array, workload: Workload, n: int | None = None) -> Any:
    """Copy an array to the device as the workload stores it; images n times in turn."""
    number, kind = device.current(), KINDS[workload.dtype]
    dense = np.ascontiguousarray(stored(array, kind))
    small = Resident.of(dense, kind, number)
    if n is None or n == len(array):
        return small
    whole = Resident.empty((n, *array.shape[1:]), kind, number)
    size, total = dense.nbytes, dense.nbytes // len(array) * n
    bindings = device.driver()
    with device.using(number):
        device.check(bindings.cuMemcpyDtoD(whole.address, small.address, size))
        while size < total:
            more = min(size, total - size)
            target = whole.address + size
            device.check(bindings.cuMemcpyDtoD(target, whole.address, more))
            size += more
    return whole


def read_images(result: Any, workload: Workload) -> Array:
    """Read the first and the last of a batch's different images."""
    n, distinct = result.shape[0], workload.distinct
    if n <= 2 * distinct:
        return np.asarray(result.numpy())
    ends = result.part(0, distinct), result.part(n - distinct, n)
    return np.concatenate([part.numpy() for part in ends])


def read_whole(result: Any, workload: Workload) -> Array:
    """Read all of a result."""
    return np.asarray(result.numpy())


def _calls(
    workload: Workload, shape: tuple[int, ...], make: Callable[[Any], Call]
) -> Calls:
    """Make the calls: `make` binds arrays of their own to a result of NaN.

    What a call leaves out shows as NaN, and no call finds the arrays of the one before
    in the cache.
    """
    kind, number = KINDS[workload.dtype], device.current()
    bound = []
    for _ in range(sets(workload.bytes, number)):
        out = Resident.empty(shape, kind, number)
        out.poison()
        bound.append(make(out))
    turns = itertools.cycle(bound)

    def call() -> Any:
        return next(turns)()

    return {DEVICE: call, HOST: HostCall(call, None)}


def prepare_forward(workload: Workload, inputs: Array, kernel: Array) -> Calls:
    """Make the calls of the forward pass."""
    weight, options = on_device(kernel, workload), workload.options

    def make(out: Any) -> Call:
        x = on_device(inputs, workload, workload.n)
        return partial(numbadw.depthwise_conv2d, x, weight, out=out, **options)

    return _calls(workload, workload.output_shape, make)


def _grad(workload: Workload, inputs: Array) -> Array:
    """Give the gradient at the results of the images that differ."""
    return make_grad(workload._replace(n=len(inputs)), workload.padding)


def prepare_input_grad(workload: Workload, inputs: Array, kernel: Array) -> Calls:
    """Make the calls of the gradient at the inputs."""
    weight, grad = on_device(kernel, workload), _grad(workload, inputs)
    shape, options = workload.input_shape, workload.options
    function = numbadw.depthwise_conv2d_input_grad

    def make(out: Any) -> Call:
        g = on_device(grad, workload, workload.n)
        return partial(function, g, weight, shape, out=out, **options)

    return _calls(workload, shape, make)


def prepare_kernel_grad(workload: Workload, inputs: Array, kernel: Array) -> Calls:
    """Make the calls of the gradient at the kernel."""
    grad, shape, options = (
        _grad(workload, inputs),
        workload.kernel_shape,
        workload.options,
    )
    function = numbadw.depthwise_conv2d_kernel_grad

    def make(out: Any) -> Call:
        x, g = (on_device(array, workload, workload.n) for array in (inputs, grad))
        return partial(function, x, g, shape, out=out, **options)

    return _calls(workload, shape, make)


def prepare_staged(workload: Workload, inputs: Array, kernel: Array) -> Calls:
    """Make the call on NumPy arrays, there and back."""
    x = np.tile(inputs, (workload.n // len(inputs), 1, 1, 1))
    call = partial(
        numbadw.depthwise_conv2d, x, kernel, backend="cuda", **workload.options
    )
    return {STAGED: HostCall(call, None)}


def _pass(name: str, result: str, prepare: Any, read: Any) -> Pass:
    every = peers.PEERS if name == FORWARD else peers.gradient_peers(result)
    return Pass(name, (result,), (DEVICE, HOST), every, prepare, read, True)


PASSES: Mapping[str, Pass] = {
    FORWARD: _pass(FORWARD, OUTPUT, prepare_forward, read_images),
    INPUT_GRAD: _pass(INPUT_GRAD, INPUT_GRAD, prepare_input_grad, read_images),
    KERNEL_GRAD: _pass(KERNEL_GRAD, KERNEL_GRAD, prepare_kernel_grad, read_whole),
    STAGED: Pass(STAGED, (OUTPUT,), (STAGED,), {}, prepare_staged, sampled=True),
}
