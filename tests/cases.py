"""The problems that the tests share, and their data.

Sizes come from the planner's own tiles, so that another vector width or another table
of tiles moves the grid with it.  `FORMS` bounds what is compiled: a case only adds a
kernel if its kernel size, strides, multiplier, dtype or feed is not there yet.
"""

import itertools
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

import numbadw as ndw
from numbadw import checks, dispatch, functional, gradients, jit, tolerance
from numbadw.cpu.backward import Backward
from numbadw.cpu.plan import ROWS_COLUMNS
from numbadw.cpu.plan_forward import make_plan
from numbadw.cpu.request import Request
from numbadw.geometry import make_geometry

# Kernel size and strides, one of every form of tile.
FORMS = {
    "3x3": ((3, 3), (1, 1)),
    "3x3s2": ((3, 3), (2, 2)),
    "5x5": ((5, 5), (1, 1)),
    "5x5s2": ((5, 5), (2, 2)),
    "wide": ((9, ROWS_COLUMNS + 3), (1, 1)),
}


class Case(NamedTuple):
    """One problem in the letters of `Geometry`."""

    h: int
    w: int
    c: int
    m: int = 1
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: object = "same"
    dilation: tuple[int, int] = (1, 1)
    first: bool = False
    dtype: str = "float32"
    n: int = 1

    @property
    def label(self):
        """Name the case for test ids and messages."""
        layout = "nchw" if self.first else "nhwc"
        kh, kw = self.kernel
        return (
            f"{layout}_{self.dtype}_{self.n}x{self.h}x{self.w}x{self.c}_k{kh}x{kw}"
            f"_m{self.m}_s{self.strides}_d{self.dilation}_{self.padding}"
        ).replace(" ", "")

    @property
    def options(self):
        """Give the keyword arguments of `depthwise_conv2d`."""
        return {
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation,
            "data_format": "channels_first" if self.first else "channels_last",
        }

    @property
    def geometry(self):
        """Give the geometry of the case."""
        sizes = (self.c, self.h, self.w) if self.first else (self.h, self.w, self.c)
        kernel_shape = (*self.kernel, self.c, self.m)
        pads = checks.padding(self.padding)
        return make_geometry(
            (self.n, *sizes),
            kernel_shape,
            self.strides,
            pads,
            self.dilation,
            self.first,
        )

    def arrays(self, rng):
        """Draw inputs, kernel and bias."""
        g = self.geometry
        shapes = (g.input_shape, g.kernel_shape, (g.out_channels,))
        return tuple(rng.standard_normal(shape).astype(self.dtype) for shape in shapes)

    def plan(self, activation="linear"):
        """Give the CPU's plan for dense arrays."""
        g, itemsize = self.geometry, np.dtype(self.dtype).itemsize
        x, o = (
            dense_strides(shape, itemsize) for shape in (g.input_shape, g.output_shape)
        )
        return make_plan(Request(g, np.dtype(self.dtype), x, o, activation, 0.0))

    def gradient_plans(self, wanted="both"):
        """Give the CPU's plans of the way back, in order, for dense arrays."""
        return [step.job.plan for step in self.gradient_steps(wanted)]

    def gradient_steps(self, wanted="both"):
        """Give its steps."""
        g, dtype = self.geometry, np.dtype(self.dtype)
        x, o = (
            dense_strides(shape, dtype.itemsize)
            for shape in (g.input_shape, g.output_shape)
        )
        strides = x if wanted != "input" else None, o, x if wanted != "kernel" else None
        return Backward(g, dtype, strides, "linear", 0.0, wanted).program.steps


def forget():
    """Let the next calls of images make plans of their own."""
    for calls in (functional._calls, gradients._calls):
        calls.clear()
    for bind in (dispatch.bind_forward, dispatch.bind_gradients):
        bind.cache_clear()


def dense_strides(shape, itemsize):
    """Return the strides of a C-ordered array of this shape."""
    return tuple(itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))


def lanes(dtype="float32"):
    """Return how many elements a vector of Numba's target holds."""
    return jit.target().vector_bytes // np.dtype(dtype).itemsize


PADDINGS = (
    ((0, 0), (0, 0)),
    ((1, 1), (1, 1)),
    ((2, 0), (0, 3)),
    ((0, 1), (2, 1)),
    ((3, 3), (4, 5)),
)


def grid(form, dtype, first):
    """Yield cases whose channels and widths straddle those of the planner's tiles."""
    kernel, strides = FORMS[form]
    vector = lanes(dtype)
    half = vector // 2
    channels = {1, half, half + 1, vector - 1, vector, vector + 1, 2 * vector}
    pads = itertools.cycle(PADDINGS)
    heights = itertools.cycle((1, 2, 3, 7, 10))
    for c in sorted({*channels, 3 * vector + 2} - {0}):
        base = Case(9, 99, c, 1, kernel, strides, "same", (1, 1), first, dtype)
        for ow in widths(base):
            oh, padding = next(heights), next(pads)
            h, w = (
                max(1, (size - 1) * stride + k - sum(pad))
                for size, stride, k, pad in zip(
                    (oh, ow), strides, kernel, padding, strict=True
                )
            )
            case = base._replace(h=h, w=w, padding=padding, n=1 + oh % 2)
            if fits(case):
                yield case


def widths(case):
    """Return output widths at the tiles of the plan, +-1 and multiples."""
    plan = case.plan()
    unit = 1
    if plan.feed == "flat":
        unit = max(1, lanes(case.dtype) // (1 if case.first else case.c))
    wide, narrow, *more = (tile.width * unit for tile in plan.tiles[::2])
    near = {size + d for size in (wide, narrow, *more, 2 * wide) for d in (-1, 0, 1)}
    return sorted(({1, 2, wide + narrow, 3 * wide + 1} | near) - {0})


def fits(case):
    """Tell whether the dilated kernel fits the padded image."""
    pads = checks.padding(case.padding)
    if pads == "same":
        return True
    axes = zip(
        (case.h, case.w),
        ((0, 0), (0, 0)) if pads == "valid" else pads,
        case.kernel,
        case.dilation,
        strict=True,
    )
    return all(size + sum(pad) > (k - 1) * d for size, pad, k, d in axes)


def reference(inputs, kernel, bias=None, **options):
    """Give the float64 answer."""
    bias = None if bias is None else np.asarray(bias, np.float64)
    inputs, kernel = np.asarray(inputs, np.float64), np.asarray(kernel, np.float64)
    return ndw.depthwise_conv2d(inputs, kernel, bias, backend="reference", **options)


def assert_close(result, inputs, kernel, bias=None, **options):
    """Compare with the float64 answer: NaN and inf in place, the rest in the bound."""
    assert result.dtype == np.asarray(inputs).dtype.newbyteorder("=")
    answer = tolerance.forward(
        inputs, kernel, bias, dtype=np.dtype(result.dtype), **options
    )
    fault = answer.fault(result)
    assert not fault, f"{fault}; {options}"


def check(case, rng, bias=True, **more):
    """Run a case on the CPU and compare; return the result."""
    x, w, b = case.arrays(rng)
    b = b if bias else None
    result = ndw.depthwise_conv2d(x, w, b, backend="cpu", **case.options, **more)
    try:
        more.pop("out", None)
        assert_close(result, x, w, b, **case.options, **more)
    except AssertionError as error:
        raise AssertionError(f"{case.label}: {error}") from error
    return result


def environment(**changes):
    """Return the variables with which a child process finds this very package."""
    package = str(Path(ndw.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}
