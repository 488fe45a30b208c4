"""What the self-test calls: kinds of kernels, then random calls of each kind.

A kind is all that a compiled kernel depends on; its calls differ in what must never
compile again: sizes, padding, layout, memory and data.  Kind number k and its call
number d follow from the seed and these numbers alone, on every machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numbadw import activations
from numbadw.geometry import Geometry, Padding, make_geometry

Array = npt.NDArray[Any]
Rng = np.random.Generator
Pair = tuple[int, int]

# Elements of the images, before and after, and multiply-adds of one call: small, for
# the reference to be fast; one call in FEW may be large enough for several threads.
ELEMENTS, LARGE_ELEMENTS = 6_000, 60_000
MULTIPLY_ADDS = 1_000_000
FEW = 12


class Kind(NamedTuple):
    """All that compiled code depends on, and which gradients are called."""

    kernel: Pair
    strides: Pair = (1, 1)
    dilation: Pair = (1, 1)
    m: int = 1
    dtype: str = "float32"
    activation: Any = None
    gradient: str = "all"  # none | inputs | kernel | all

    @property
    def label(self) -> str:
        """Name the kind in messages."""
        sizes = (self.kernel, self.strides, self.dilation)
        k, s, d = (f"{rows}x{columns}" for rows, columns in sizes)
        return (
            f"kernel {k}, strides {s}, dilation {d}, multiplier {self.m}, {self.dtype},"
            f" activation {self.activation}, gradients: {self.gradient}"
        )


# The kinds that every test begins with.
COMMON = (
    Kind((3, 3)),
    Kind((3, 3), (2, 2), activation="relu6", gradient="none"),
    Kind((5, 5), gradient="inputs"),
    Kind((3, 3), m=2, dtype="float64", gradient="kernel"),
    Kind((7, 7), activation="gelu", gradient="none"),
    Kind((3, 3), activation="silu"),
)


class Call(NamedTuple):
    """One call: the function, what it takes, and where the result may go.

    `base` is the larger array of NaN that `out` is a view of.
    """

    function: str  # forward | inputs | kernel | all
    geometry: Geometry
    inputs: Array
    kernel: Array
    bias: Array | None
    grad: Array
    options: dict[str, Any]
    out: Array | None
    base: Array | None
    threads: int


def kinds(seed: int) -> Iterator[Kind]:
    """Yield different kinds without end, the common ones first."""
    rng = np.random.default_rng(seed)
    seen = set(COMMON)
    yield from COMMON
    while True:
        kind = _draw_kind(rng)
        if kind not in seen:
            seen.add(kind)
            yield kind


def kind_number(seed: int, number: int) -> Kind:
    """Return one kind."""
    return next(itertools.islice(kinds(seed), number, None))


def draw_call(kind: Kind, seed: int, number: int, draw: int) -> Call:
    """Draw one call of a kind, which has this number."""
    rng = np.random.default_rng([seed, number, draw])
    backward = kind.gradient != "none" and rng.integers(2) == 1
    function = kind.gradient if backward else "forward"
    geometry, padding = _draw_geometry(kind, rng)
    dtype = np.dtype(kind.dtype)
    data = _Data(rng, dtype, kind.activation is None, function != "forward")
    kernel = data.weights(geometry.kernel_shape)
    bias = data.weights((geometry.out_channels,)) if rng.random() < 0.7 else None
    target, base = geometry.output_shape, None
    if function in ("inputs", "kernel"):
        bias = None
        shapes = {"inputs": geometry.input_shape, "kernel": geometry.kernel_shape}
        target = shapes[function]
    out = None
    if function != "all" and rng.random() < 0.5:
        out, base = place(rng, np.full(target, np.nan, dtype))
    options = {
        "strides": kind.strides,
        "padding": padding,
        "dilation_rate": kind.dilation,
        "data_format": "channels_first" if geometry.channels_first else "channels_last",
    }
    if function in ("forward", "all"):
        options["activation"] = kind.activation
    return Call(
        function,
        geometry,
        data.images(geometry.input_shape),
        kernel,
        bias,
        data.images(geometry.output_shape),
        options,
        out,
        base,
        int(rng.integers(1, 9)),
    )


def place(rng: Rng, values: Array) -> tuple[Array, Array]:
    """Return a copy of `values` inside a larger array of NaN, and that array.

    Any order of axes, steps and directions, any start, aligned or not.
    """
    order = rng.permutation(values.ndim)
    steps = rng.choice([1, 1, 1, 1, 2, -1, -3], values.ndim)
    margin = int(rng.integers(3))
    sizes = np.abs(steps) * values.shape + margin
    shape = tuple(sizes[order])
    count = int(np.prod(shape)) * values.itemsize
    start = int(rng.choice([0, 0, 1, 4, 16]))
    raw = np.empty(count + start, np.uint8)
    base = raw[start:].view(values.dtype).reshape(shape)
    base[...] = np.nan
    view = base.transpose(np.argsort(order))
    view = view[tuple(slice(None, None, int(step)) for step in steps)]
    view = view[tuple(slice(size) for size in values.shape)]
    view[...] = values
    return view, base


class _Data:
    """The values of a call's arrays, and the memory that they lie in."""

    def __init__(
        self, rng: Rng, dtype: np.dtype[Any], linear: bool, gradient: bool
    ) -> None:
        self._rng, self._dtype = rng, dtype
        # Beyond the range of an activation's curve there is little to see.
        self._scales = [1e-40, 1e-6, 1.0, 1e6, 1e12] if linear else [0.1, 1.0, 10.0]
        # A derivative may underflow to 0 in float32 alone, and 0 * inf is NaN.
        self._odd = [np.nan] if gradient and not linear else [np.nan, np.inf, -np.inf]

    def images(self, shape: tuple[int, ...]) -> Array:
        """Return inputs or gradients, in memory of any kind."""
        rng = self._rng
        values = self._values(shape, self._scales)
        if rng.random() < 0.1 and values.size:
            for _ in range(rng.integers(1, 4)):
                values[tuple(rng.integers(0, shape))] = rng.choice(self._odd)
        kind = rng.random()
        if kind < 0.4:
            return values
        if kind < 0.8:
            return place(rng, values)[0]
        if kind < 0.9:
            axis = rng.integers(len(shape))
            first = tuple(slice(1 if i == axis else None) for i in range(len(shape)))
            return np.broadcast_to(values[first], shape)
        return np.asarray(values, self._dtype.newbyteorder())

    def weights(self, shape: tuple[int, ...]) -> Array:
        """Return a kernel or a bias, maybe of a smaller dtype."""
        rng = self._rng
        values = self._values(shape, [1.0])
        kind = rng.random()
        if kind < 0.6:
            return values
        if kind < 0.8:
            return place(rng, values)[0]
        if kind < 0.9:
            return values.astype(np.float16)
        return np.asarray(np.rint(4 * values), np.int8)

    def _values(self, shape: tuple[int, ...], scales: list[float]) -> Array:
        rng = self._rng
        kind = rng.random()
        if kind < 0.1:
            values = np.full(shape, rng.standard_normal())
        elif kind < 0.2:
            values = rng.integers(-3, 4, shape) * -1.0
        else:
            values = rng.standard_normal(shape)
        scale = rng.choice(scales) if rng.random() < 0.3 else 1.0
        return np.asarray(values * scale, self._dtype)


