"""What numbadw found on this machine, and compiling ahead of the first call."""

from __future__ import annotations

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
from numbadw.dispatch import bind_forward, bind_gradients, require_cuda
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
    backend: str = "auto",
) -> None:
    """Compile into the on-disk cache what such layers need.

    Parameters
    ----------
    kernel_size, strides, dilation_rate, data_format, activation, backend
        As in `depthwise_conv2d`; `kernel_size` is an int or (rows, columns).
    depth_multiplier : int, default 1
        Filters a channel.
    dtype : dtype, default "float32"
        float32 or float64.
    gradients : bool, default False
        Also what `layer.vjp` and the three functions of the gradients need.

    Raises
    ------
    TypeError, ValueError
        As `depthwise_conv2d` raises them.

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
    if target == "cuda":
        require_cuda()
        from numbadw.cuda.backend import warm
    if target == "reference" or numba_config.DISABLE_JIT:
        return
    if target != "cuda":
        _compile_drivers(gradients)
    # Gray, RGB and many channels, small and large: one of each feed.
    for c in (1, 3, 4 * jit.target().vector_bytes // kind.itemsize):
        for side in (8, 256):
            h, w = side * pair[0], side * pair[1]
            shape = (1, c, h, w) if first else (1, h, w, c)
            taps = (kh, kw, c, m)
            geometry = make_geometry(shape, taps, pair, "same", dilation, first)
            if target == "cuda":
                warm(geometry, kind, (name, parameter), gradients)
            else:
                _compile_kernels(geometry, kind, (name, parameter), gradients)


def _compile_drivers(gradients: bool) -> None:
    """Compile what calls the kernels, whatever they are."""
    from numbadw.cpu import jobs, launch

    parallel = threads.state.allowed > 1
    for module in (launch, jobs) if gradients else (launch,):
        module.serial_driver()
        if parallel:
            module.parallel_driver()
    if parallel:
        launch.carrier(1)  # what the threads themselves run


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
