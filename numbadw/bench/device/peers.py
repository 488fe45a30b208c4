"""PyTorch, JAX and CuPy on the device, each in the layout and mode that it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw.bench.device.ceilings import sets
from numbadw.bench.device.clock import HostCall
from numbadw.bench.peers import frameworks
from numbadw.bench.peers.frameworks import Place
from numbadw.bench.peers.prepared import Prepare, Prepared, Unavailable, require
from numbadw.bench.workloads import Workload, make_grad
from numbadw.cuda import device

Array = npt.NDArray[Any]
# What JAX calls the device.
PLATFORM = "gpu"


class OnGpu(Place):
    """PyTorch's tensors on the current device, and with or without cuDNN there."""

    def __init__(self, cudnn: bool) -> None:
        self._cudnn = cudnn
        self._distinct = 0

    def images(self, tensor: Any, workload: Workload) -> list[Any]:
        """Give as many batches as do not fit the cache together."""
        torch = _torch()
        count = sets(workload.bytes, device.current())
        self._distinct = workload.distinct
        small = self.weight(tensor, workload)
        last = torch.channels_last
        dense = small.is_contiguous(memory_format=last) and not small.is_contiguous()
        order = last if dense else torch.contiguous_format
        times = workload.n // len(small)
        return [
            small.repeat(times, 1, 1, 1).contiguous(memory_format=order)
            for _ in range(count)
        ]

    def weight(self, tensor: Any, workload: Workload) -> Any:
        """Copy a tensor there, in the workload's dtype and its own order."""
        torch = _torch()
        dtype = getattr(torch, workload.dtype)
        with torch.inference_mode():
            return tensor.to(f"cuda:{device.current()}", dtype)

    def read(self, tensor: Any) -> Array:
        """Read a kernel, or the first and the last of the different images."""
        n, distinct = len(tensor), self._distinct
        if tensor.dim() == 4 and n > 2 * distinct and tensor.shape[1] != 1:
            tensor = _torch().cat([tensor[:distinct], tensor[n - distinct :]])
        return np.asarray(tensor.float().cpu().numpy())

    def call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give a function as it chooses by itself, or without cuDNN."""
        cudnn = _torch().backends.cudnn
        cudnn.benchmark = True
        if self._cudnn:
            return function

        def native(*given: Any) -> Any:
            with cudnn.flags(enabled=False):
                return function(*given)

        return native


def _torch() -> Any:
    torch = require("torch")
    if not torch.cuda.is_available():
        raise Unavailable("PyTorch is built without CUDA, or finds no device")
    return torch


def _on_gpu(
    prepare: Callable[..., Prepared], cudnn: bool, *given: Any, **options: Any
) -> Prepared:
    """Prepare PyTorch on the device."""
    _torch()
    return prepare(*given, place=OnGpu(cudnn), **options)


def _torches(forward: Callable[[str], Callable[..., Prepared]]) -> dict[str, Prepare]:
    layouts = {"channels_last": "NHWC", "contiguous": "NCHW"}
    return {
        f"torch_{how}_{name}": partial(_on_gpu, forward(layout), how == "cudnn")
        for how in ("cudnn", "native")
        for name, layout in layouts.items()
    }


def prepare_jax(
    wanted: str, workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare JAX's convolution, or a gradient that it derives, compiled.

    It works on streams of its own, so the host's clock times it, calls in a row.
    """
    del threads
    jax = require("jax")
    if not any(place.platform == PLATFORM for place in jax.devices()):
        raise Unavailable("JAX is built without CUDA, or finds no device")
    convolve = frameworks.jax_convolution(jax, workload, math.inf)
    dtype, times = workload.dtype, workload.n // len(inputs)

    def put(array: Array, repeat: int = 1) -> Any:
        there = jax.device_put(array).astype(dtype)
        return jax.numpy.tile(there, (repeat, 1, 1, 1)) if repeat > 1 else there

    grad = make_grad(workload._replace(n=len(inputs)), workload.padding)
    weight = put(frameworks.hwio(kernel))
    functions = {
        "output": lambda x, w, g: convolve(x, w),
        "input_grad": lambda x, w, g: jax.vjp(lambda a: convolve(a, w), x)[1](g)[0],
        "kernel_grad": lambda x, w, g: jax.vjp(lambda a: convolve(x, a), w)[1](g)[0],
    }
    count = sets(workload.bytes, device.current())
    given = [(put(inputs, times), weight, put(grad, times)) for _ in range(count)]
    compiled = jax.jit(functions[wanted]).lower(*given[0]).compile()
    latest: list[Any] = [None]

    def call(*arrays: Any) -> Any:
        latest[0] = compiled(*arrays)
        return latest[0]

    turn = frameworks.in_turn(call, given)

    def fetch() -> Array:
        found = turn()
        if wanted == "kernel_grad":
            return np.asarray(found.astype("float32")).reshape(workload.kernel_shape)
        part = found[: workload.distinct]
        return np.asarray(part.astype("float32"))

    wait = HostCall(turn, lambda: latest[0].block_until_ready())
    return Prepared(wait, fetch, workload.padding)


def prepare_cupy(
    workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare `cupyx.scipy.ndimage.correlate`: one filter for every channel."""
    del threads
    cupy, ndimage = require("cupy"), require("cupyx.scipy.ndimage")
    g = workload.geometry()
    plain = (g.sh, g.sw, g.dh, g.dw, g.m) == (1, 1, 1, 1, 1)
    if not (workload.one_kernel and plain and workload.padding == "same"):
        raise Unavailable("CuPy has the same filter for every channel alone")
    taps = cupy.asarray(kernel[:, :, :1, 0][None])
    images = [
        cupy.tile(cupy.asarray(inputs), (workload.n // len(inputs), 1, 1, 1))
        for _ in range(sets(workload.bytes, device.current()))
    ]

    def correlate(image: Any) -> Any:
        return ndimage.correlate(image, taps, mode="constant")

    turn = frameworks.in_turn(correlate, [(image,) for image in images])
    return Prepared(turn, lambda: cupy.asnumpy(turn()), workload.padding)


PEERS: Mapping[str, Prepare] = {
    **_torches(lambda layout: partial(frameworks.prepare_torch, layout)),
    "jax": partial(prepare_jax, "output"),
    "cupy": prepare_cupy,
}


def gradient_peers(wanted: str) -> dict[str, Prepare]:
    """Give the libraries that compute one gradient."""
    mask = wanted == "input_grad", wanted == "kernel_grad", False
    torches = _torches(
        lambda layout: partial(frameworks.prepare_torch_gradients, layout, mask)
    )
    return {**torches, "jax": partial(prepare_jax, wanted)}


# What pip calls what a peer needs, by the module.
MODULES = {
    **{name: ("torch",) for name in PEERS if name.startswith("torch")},
    "jax": ("jax",),
    "cupy": ("cupy",),
}
PACKAGES = {"torch": "torch", "jax": "jax[cuda13]", "cupy": "cupy-cuda13x"}
