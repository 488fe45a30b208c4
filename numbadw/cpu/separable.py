"""Depthwise and pointwise convolution in one pass over memory.

    for image, band of output rows:                                     # work items
        depthwise kernel: the band's input rows -> scratch
        pointwise product: scratch -> the band's output rows

Both are the kernels of the two convolutions, called by address with plans of a band, so
what one writes is still in the thread's L2 when the other reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from numbadw.cpu.caches import LINE
from numbadw.cpu.label import Tile
from numbadw.cpu.pool import call_kernel
from numbadw.cpu.records import entry, get, word
from numbadw.cpu.request import ITEMS
from numbadw.geometry import Geometry

# Bytes of a band's scratch: a quarter of a usual L2, or half of that where there would
# be too few bands to share.
SCRATCH_BYTES = 256 * 1024
# Less between the two, or fewer bands, are not worth it: all fits the caches anyhow,
# and threads share whole convolutions better (2 threads: 1x28x28x256 274 us in two
# calls, 322 by bands; 4x112x112x32 796 and 677).
LEAST_BYTES = 4 * 1024 * 1024
LEAST_BANDS = 4


def make_separable(tiles: list[Tile]) -> Callable[..., None]:
    """Build the loop over bands; `w` is the address of four others.

    They are those of the depthwise kernel and bias and the pointwise kernel and bias.
    """

    def separable(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        scratch = np.empty(get(plan, "plan.scratch_x") + LINE, np.uint8)
        between = (scratch.ctypes.data + LINE - 1) & -LINE
        bands = get(plan, "plan.rows")
        for item in range(first, last):
            n = item // bands
            band = entry(plan, "plan.bands_at", "band", item % bands)
            x_at = x + n * get(plan, "plan.x_n") + get(band, "band.x")
            o_at = o + n * get(plan, "plan.o_n") + get(band, "band.o")
            call_kernel(
                get(band, "band.first"),
                (
                    x_at,
                    word(w),
                    word(w + 8),
                    between,
                    0,
                    get(band, "band.first_plan"),
                    0,
                    get(band, "band.first_items"),
                ),
            )
            call_kernel(
                get(band, "band.second"),
                (
                    between,
                    word(w + 16),
                    word(w + 24),
                    o_at,
                    0,
                    get(band, "band.second_plan"),
                    0,
                    get(band, "band.second_items"),
                ),
            )
        scratch[0] = 0  # keeps it alive until here

    return separable


class Band(NamedTuple):
    """Rows of one band and the paddings that place them: all its plans depend on."""

    inputs: int
    outputs: int
    top: int

    def geometry(self, g: Geometry) -> Geometry:
        """Return the depthwise problem of the band, one image of channels last."""
        return dataclasses.replace(
            g, n=1, h=self.inputs, oh=self.outputs, pt=self.top, channels_first=False
        )


def cut(g: Geometry, itemsize: int) -> list[tuple[int, int, Band]]:
    """Cut an image into bands: first input row, first output row, sizes.

    An empty list where the two convolutions are better run one after the other.
    """
    row = g.ow * g.out_channels * itemsize
    count = -(-g.oh // max(1, SCRATCH_BYTES // row))
    if g.n * count < ITEMS:
        count = -(-g.oh // max(1, SCRATCH_BYTES // 2 // row))
    if g.n * count < LEAST_BANDS or g.n * g.oh * row < LEAST_BYTES:
        return []
    height = -(-g.oh // count)
    bands = []
    for first in range(0, g.oh, height):
        outputs = min(height, g.oh - first)
        low = first * g.sh - g.pt
        begin = max(0, low)
        end = min(g.h, low + (outputs - 1) * g.sh + (g.kh - 1) * g.dh + 1)
        if begin >= end:  # a band of nothing but padding
            return []
        bands.append((begin, first, Band(end - begin, outputs, begin - low)))
    return bands
