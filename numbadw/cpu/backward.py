"""The gradients: which kernels run on which band of images, in which order.

    for band of images:
        copy inputs and gradients to dense pixels      # channels are no neighbours
        gradient at the pre-activation                 # where there is an activation
        gradient at the inputs, copied back
        gradients at kernel and bias, added to the sums
    add the parts of the sums

A band is small enough for the cache to hold what one step leaves to the next, so
memory is crossed once whatever the number of steps, and its copies are all the scratch
that is needed.  Bands depend on shapes alone, as everything does that orders a sum.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from numbadw import jit
from numbadw.cpu import plan_forward, plan_input_grad, plan_kernel_grad
from numbadw.cpu.copies import dense_steps, plan_copy
from numbadw.cpu.jobs import Job, Places, make_job, run_all
from numbadw.cpu.label import PRIME, Tile
from numbadw.cpu.plan import Steps
from numbadw.cpu.request import Request
from numbadw.dispatch import GradientRun
from numbadw.geometry import Geometry
from numbadw.memory import LINE, address, aligned_empty

# Bytes of a band's arrays: what usual last-level caches hold for a core.
BAND_BYTES = 2 * 1024 * 1024


class Band(NamedTuple):
    """The jobs of one band; None where there is nothing to do."""

    copy_x: Job | None
    copy_g: Job | None
    derive: Job | None
    input: Job | None
    copy_back: Job | None
    kernel: Job | None
    sizes: plan_kernel_grad.Sizes | None


class Backward:
    """One problem of the way back, planned once and run many times."""

    def __init__(
        self,
        geometry: Geometry,
        dtype: np.dtype[Any],
        x_strides: tuple[int, ...] | None,
        g_strides: tuple[int, ...],
        x_grad_strides: tuple[int, ...] | None,
        activation: str,
        parameter: float,
        wanted: str,
    ) -> None:
        first = geometry.channels_first
        self.g = g = dataclasses.replace(geometry, channels_first=False)
        self.dtype, self.itemsize = dtype, dtype.itemsize
        self.activation, self.parameter = activation, parameter
        self.derives = activation != "linear"
        self.wants_input = wanted in ("input", "both")
        self.wants_kernel = wanted in ("kernel", "both")
        dense = dense_steps(g.output_shape, self.itemsize)
        self.x = Steps.of(x_strides, first) if x_strides else None
        self.grad = Steps.of(g_strides, first)
        self.x_grad = Steps.of(x_grad_strides, first) if x_grad_strides else None
        any_strides = plan_input_grad.takes_any_strides(g)
        near_g = self._near(self.grad, g.out_channels)
        self.copies_x = self.x is not None and not self._near(self.x, g.c)
        self.copies_g = not near_g and (self.wants_kernel or not any_strides)
        if self.derives:
            self.copies_g = self.grad != dense
        self.stages = (
            self.x_grad is not None
            and not self._near(self.x_grad, g.c)
            and not any_strides
        )
        self.bands = self._cut()
        self.parts = max(
            (b.sizes.parts for _, _, b in self.bands if b.sizes), default=1
        )
        self.sums = self._plan_sums()

    def _near(self, steps: Steps, channels: int) -> bool:
        return channels == 1 or steps.c == self.itemsize

    def _cut(self) -> list[tuple[int, int, Band]]:
        """Cut the images into bands: first image, images and jobs of each."""
        g = self.g
        image = (math.prod(g.input_shape[1:]) + math.prod(g.output_shape[1:])) * (
            self.itemsize
        )
        steps = self.copies_x or self.copies_g or self.derives or self.stages
        both = self.wants_input and self.wants_kernel
        size = max(1, g.n)
        if steps or both:
            size = max(1, min(size, BAND_BYTES // image))
        make = functools.cache(self._plan)
        return [
            (n, min(size, g.n - n), make(min(size, g.n - n)))
            for n in range(0, g.n, size)
        ]

    def _plan(self, n: int) -> Band:
        """Plan the jobs of a band of `n` images."""
        g, size = dataclasses.replace(self.g, n=n), self.itemsize
        x_bytes = math.prod(g.input_shape) * size
        o_bytes = math.prod(g.output_shape) * size
        tile = Tile.vectors("f32" if size == 4 else "f64", lanes(size))
        dense_x = dense_steps(g.input_shape, size)
        dense_g = dense_steps(g.output_shape, size)
        x = dense_x if self.copies_x else self.x
        grad = dense_g if self.copies_g or self.derives else self.grad
        x_grad = dense_x if self.stages else self.x_grad
        jobs: dict[str, Any] = dict.fromkeys(Band._fields)
        if self.copies_x and self.x:
            plan = plan_copy("copy_in", g.input_shape, self.x, tile)
            jobs["copy_x"] = make_job(plan, 0, 2 * x_bytes)
        if self.copies_g:
            plan = plan_copy("copy_in", g.output_shape, self.grad, tile)
            jobs["copy_g"] = make_job(plan, 0, 2 * o_bytes)
        if self.derives and x:
            name = self.activation + PRIME
            r = Request(g, self.dtype, x, dense_g, name, self.parameter)
            plan = plan_forward.plan_direct(r)
            jobs["derive"] = make_job(plan, g.flops, x_bytes + 2 * o_bytes)
        if x_grad:
            r = plan_input_grad.make_request(g, self.dtype, grad, x_grad)
            plan = plan_input_grad.make_plan(r, g)
            jobs["input"] = make_job(plan, g.flops, x_bytes + o_bytes)
        if self.stages and self.x_grad:
            plan = plan_copy("copy_out", g.input_shape, self.x_grad, tile)
            jobs["copy_back"] = make_job(plan, 0, 2 * x_bytes)
        if self.wants_kernel and x:
            r = Request(g, self.dtype, x, grad, "linear", 0.0)
            plan, jobs["sizes"] = plan_kernel_grad.make_plan(r)
            jobs["kernel"] = make_job(plan, g.flops, x_bytes + o_bytes)
        return Band(**jobs)

    def _plan_sums(self) -> tuple[Job, Job] | None:
        """Plan the sums over the parts: of the kernel's gradient and of the bias'."""
        if self.parts == 1:
            return None
        size = self.itemsize
        tile = Tile.vectors("f32" if size == 4 else "f64", lanes(size))
        jobs = []
        for length in (self.w_bytes, self.b_bytes):
            plan = plan_kernel_grad.plan_sum(self.parts, self.part, length, tile)
            jobs.append(make_job(plan, 0, self.parts * length))
        return jobs[0], jobs[1]

    @property
    def b_bytes(self) -> int:
        """Bytes of the bias' gradient."""
        return self.g.out_channels * self.itemsize

    @property
    def w_bytes(self) -> int:
        """Bytes of the kernel's gradient."""
        return self.g.kh * self.g.kw * self.b_bytes

    @property
    def part(self) -> int:
        """Bytes of one part of the sums."""
        return -(-(self.w_bytes + self.b_bytes) // LINE) * LINE

    def run(
        self, x: Any, w: Any, b: Any, g: Any, x_grad: Any, w_grad: Any, b_grad: Any
    ) -> None:
        """Write the wanted gradients; see `dispatch.bind_gradients`."""
        work: list[tuple[Job, Places]] = []
        sums, biases, kept = self._start_sums(w_grad, b_grad)
        most = max((n for _, n, _ in self.bands), default=0)
        scratch = {name: self._scratch(name, most) for name in ("x", "g", "d", "o")}
        at = {name: address(array) for name, array in scratch.items()}
        wa = 0 if w is None else address(w)
        ba = 0 if b is None else address(b)
        for n, _, band in self.bands:
            xa = address(x) + n * self.x.n if self.x else 0
            ga = address(g) + n * self.grad.n
            oa = result = address(x_grad) + n * self.x_grad.n if self.x_grad else 0
            if band.copy_x:
                work.append((band.copy_x, (xa, 0, 0, at["x"], 0)))
                xa = at["x"]
            if band.copy_g:
                work.append((band.copy_g, (ga, 0, 0, at["g"], 0)))
                ga = at["g"]
            if band.derive:
                work.append((band.derive, (xa, wa, ba, at["d"], ga)))
                ga = at["d"]
            if band.input:
                oa = at["o"] if band.copy_back else result
                work.append((band.input, (ga, wa, 0, oa, 0)))
            if band.copy_back:
                work.append((band.copy_back, (oa, 0, 0, result, 0)))
            if band.kernel:
                work.append((band.kernel, (xa, 0, biases, sums, ga)))
        if self.sums and self.wants_kernel:
            work.append((self.sums[0], (sums, 0, 0, address(w_grad), 0)))
            if b_grad is not None:
                work.append((self.sums[1], (biases, 0, 0, address(b_grad), 0)))
        run_all(work)
        del kept, scratch  # alive until here

    def _start_sums(self, w_grad: Any, b_grad: Any) -> tuple[int, int, Any]:
        """Return where the sums of kernel and bias begin, all zero, and their owner."""
        if not self.wants_kernel:
            return 0, 0, None
        if self.parts == 1:
            w_grad.fill(0)
            if b_grad is None:
                return address(w_grad), 0, None
            b_grad.fill(0)
            return address(w_grad), address(b_grad), None
        kept = aligned_empty((self.parts * self.part,), np.uint8)
        kept.fill(0)
        start = address(kept)
        return start, 0 if b_grad is None else start + self.w_bytes, kept

    def _scratch(self, name: str, n: int) -> Any:
        """Return a band's scratch: copies of x and g, their derivative, the result."""
        needed = {
            "x": self.copies_x,
            "g": self.copies_g,
            "d": self.derives,
            "o": self.stages,
        }
        if not needed[name]:
            return aligned_empty((0,), self.dtype)
        image = self.g.input_shape if name in "xo" else self.g.output_shape
        return aligned_empty((n, *image[1:]), self.dtype)


def lanes(itemsize: int) -> int:
    """Return the lanes of a vector."""
    return jit.target().vector_bytes // itemsize


def bind_gradients(
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...] | None,
    g_strides: tuple[int, ...],
    x_grad_strides: tuple[int, ...] | None,
    activation: str,
    parameter: float,
    wanted: str,
) -> GradientRun:
    """Plan the wanted gradients, compile what they need and return their run."""
    strides = x_strides, g_strides, x_grad_strides
    return Backward(geometry, dtype, *strides, activation, parameter, wanted).run
