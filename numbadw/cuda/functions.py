"""The public functions on device arrays: checks, plan look-up, launch; no copies.

Results come from the inputs' library, work goes to its current stream, and nothing
waits for the device.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numbadw import activations, checks
from numbadw.cuda import arrays, device, plan
from numbadw.cuda.arrays import View
from numbadw.cuda.emit import ITEMSIZE
from numbadw.cuda.gradients import backward
from numbadw.cuda.launch import Bound, stream
from numbadw.geometry import Geometry, make_geometry

_DTYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "float32"}


class Options(NamedTuple):
    """The options of a call, checked; all of them can be a key."""

    strides: tuple[int, int]
    padding: Any
    dilation: tuple[int, int]
    channels_first: bool
    activation: str
    parameter: float

    @classmethod
    def of(cls, given: tuple[Any, ...]) -> Options:
        """Check (strides, padding, dilation_rate, data_format, activation)."""
        strides, padding, dilation_rate, data_format, activation = given
        return cls(
            checks.pair(strides, "strides"),
            checks.padding(padding),
            checks.pair(dilation_rate, "dilation_rate"),
            checks.data_format(data_format),
            *activations.resolve(activation),
        )

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        """Derive the geometry from the shapes of inputs and kernel."""
        first = self.channels_first
        return make_geometry(x, w, self.strides, self.padding, self.dilation, first)


# Options that are their own key: True == 1, and a pair may hide one.
_SIMPLE = {int, str, type(None)}


def _settled(
    given: tuple[Any, ...], x: tuple[int, ...], w: tuple[int, ...]
) -> tuple[Options, Geometry]:
    """Check options and shapes; those seen before are looked up."""
    if {*map(type, given)} <= _SIMPLE:
        return _seen(given, x, w)
    options = Options.of(given)
    return options, options.geometry(x, w)


@functools.lru_cache(maxsize=4096)
def _seen(
    given: tuple[Any, ...], x: tuple[int, ...], w: tuple[int, ...]
) -> tuple[Options, Geometry]:
    options = Options.of(given)
    return options, options.geometry(x, w)


class Upload:
    """A NumPy array's copy on a device, in the device's own memory."""

    def __init__(self, data: bytes, number: int) -> None:
        self._driver = device.driver()
        size = len(data)
        with device.using(number):
            self.address = int(device.check(self._driver.cuMemAlloc(size)))
            # Synchronous, so every stream finds it.
            device.check(self._driver.cuMemcpyHtoD(self.address, data, size))

    def __del__(self) -> None:
        # Waits for the device: no kernel that reads it is left.
        if hasattr(self, "address"):
            self._driver.cuMemFree(self.address)


@functools.lru_cache(maxsize=64)
def _upload(data: bytes, number: int) -> Upload:
    return Upload(data, number)


def _weights(
    value: Any, name: str, like: View, shape: tuple[int, ...] | None, rank: int
) -> tuple[int, tuple[int, ...], Any]:
    """Give address, shape and owner of a kernel or bias, NumPy or on the device."""
    if value is None:
        return 0, (), None
    if checks.is_device_array(value):
        seen = arrays.view(value, name)
        _same(seen, name, like)
        if seen.strides != plan.dense(seen.shape, ITEMSIZE[seen.kind]):
            raise ValueError(f"{name} on a CUDA device must be C-contiguous")
        found, address, owner = seen.shape, seen.address, value
    else:
        half = like.kind in ("f16", "bf16")
        wanted = np.dtype(np.float32 if half else _DTYPES[like.kind])
        array = checks.weight_array(value, name, rank, wanted)
        owner = _upload(_as_stored(array, like.kind), like.number)
        found, address = array.shape, owner.address
    if len(found) != rank or (shape is not None and found != shape):
        raise ValueError(f"{name} must have shape {shape or 'of 4 sizes'}, got {found}")
    return address, found, owner


def _as_stored(array: npt.NDArray[Any], kind: str) -> bytes:
    """Give the bytes of an array in the images' element kind."""
    if kind == "f16":
        return array.astype(np.float16).tobytes()
    if kind != "bf16":
        return array.tobytes()
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16).tobytes()


def _same(seen: View, name: str, like: View) -> None:
    if seen.number != like.number:
        raise ValueError(
            f"{name} is on device {seen.number}, the other arrays on device "
            f"{like.number}: all must be on one"
        )
    if seen.kind != like.kind:
        raise TypeError(f"{name} must be of the other arrays' dtype ({like.kind})")


def _align(*addresses: int) -> int:
    """Give the largest power of two, at most 16, that divides every address."""
    together = functools.reduce(int.__or__, addresses, 16)
    return together & -together


def _target(out: Any, like: Any, shape: tuple[int, ...], read: tuple[View, ...]) -> Any:
    """Return where to write: `out`, checked, or a new array."""
    if out is None:
        return arrays.empty_like(like, shape)
    if not checks.is_device_array(out):
        raise TypeError("out must be on the CUDA device, as the inputs are")
    seen = arrays.view(out, "out")
    _same(seen, "out", read[0])
    if seen.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {seen.shape}")
    for other in read:
        begin, end = _extent(other)
        if seen.address < end and begin < _extent(seen)[1]:
            raise ValueError("out must not overlap an array that is read")
    return out


