"""The gradients: which kernels run on which band of images, in which order.

    for band of images:
        copy inputs and gradients to dense pixels      # channels are no neighbours
        gradient at the pre-activation                 # where there is an activation
        gradient at the inputs, copied back
        gradients at kernel and bias, added to the sums
        # the last two in one pass (both.py), or as one job (pairs.py), where that pays
        add the sums to totals                    # where a chain of sums would be long
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
from numbadw.cpu import (
    bands,
    pairs,
    plan_both,
    plan_forward,
    plan_input_grad,
    plan_kernel_grad,
)
from numbadw.cpu.caches import caches
from numbadw.cpu.copies import dense_steps, plan_copy
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
    Place,
    Program,
    Step,
    W,
    X,
    make_job,
)
from numbadw.cpu.kernels import kernel_address
from numbadw.cpu.label import PRIME, Tile
from numbadw.cpu.plan import Plan, Steps
from numbadw.cpu.request import LARGE_SHARE, Request
from numbadw.dispatch import GradientRun
from numbadw.geometry import Geometry
from numbadw.memory import LINE, STEP, aligned_empty

Strides = tuple[int, ...] | None
Names = tuple[int, int, int, int, int]
# Bytes of a band's arrays: what usual last-level caches hold for a core.
BAND_BYTES = 2 * 1024 * 1024
# A band of rows is so many times as high as the rows that it shares with the next, the
# kernel's height less one: those are computed twice.
BAND_HALOS = 4
# Operations of a pass for each byte of its arrays up to which memory is the limit and
# both gradients of arrays too large for the caches run as one job.  Batch 16 on two Zen
# 5 cores: 56x56x128 3x3 stride 2 1.16 -> 1.01 ms, but 28x28x192 7x7 1.06 -> 1.08.
JOINED_FLOPS = 3
# Bytes between the parts of scratch, so that they do not begin in step (memory.py).
APART = STEP // 2
# Strips that a part of the sums takes in, at most, before they are added to totals.
CHAIN = 256


# What scratch holds: copies of x and g, the gradient at the pre-activation, the result
# before its copy, the sums of the parts.
COPY_X, COPY_G, DERIVED, STAGED, SUMS = range(SCRATCH, SCRATCH + 5)
NO = (NOTHING, NOTHING)  # neither kernel nor bias


class Planned(NamedTuple):
    """A job, the names of its places, and whether it runs together with the next."""

    job: Job
    names: Names
    joined: bool = False


class Backward:
    """One problem of the way back: a list of steps, planned once and run many times."""

    def __init__(
        self,
        geometry: Geometry,
        dtype: np.dtype[Any],
        strides: tuple[Strides, Strides, Strides],
        activation: str,
        parameter: float,
        wanted: str,
    ) -> None:
        self.g = g = dataclasses.replace(geometry, channels_first=False)
        self.dtype, self.itemsize = dtype, dtype.itemsize
        self.activation, self.parameter = activation, parameter
        self.tile = Tile.mover(
            "f32" if dtype.itemsize == 4 else "f64",
            jit.target().vector_bytes // dtype.itemsize,
        )
        first = geometry.channels_first
        self.x, self.grad, self.x_grad = (
            Steps.of(step, first) if step else None for step in strides
        )
        self.wants_input = wanted in ("input", "both")
        self.wants_kernel = wanted in ("kernel", "both")
        self.any_strides = plan_input_grad.takes_any_strides(g)
        self.b_bytes = g.out_channels * self.itemsize
        self.w_bytes = g.kh * g.kw * self.b_bytes
        self.part = -(-(self.w_bytes + self.b_bytes) // LINE) * LINE
        self.parts = 1
        self.one_pass = False  # whether one pass gives both gradients, in any band
        self.totals = False  # whether totals stand before the sums, and as many
        self.scratch: dict[int, int] = {}  # bytes of each part of it, and its place
        self.starts: dict[int, int] = {}
        self.bands: list[bands.Band] = []
        self._choose_copies()
        steps = self._plan()
        self.program = Program(steps, self._clears())

    def _choose_copies(self) -> None:
        """Choose which arrays go through dense scratch, and the bands."""
        g = self.g
        derives = self.activation != "linear"
        dense = dense_steps(g.output_shape, self.itemsize)
        far_g = not self._near(self.grad, g.out_channels)
        copies = {
            COPY_X: not self._near(self.x, g.c),
            COPY_G: far_g and (self.wants_kernel or not self.any_strides),
            DERIVED: derives,
            STAGED: not self._near(self.x_grad, g.c) and not self.any_strides,
        }
        if derives:
            copies[COPY_G] = self.grad != dense
        image = math.prod(g.input_shape[1:]) + math.prod(g.output_shape[1:])
        image *= self.itemsize
        most = caches().last // LARGE_SHARE
        written = self.x_grad is not None and self.wants_kernel
        images = math.prod(g.input_shape) * self.itemsize
        self.large = g.n * image > most
        self.far = g.n * image + written * images > most
        self.joined = self.far and g.flops < JOINED_FLOPS * g.n * image
        self.copies = [name for name, needed in copies.items() if needed]
        if not self.copies:
            self._cut(max(1, g.n))
        elif image <= BAND_BYTES:
            self._cut(max(1, BAND_BYTES // image))
        else:
            tall = BAND_HALOS * (g.kh - 1) * g.dh
            self._set_bands(bands.rows(g, max(tall, g.h * BAND_BYTES // image)))

    def _cut(self, images: int) -> None:
        """Choose bands of so many whole images; bands of rows stay."""
        if not self.bands or self.bands[0].shape.y_rows == self.g.h:
            self._set_bands(bands.whole(self.g, images))

    def _set_bands(self, chosen: list[bands.Band]) -> None:
        """Take the bands, and room for the copies of the largest."""
        self.bands = chosen
        shapes = {band.shape for band in chosen}
        for name in self.copies:
            sizes = [math.prod(self._shape(name, shape)) for shape in shapes]
            self.scratch[name] = max(sizes, default=0) * self.itemsize

    def _shape(self, name: int, shape: bands.Shape) -> tuple[int, ...]:
        """Return the shape of a band's scratch array."""
        if name == STAGED:
            return shape.input(self.g).input_shape
        forward = shape.forward(self.g)
        return forward.input_shape if name == COPY_X else forward.output_shape

    def _near(self, steps: Steps | None, channels: int) -> bool:
        return steps is None or channels == 1 or steps.c == self.itemsize

    def _plan(self) -> list[Step]:
        """Plan the steps of every band, and the sums at the end."""
        if self.wants_kernel:
            # Compiled whatever the sizes: larger problems take them.
            kernel_address("add_parts", (self.tile,))
            if self.wants_input:
                pairs.pair_kernel()
        planned = self._plan_bands()
        strips = sum(sizes.strips for *_, sizes in planned if sizes)
        if strips > CHAIN:
            images = self.bands[0].shape.n
            self._cut(min(images, max(1, CHAIN * len(self.bands) * images // strips)))
            planned = self._plan_bands()
            self.totals = len(self.bands) > 1
        self.parts = max((sizes.parts for *_, sizes in planned if sizes), default=1)
        if self.summed:
            self.scratch[SUMS] = self.parts * self.part * (1 + self.totals)
        at = 0
        for name, count in self.scratch.items():
            self.starts[name] = at
            at += -(-count // LINE) * LINE + APART
        steps = []
        for band, jobs, _ in planned:
            offsets = {
                name: band.n * step.n + row * step.h
                for name, step, row in (
                    (X, self.x, band.x),
                    (G, self.grad, band.o),
                    (X_GRAD, self.x_grad, band.y),
                )
                if step
            }
            for job, names, joined in jobs:
                places = [self._place(name, offsets.get(name, 0)) for name in names]
                steps.append(Step(job, tuple(places), joined))  # type: ignore[arg-type]
            if self.totals:
                steps.append(self._plan_totals())
        return steps + self._plan_sums()

    @property
    def summed(self) -> bool:
        """Whether sums are kept in scratch, not in the results themselves."""
        return self.one_pass or self.totals or self.parts > 1

    def _place(self, name: int, offset: int) -> Place:
        """Return a place; that of the sums of part 0 where they are in scratch."""
        if self.summed and name in (W_GRAD, B_GRAD):
            skip = self.w_bytes if name == B_GRAD else 0
            return self._place(SUMS, skip + self.parts * self.part * self.totals)
        if name >= SCRATCH:
            return SCRATCH, self.starts[name] + offset
        return name, offset

    def _plan_bands(self) -> list[tuple[bands.Band, list[Planned], Any]]:
        """Plan every band: its jobs, and the sizes of its sums."""
        plan = functools.cache(self._plan_band)
        planned = [(band, *plan(band.shape)) for band in self.bands]
        feeds = {one.job.plan.feed for _, jobs, _ in planned for one in jobs}
        self.one_pass = plan_both.FEED in feeds
        return planned

    def _plan_band(self, shape: bands.Shape) -> tuple[list[Planned], Any]:
        """Plan the jobs of a band, with the names of their places."""
        jobs: list[Planned] = []
        one_pass: tuple[list[Planned], Any] | None = None
        x, grad, x_at, g_at = self.x, self.grad, X, G
        if x and COPY_X in self.scratch:
            job = self._copy("copy_in", COPY_X, x, shape)
            jobs.append(Planned(job, (X, *NO, COPY_X, 0)))
            x, x_at = self._dense(COPY_X, shape), COPY_X
        if grad and COPY_G in self.scratch:
            job = self._copy("copy_in", COPY_G, grad, shape)
            jobs.append(Planned(job, (G, *NO, COPY_G, 0)))
            grad, g_at = self._dense(COPY_G, shape), COPY_G
        if x and DERIVED in self.scratch:
            name, g = self.activation + PRIME, shape.forward(self.g)
            grad = self._dense(DERIVED, shape)
            r = Request(g, self.dtype, x, grad, name, self.parameter)
            job = self._job(plan_forward.plan_direct(r), r)
            jobs.append(Planned(job, (x_at, W, B, DERIVED, g_at)))
            g_at = DERIVED
        if self.x_grad and grad:
            staged = STAGED in self.scratch
            to = self._dense(STAGED, shape) if staged else self.x_grad
            result = STAGED if staged else X_GRAD
            # In part only where nothing else of the call needs the caches.
            alone = not self.wants_kernel and len(self.bands) == 1
            g, large = shape.input(self.g), self.large and not alone and not staged
            far = self.far and g_at == G
            r = plan_input_grad.make_request(g, self.dtype, grad, to, large, far)
            if self.wants_kernel and to.c == self.itemsize and plan_both.possible(r):
                # Compiled whatever the sizes: others take it, or those below.
                kernel_address(plan_both.FEED, plan_both.choose_tiles(r))
                whole = x == to and shape.y_rows == self.g.h
                if whole and plan_both.pays(r, g):
                    plan, sizes = plan_both.make_plan(r, g)
                    job = make_job(plan, 2 * g.flops, r.moved)
                    places = g_at, W, W_GRAD, result, x_at
                    one_pass = [*jobs, Planned(job, places)], sizes
            plan = plan_input_grad.make_plan(r, g)
            joined = self.joined and self.wants_kernel and g_at == G
            joined = joined and not staged and bool(x and shape.k_rows)
            jobs.append(Planned(self._job(plan, r), (g_at, W, 0, result, 0), joined))
            if staged:
                job = self._copy("copy_out", STAGED, self.x_grad, shape)
                jobs.append(Planned(job, (STAGED, *NO, X_GRAD, 0)))
        if not (self.wants_kernel and x and grad and shape.k_rows):
            return jobs, None
        g, large = shape.kernel(self.g), self.large and x_at == X
        far = self.far and x_at == X
        r = Request(g, self.dtype, x, grad, "linear", 0.0, large=large, far=far)
        plan, sizes = plan_kernel_grad.make_plan(r)
        bias = B_GRAD if self.wants_input else NOTHING
        jobs.append(Planned(self._job(plan, r), (x_at, 0, bias, W_GRAD, g_at)))
        return one_pass or (jobs, sizes)

    def _job(self, plan: Plan, r: Request) -> Job:
        return make_job(plan, r.g.flops, r.moved)

    def _copy(self, feed: str, name: int, steps: Steps, shape: bands.Shape) -> Job:
        """Return the copy between the caller's array and a scratch array."""
        sizes = self._shape(name, shape)
        plan = plan_copy(feed, sizes, steps, self.tile)
        return make_job(plan, 0, 2 * math.prod(sizes) * self.itemsize)

    def _dense(self, name: int, shape: bands.Shape) -> Steps:
        return dense_steps(self._shape(name, shape), self.itemsize)

    def _plan_totals(self) -> Step:
        """Plan to add all sums to the totals, and to begin again at 0."""
        step = self.parts * self.part
        plan = plan_kernel_grad.plan_sum(2, step, step, self.tile, clear=True)
        totals = self._place(SUMS, 0)
        return Step(make_job(plan, 0, 3 * step), (totals, NONE, NONE, totals, NONE))

    def _plan_sums(self) -> list[Step]:
        """Plan the sums over the parts: of the kernel's gradient and of the bias'."""
        if not self.summed:
            return []
        steps = []
        for length, start, result in (
            (self.w_bytes, 0, W_GRAD),
            (self.b_bytes, self.w_bytes, B_GRAD),
        ):
            plan = plan_kernel_grad.plan_sum(self.parts, self.part, length, self.tile)
            job = make_job(plan, 0, self.parts * length)
            places = self._place(SUMS, start), NONE, NONE, (result, 0), NONE
            steps.append(Step(job, places))
        return steps

    def _clears(self) -> list[tuple[Place, int]]:
        """Return what sums are added to from the first step on."""
        if self.summed:
            return [(self._place(SUMS, 0), self.scratch[SUMS])]
        if not self.wants_kernel:
            return []
        return [((W_GRAD, 0), self.w_bytes), ((B_GRAD, 0), self.b_bytes)]

    def run(
        self, x: Any, w: Any, b: Any, g: Any, x_grad: Any, w_grad: Any, b_grad: Any
    ) -> None:
        """Write the wanted gradients; see `dispatch.bind_gradients`."""
        scratch = None
        if self.scratch:
            room = sum(self.scratch.values()) + len(self.scratch) * (LINE + APART)
            scratch = aligned_empty((room,), np.uint8)
        self.program.run(x, w, b, g, x_grad, w_grad, b_grad, scratch)


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
    return Backward(geometry, dtype, strides, activation, parameter, wanted).run
