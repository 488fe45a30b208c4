"""Runs of 1x1 convolutions: the forward product, and the three of the way back.

Forward, one product: pixels by channels times the weights.  Backward:

    for band of pixels:                      # one, unless there is an activation
        gradient at the pre-activation       # the forward product, ends in a derivative
        gradient at the inputs               # gradients times the weights, turned round
        gradient at the weights, the bias    # inputs, or ones, times gradients; added
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from numbadw import jit
from numbadw.cpu import launch
from numbadw.cpu.jobs import (
    B_GRAD,
    NONE,
    NOTHING,
    SCRATCH,
    W_GRAD,
    X_GRAD,
    B,
    G,
    Job,
    Program,
    Step,
    W,
    X,
    make_job,
)
from numbadw.cpu.kernels import kernel_address
from numbadw.cpu.label import PRIME, Tile
from numbadw.cpu.plan import Plan, Steps
from numbadw.cpu.plan_pointwise import (
    Grid,
    Product,
    checked_fields,
    choose_tiles,
    columns_are_neighbours,
    heights,
    panel_columns,
    plan_product,
    product_of_gradients,
    product_of_pixels,
)
from numbadw.dispatch import GradientRun, Run
from numbadw.geometry import PixelGeometry
from numbadw.memory import address, aligned_empty

# Bytes of a band's arrays: what usual last-level caches hold for a core.
BAND_BYTES = 2 * 1024 * 1024


def bind_pointwise(
    geometry: PixelGeometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: str,
    parameter: float,
    packed: bool = False,
    accumulate: bool = False,
) -> Run:
    """Plan one forward problem, compile what it needs and return its run.

    `packed` kernels come in panels, for channels last alone; `accumulate` adds what the
    result holds before the activation.
    """
    g, size = geometry, dtype.itemsize
    x, o = (Steps.of(s, g.channels_first) for s in (x_strides, o_strides))
    grid = Grid.of((g.n, g.h, g.w), x, o)
    swap = columns_are_neighbours(o, size)
    product = product_of_pixels(grid, g.c, g.f, (g.f * size, size), size, swap)
    product = product._replace(adds=accumulate)
    shapes, strides = (g.input_shape, g.output_shape), (x_strides, o_strides)
    w_bytes = g.c * g.f * size
    if packed:
        pitch = panel_columns(g.f, dtype) * size
        w_bytes = -(-g.f * size // pitch) * g.c * pitch
        product = product._replace(b=(0, 0, pitch, size), b_panel=g.c * pitch)
    checks, sizes = checked_fields(shapes, strides, w_bytes, g.f * size, dtype)
    plan = plan_product(product, dtype, activation, parameter, checks, sizes)
    touched = (math.prod(g.input_shape) + math.prod(g.output_shape)) * size + w_bytes
    return launch.bind(kernel_address(plan.feed, plan.tiles), plan, g.flops, touched)


def compile_all(dtype: np.dtype[Any], activation: str, gradients: bool) -> None:
    """Compile what 1x1 and separable convolutions of any shape with it need."""
    names = ["linear", activation] if gradients else [activation]
    if gradients and activation != "linear":
        names.append(activation + PRIME)
    short = "f32" if dtype.itemsize == 4 else "f64"
    lanes = jit.target().vector_bytes // dtype.itemsize
    for name in dict.fromkeys(names):
        for vectors in heights():
            tiles = choose_tiles(vectors * lanes, short, name)
            kernel_address("product", tiles)
    kernel_address("separable", (Tile.mover(short, lanes),))


class PointwiseBackward:
    """The gradients of one problem, planned once and run many times."""

    def __init__(
        self,
        geometry: PixelGeometry,
        dtype: np.dtype[Any],
        strides: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        activation: str,
        parameter: float,
    ) -> None:
        self.g, self.dtype, self.size = geometry, dtype, dtype.itemsize
        self.activation, self.parameter = activation, parameter
        self.x, self.grad, self.x_grad = (
            Steps.of(s, geometry.channels_first) for s in strides
        )
        self.derives = activation != "linear"
        self.pixels = 0  # of a band's scratch
        self.bands = self._bands()
        self.one = np.ones(1, dtype)
        self.program = Program(self._steps())

    def _bands(self) -> list[tuple[tuple[int, int, int], int, int, int]]:
        """Return the bands: (images, rows, columns) of one, and where it begins."""
        g = self.g
        whole = g.n, g.h, g.w
        if not self.derives:
            return [(whole, 0, 0, 0)]
        joined = Grid.of(whole, self.x, self.grad)
        both = Grid.of(whole, self.x, self.x_grad)
        n, h, w = (min(a, b) for a, b in zip(whole, whole, strict=True))
        if joined[:3] == both[:3]:
            n, h, w = joined[:3]
        most = max(1, BAND_BYTES // ((g.c + g.f) * self.size))
        count = -(-w // most)
        self.pixels = step = -(-w // count)
        return [
            ((1, 1, min(step, w - i)), image, row, i)
            for image in range(n)
            for row in range(h)
            for i in range(0, w, step)
        ]

    def _plan(
        self, shape: tuple[int, int, int], adds: bool
    ) -> tuple[Job | None, list[Job]]:
        """Plan a band: its derivative; gradients at inputs, weights and bias."""
        g, size = self.g, self.size
        grad, derive = self.grad, None
        if self.derives:
            swap = columns_are_neighbours(grad, size)
            dense = Steps(0, 0, g.f * size, size)
            if swap:
                dense = Steps(0, 0, size, self.pixels * size)
            grid = Grid.of(shape, self.x, dense)
            p = product_of_pixels(grid, g.c, g.f, (g.f * size, size), size, swap)
            p = p._replace(g=(grad.n, grad.h, grad.c if swap else grad.w))
            name = self.activation + PRIME
            derive = self._job(p, plan_product(p, self.dtype, name, self.parameter))
            grad = dense
        swap = columns_are_neighbours(self.x_grad, size)
        grid = Grid.of(shape, grad, self.x_grad)
        back = product_of_pixels(grid, g.f, g.c, (size, g.f * size), size, swap)
        sums = product_of_gradients(Grid.of(shape, self.x, grad), g.c, g.f, size)
        sums = sums._replace(adds=adds)
        ones = sums._replace(rows=1, a=(0, 0, 0, 0))
        jobs = [self._job(p, plan_product(p, self.dtype)) for p in (back, sums, ones)]
        return derive, jobs

    def _job(self, p: Product, plan: Plan) -> Job:
        pixels = math.prod(p.images) * max(p.k if p.batched else 1, 1)
        terms = p.rows * p.columns * (pixels if p.batched else p.k * pixels)
        moved = math.prod(p.images) * (p.rows * p.k + p.rows * p.columns) * self.size
        return make_job(plan, 2 * terms, moved)

    def _steps(self) -> list[Step]:
        """Return the steps of all bands, in order."""
        plan = functools.cache(self._plan)
        steps: list[Step] = []
        for number, (shape, n, y, i) in enumerate(self.bands):
            derive, others = plan(shape, number > 0)
            x, g, to = (
                (name, n * s.n + y * s.h + i * s.w)
                for name, s in ((X, self.x), (G, self.grad), (X_GRAD, self.x_grad))
            )
            if derive:
                derived = SCRATCH, 0
                steps.append(Step(derive, (x, (W, 0), (B, 0), derived, g)))
                g = derived
            ones = NOTHING, address(self.one)
            places = (
                (g, (W, 0), NONE, to, NONE),
                (x, g, NONE, (W_GRAD, 0), NONE),
                (ones, g, NONE, (B_GRAD, 0), NONE),
            )
            steps += map(Step, others, places)
        return steps

    def run(
        self, x: Any, w: Any, b: Any, g: Any, x_grad: Any, w_grad: Any, b_grad: Any
    ) -> None:
        """Write the three gradients; see `dispatch.bind_pointwise_gradients`."""
        scratch = aligned_empty((self.pixels * self.g.f,), self.dtype)
        self.program.run(x, w, b, g, x_grad, w_grad, b_grad, scratch)


def bind_pointwise_gradients(
    geometry: PixelGeometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    g_strides: tuple[int, ...],
    x_grad_strides: tuple[int, ...],
    activation: str,
    parameter: float,
) -> GradientRun:
    """Plan the gradients, compile what they need and return their run."""
    strides = x_strides, g_strides, x_grad_strides
    return PointwiseBackward(geometry, dtype, strides, activation, parameter).run
