"""Runs of depthwise and pointwise convolution in one pass, a band at a time."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from numbadw import jit
from numbadw.cpu.caches import caches
from numbadw.cpu.copies import dense_steps
from numbadw.cpu.jobs import NONE, X_GRAD, Program, Step, W, X, make_job
from numbadw.cpu.kernels import kernel_address
from numbadw.cpu.label import Tile
from numbadw.cpu.plan import Plan, Steps, assemble
from numbadw.cpu.plan_forward import make_plan
from numbadw.cpu.plan_pointwise import Grid, plan_product, product_of_pixels
from numbadw.cpu.request import LARGE_SHARE, Request
from numbadw.cpu.separable import Band, cut
from numbadw.dispatch import SeparableRun
from numbadw.geometry import Geometry
from numbadw.memory import address

Activation = tuple[str, float]


class Separable:
    """One problem, planned once and run many times."""

    def __init__(
        self,
        geometry: Geometry,
        filters: int,
        dtype: np.dtype[Any],
        strides: tuple[tuple[int, ...], tuple[int, ...]],
        activations: tuple[Activation, Activation],
    ) -> None:
        self.g, self.filters, self.dtype = geometry, filters, dtype
        self.x, self.o = (Steps.of(s, False) for s in strides)
        self.strides, self.activations = strides, activations
        # A band is small, but its inputs come from as far as those of the whole.
        size = math.prod(geometry.input_shape) * dtype.itemsize
        self.far = size > caches().last // LARGE_SHARE
        self.kept: list[Plan] = []  # the bands' plans, known by address
        job = self._make_job(cut(geometry, dtype.itemsize))
        places = (X, 0), (W, 0), NONE, (X_GRAD, 0), NONE  # the result's place
        self.program = Program([Step(job, places)])

    def _make_job(self, bands: list[tuple[int, int, Band]]) -> Any:
        g, size = self.g, self.dtype.itemsize
        plan = functools.cache(self._plan_band)
        table = [
            (begin * self.x.h, first * self.o.h, *plan(band))
            for begin, first, band in bands
        ]
        scratch = max(band.outputs for *_, band in bands) * g.ow * g.out_channels * size
        fields = {
            "rows": len(table),
            "scratch_x": scratch,
            "x_n": self.x.n,
            "o_n": self.o.n,
        }
        tile = Tile.mover(
            "f32" if size == 4 else "f64", jit.target().vector_bytes // size
        )
        whole = assemble(
            "separable", (tile,), g.n * len(table), fields, {"bands": table}
        )
        pixels = g.n * g.oh * g.ow
        flops = g.flops + 2 * pixels * g.out_channels * self.filters
        moved = (math.prod(g.input_shape) + pixels * self.filters) * size
        return make_job(whole, flops, moved)

    def _plan_band(self, band: Band) -> tuple[int, ...]:
        """Return what a band's record says of its two kernels."""
        g, size = band.geometry(self.g), self.dtype.itemsize
        (depthwise, parameter), (name, last) = self.activations
        between = dense_steps(g.output_shape, size)
        r = Request(
            g,
            self.dtype,
            self.strides[0],
            between,
            depthwise,
            parameter,
            far=self.far,
        )
        grid = Grid.of((1, g.oh, g.ow), between, self.o)
        product = product_of_pixels(
            grid,
            g.out_channels,
            self.filters,
            (self.filters * size, size),
            size,
            swap=False,
        )
        second = plan_product(product, self.dtype, name, last, alone=True)
        record: list[int] = []
        for plan in (make_plan(r), second):
            self.kept.append(plan)
            record += kernel_address(plan.feed, plan.tiles), plan.address, plan.items
        return tuple(record)

    def run(self, x: Any, dk: Any, db: Any, pk: Any, pb: Any, out: Any) -> None:
        """Write the result; kernels and biases C-contiguous and of one dtype."""
        weights = np.array(
            [0 if a is None else address(a) for a in (dk, db, pk, pb)], np.int64
        )
        self.program.run(x, weights, None, None, out, None, None, None)


def bind_separable(
    geometry: Geometry,
    filters: int,
    dtype: np.dtype[Any],
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    activations: tuple[Activation, Activation],
) -> SeparableRun | None:
    """Plan the pass over bands, or return None where there is no use in one."""
    if geometry.channels_first or not cut(geometry, dtype.itemsize):
        return None
    return Separable(geometry, filters, dtype, strides, activations).run