def _draw_kind(rng: Rng) -> Kind:
    """Draw a kind: the usual sizes often, every other one sometimes."""

    def pair(most: int, usual: list[Pair]) -> Pair:
        if rng.random() < 0.6:
            return usual[rng.integers(len(usual))]
        rows, columns = rng.integers(1, most + 1, 2)
        return int(rows), int(columns)

    kernel = pair(7, [(3, 3), (3, 3), (5, 5), (7, 7), (1, 5), (5, 1), (2, 2)])
    if rng.random() < 0.05:
        kernel = int(rng.integers(1, 12)), int(rng.integers(8, 30))
    strides = pair(4, [(1, 1), (1, 1), (1, 1), (2, 2)])
    dilation = pair(4, [(1, 1), (1, 1), (1, 1), (1, 1), (2, 2)])
    m = int(rng.choice([1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 8, 16, 19]))
    dtype = str(rng.choice(["float32", "float32", "float32", "float64"]))
    activation: Any = None
    gradient = str(rng.choice(["inputs", "kernel", "all"]))
    if rng.random() < 0.6:
        name = list(activations.ACTIVATIONS)[rng.integers(len(activations.ACTIVATIONS))]
        parameter = activations.ACTIVATIONS[name].parameter
        odd = parameter is not None and rng.random() < 0.5
        activation = (name, float(rng.choice([0.1, 0.5, 2.0]))) if odd else name
        gradient = str(rng.choice(["none", "all"]))
    return Kind(kernel, strides, dilation, m, dtype, activation, gradient)


def _draw_geometry(kind: Kind, rng: Rng) -> tuple[Geometry, Padding]:
    """Draw sizes, layout and padding that leave a result of bounded size."""
    most = LARGE_ELEMENTS if rng.integers(FEW) == 0 else ELEMENTS
    while True:
        n = int(rng.choice([0, 1, 1, 1, 1, 2, 2, 3], p=[0.02] + [0.14] * 7))
        h, w = (_draw_size(rng, (12, 40, 150)) for _ in range(2))
        c = _draw_size(rng, (4, 40, 100))
        first = bool(rng.integers(2))
        padding = _draw_padding(kind, rng)
        shape = (n, c, h, w) if first else (n, h, w, c)
        taps = (*kind.kernel, c, kind.m)
        try:
            g = make_geometry(shape, taps, kind.strides, padding, kind.dilation, first)
        except ValueError:  # the kernel does not fit
            continue
        results = n * g.oh * g.ow * g.out_channels
        few = max(n * h * w * c, results) <= most
        if few and results * g.kh * g.kw <= MULTIPLY_ADDS:
            return g, padding


def _draw_size(rng: Rng, ends: tuple[int, int, int]) -> int:
    """Draw a size, from the first range most often."""
    end = rng.choice([0, 1, 2], p=[0.55, 0.35, 0.1])
    return int(rng.integers(1 if end == 0 else ends[end - 1], ends[end] + 1))


def _draw_padding(kind: Kind, rng: Rng) -> Padding:
    form = rng.integers(5)
    if form < 3:
        return "same" if form else "valid"
    most = 2 + max((k - 1) * d for k, d in zip(kind.kernel, kind.dilation, strict=True))
    top, bottom, left, right = (int(size) for size in rng.integers(0, most, 4))
    if form == 3:
        return (top, top), (left, left)
    return (top, bottom), (left, right)