def _extent(seen: View) -> tuple[int, int]:
    steps = zip(seen.shape, seen.strides, strict=True)
    span = sum((size - 1) * step for size, step in steps)
    return seen.address, seen.address + span + ITEMSIZE[seen.kind]


@functools.lru_cache(maxsize=4096)
def _forward_plan(
    options: Options,
    x: View,
    w: tuple[int, ...],
    o: tuple[int, ...],
    align: int,
) -> Bound:
    """Plan for inputs like `x`, whatever its address; the key is cheap to hash."""
    problem = plan.Problem(options.geometry(x.shape, w), x.kind, align)
    launches = plan.forward(problem, x.strides, o, options.activation)
    return Bound(launches, x.number, options.parameter)


def forward(inputs: Any, kernel: Any, bias: Any, given: Any, out: Any) -> Any:
    """Run `depthwise_conv2d` on device arrays; `given` as `Options.of` takes it."""
    x = arrays.view(inputs, "inputs")
    w, w_shape, _ = _weights(kernel, "kernel", x, None, 4)
    options, geometry = _settled(given, x.shape, w_shape)
    b, _, _ = _weights(bias, "bias", x, (geometry.out_channels,), 1)
    result = _target(out, inputs, geometry.output_shape, (x,))
    o = arrays.view(result, "out")
    if 0 in o.shape:
        return result
    align = _align(x.address, w, b, o.address)
    nameless = x._replace(address=0)
    bound = _forward_plan(options, nameless, w_shape, o.strides, align)
    places = {"x": x.address, "w": w, "b": b, "o": o.address}
    with device.using(x.number):
        bound(places, stream(arrays.current_stream(inputs)))
    return result


@functools.lru_cache(maxsize=4096)
def _backward_plan(
    problem: plan.Problem,
    strides: tuple[Any, Any, Any],
    activation: tuple[str, float],
    wanted: str,
    number: int,
) -> tuple[Bound, int]:
    steps = backward(problem, *strides, activation[0], wanted)
    return Bound(steps.launches, number, activation[1], steps.parts), steps.inner


def gradients(
    wanted: str,
    given: tuple[Any, Any, Any, Any, Any],
    shape: Any,
    options: tuple[Any, ...],
) -> tuple[Any, Any, Any]:
    """Run the gradients on device arrays; the arguments are those of `gradients`."""
    inputs, kernel, bias, grad, out = given
    leader = grad if wanted == "input" else inputs
    like = arrays.view(leader, "grad" if wanted == "input" else "inputs")
    g = arrays.view(grad, "grad")
    _same(g, "grad", like)
    x = None if wanted == "input" else like
    w, w_shape, _ = _weights(kernel, "kernel", like, None, 4)
    x_shape = like.shape
    if wanted != "both":
        axes = "four ints"
        sizes = checks.shape(shape, f"{wanted}_shape", axes, int(wanted == "kernel"))
        x_shape = sizes if wanted == "input" else x_shape
        w_shape = sizes if wanted == "kernel" else w_shape
    known, geometry = _settled(options, x_shape, w_shape)
    if g.shape != geometry.output_shape:
        raise ValueError(
            f"grad must have the output's shape {geometry.output_shape}, got {g.shape}"
        )
    b, _, _ = _weights(bias, "bias", like, (geometry.out_channels,), 1)
    read = (g,) if x is None else (g, x)
    results: dict[str, Any] = {}
    if wanted != "kernel":
        results["x_grad"] = _target(out, leader, geometry.input_shape, read)
    if wanted != "input":
        own = out if wanted == "kernel" else None
        results["w_grad"] = _target(own, grad, geometry.kernel_shape, read)
    if wanted == "both":
        results["b_grad"] = arrays.empty_like(grad, (geometry.out_channels,))
    _launch_gradients(geometry, wanted, known, (x, g), (w, b), (leader, results))
    return results.get("x_grad"), results.get("w_grad"), results.get("b_grad")


def _launch_gradients(
    geometry: Geometry,
    wanted: str,
    options: Options,
    read: tuple[View | None, View],
    weights: tuple[int, int],
    made: tuple[Any, dict[str, Any]],
) -> None:
    """Look the plan up and launch it on the leader's stream."""
    (x, g), (leader, results) = read, made
    views = {name: arrays.view(array, name) for name, array in results.items()}
    places = {name: seen.address for name, seen in views.items()}
    if "w_grad" in views:
        seen = views["w_grad"]
        if seen.strides != plan.dense(seen.shape, ITEMSIZE[seen.kind]):
            raise ValueError("out on a CUDA device must be C-contiguous")
    places |= {"g": g.address, "w": weights[0], "b": weights[1]}
    places |= {} if x is None else {"x": x.address}
    problem = plan.Problem(geometry, g.kind, _align(*places.values()))
    x_grad = views["x_grad"].strides if "x_grad" in views else None
    strides = None if x is None else x.strides, g.strides, x_grad
    activation = options.activation, options.parameter
    bound, inner = _backward_plan(problem, strides, activation, wanted, g.number)
    with device.using(g.number):
        on = stream(arrays.current_stream(leader))
        buffer = None
        if inner:
            pool = device.device(g.number).memory_resource
            buffer = pool.allocate(inner, stream=on)
            places["inner"] = int(buffer.handle)
        bound(places, on)
        if buffer is not None:
            buffer.close(on)
