"""What numbadw found on this machine, and compiling ahead of the first call."""

from __future__ import annotations

import itertools
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import config as numba_config

import numbadw
from numbadw import activations, checks, jit, threads
from numbadw.cuda import device
from numbadw.dispatch import bind_forward, bind_gradients, require_cuda, without_cuda
from numbadw.geometry import Geometry, make_geometry
from numbadw.memory import dense_strides

_LIBRARIES = ("numpy", "numba", "llvmlite", "numba-cuda")


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _threading_layer() -> str:
    """Return whose threads run: our own, or Numba's and which layer of it."""
    import numba

    from numbadw.cpu import launch

    if launch.LAYER == "own":
        return "numbadw's own"

    try:
        return str(numba.threading_layer())
    except ValueError:
        return f"{numba.config.THREADING_LAYER} (not started)"


def config() -> dict[str, str]:
    """Return the facts that `show_config` prints, by name."""
    target = jit.target()
    bits = target.vector_bytes * 8
    fused = "with FMA" if target.fused else "without FMA"
    folder = jit.cache_folder()
    facts = {
        "CPU": cpu_name(),
        "vectors": f"{bits} bits, {target.registers} registers, {fused}",
        "threads": f"{threads.get_num_threads()} of {threads.state.allowed} allowed",
        "threading layer": _threading_layer(),
        "cache folder": str(folder) if folder else "none (nothing is kept)",
        "CUDA devices": device.describe(),
        "numbadw": numbadw.__version__,
        "python": platform.python_version(),
    }
    return facts | {name: _version(name) for name in _LIBRARIES}


def show_config() -> None:
    """Print the CPU, threads, cache folder, CUDA devices and versions in use.

    Examples
    --------
    >>> import numbadw
    >>> numbadw.show_config()  # doctest: +ELLIPSIS
    CPU              ...
    """
    from numbadw import console

    for name, value in config().items():
        console.say(f"{name:16} {value}")


def warmup(
    kernel_size: int | tuple[int, int],
    *,
    strides: Any = 1,
    dilation_rate: Any = 1,
    depth_multiplier: int = 1,
    dtype: npt.DTypeLike = "float32",
    data_format: str = "channels_last",
    activation: Any = None,
    gradients: bool = False,
    pointwise: bool = False,
    backend: str = "auto",
) -> None:
    """Compile into the on-disk cache what such layers need.

    Parameters
    ----------
    kernel_size, strides, dilation_rate, data_format, activation, backend
        As in `depthwise_conv2d`; `kernel_size` is an int or (rows, columns). Sequences
        are images of one row: (1, k), with `strides=(1, s)` and `dilation_rate=(1, d)`.
    depth_multiplier : int, default 1
        Filters a channel.
    dtype : dtype, default "float32"
        float32 or float64.
    gradients : bool, default False
        Also what `layer.vjp` and the three functions of the gradients need.
    pointwise : bool, default False
        Also what `pointwise_conv2d` with this activation needs, and separable
        convolutions that end in it, with or without it in between.

    Raises
    ------
    TypeError, ValueError
        As `depthwise_conv2d` raises them.
    BackendUnavailableError
        For `backend="cuda"` where it cannot run, or with `pointwise`.

    Notes
    -----
    Dense images of any size and any number of channels then compile nothing. Cost: up
    to a second for each of the feeds that images of few and of many channels take, two
    to three times as many with gradients; nothing where the cache has them.

    Examples
    --------
    >>> import numbadw
    >>> numbadw.warmup(3, strides=2, activation="relu6", gradients=True)
    """
    kh, kw = checks.pair(kernel_size, "kernel_size")
    pair = checks.pair(strides, "strides")
    dilation = checks.pair(dilation_rate, "dilation_rate")
    (m, _) = checks.pair(depth_multiplier, "depth_multiplier")
    first = checks.data_format(data_format)
    name, parameter = activations.resolve(activation)
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        msg = f"dtype must be float32 or float64, got {kind}"
        raise TypeError(msg)
    target = checks.backend(backend)
    if pointwise:
        without_cuda(target, "pointwise convolution")
    if target == "cuda":
        require_cuda()
        from numbadw.cuda.backend import warm
    if target == "reference" or numba_config.DISABLE_JIT:
        return
    kinds = {name: parameter}
    if pointwise:
        kinds.setdefault("linear", 0.0)
    # Gray, RGB and many channels, small and large: one of each feed.
    geometries = [
        _geometry((kh, kw, c, m), pair, dilation, side, first)
        for c in (1, 3, 4 * jit.target().vector_bytes // kind.itemsize)
        for side in (8, 256)
    ]
    if target == "cuda":
        for geometry in geometries:
            warm(geometry, kind, (name, parameter), gradients)
        return
    _compile_drivers(gradients or pointwise)
    for geometry, depthwise in itertools.product(geometries, kinds.items()):
        _compile_kernels(geometry, kind, depthwise, gradients)
    if pointwise:
        from numbadw.cpu.pointwise_run import compile_all

        compile_all(kind, name, gradients)


def _geometry(
    kernel_shape: tuple[int, int, int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    side: int,
    channels_first: bool,
) -> Geometry:
    """Give an image of `side * strides` pixels, padding "same"."""
    c, (h, w) = kernel_shape[2], (side * step for step in strides)
    shape = (1, c, h, w) if channels_first else (1, h, w, c)
    return make_geometry(shape, kernel_shape, strides, "same", dilation, channels_first)


def _compile_drivers(jobs_too: bool) -> None:
    """Compile what calls the kernels, whatever they are."""
    from numbadw.cpu import jobs, launch, pairs

    parallel = threads.state.allowed > 1
    for module in (launch, jobs) if jobs_too else (launch,):
        module.serial_driver()
        if parallel:
            module.parallel_driver()
    if parallel:
        launch.carrier(1)  # what the threads themselves run
    if jobs_too:
        pairs.pair_kernel()


def _compile_kernels(
    geometry: Geometry,
    dtype: np.dtype[Any],
    activation: tuple[str, float],
    gradients: bool,
) -> None:
    """Compile what dense arrays of one geometry need."""
    x, o = (
        dense_strides(shape, dtype.itemsize)
        for shape in (geometry.input_shape, geometry.output_shape)
    )
    bind_forward("cpu", geometry, dtype, x, o, *activation)
    if not gradients:
        return
    plain = "linear", 0.0
    bind_gradients("cpu", geometry, dtype, None, o, x, *plain, "input")
    bind_gradients("cpu", geometry, dtype, x, o, None, *plain, "kernel")
    for kind in (plain, activation):
        bind_gradients("cpu", geometry, dtype, x, o, x, *kind, "both")
