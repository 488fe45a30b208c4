"""The loops of the kernel gradient for few channels, lanes along the row.

    for part of the outputs:                                            # work items
        for image, row block in the part:
            pack the rows the block needs, where columns have a stride
            for run of vectors: flat tile          # adds to a vector of sums a tap
        add the lanes of every tap's sums to the part's

The cut into parts and the three levels of every sum are those of kernel_grad.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numbadw import jit
from numbadw.cpu.caches import LINE
from numbadw.cpu.choice import join
from numbadw.cpu.flat_taps import flat_taps
from numbadw.cpu.kernel_grad import PARAMETER
from numbadw.cpu.label import Tile
from numbadw.cpu.pack import add_element
from numbadw.cpu.pack_rows import pack_rows
from numbadw.cpu.records import entry, get
from numbadw.cpu.simd import BYTES


def make_flat_grad(tiles: list[Tile]) -> Callable[..., None]:
    """Build the loops round two tiles: runs of vectors without and with guards."""
    labels = join(tiles)
    dtype, width = tiles[0].dtype, tiles[0].lanes
    itemsize = BYTES[dtype]
    pitch = width * itemsize

    def kernel_grad_flat(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        rows, runs = get(plan, "plan.rows"), get(plan, "plan.strips")
        units, splits = get(plan, "plan.units"), get(plan, "plan.splits")
        run_0 = entry(plan, "plan.strips_at", "strip", 0)
        kh = get(entry(plan, "plan.rows_at", "rows", 0), "rows.kh")
        kw = get(run_0, "strip.kw")
        x_bytes, stride = get(plan, "plan.scratch_x"), get(plan, "plan.sh")
        vectors = kh * kw + 1
        scratch = np.empty(vectors * pitch + x_bytes + LINE, np.uint8)
        sums = (scratch.ctypes.data + LINE - 1) & -LINE
        x_block = sums + vectors * pitch
        for part in range(first, last):
            scratch[: vectors * pitch + LINE] = 0
            for unit in range(units * part // splits, units * (part + 1) // splits):
                block = entry(plan, "plan.rows_at", "rows", unit % rows)
                n = unit // rows
                x_at = x + n * get(plan, "plan.x_n") + get(block, "rows.x")
                g_at = g + n * get(plan, "plan.o_n") + get(block, "rows.o")
                x_row = get(plan, "plan.x_row")
                begin, end = get(block, "rows.first"), get(block, "rows.last")
                low, high = get(block, "rows.low"), get(block, "rows.high")
                if x_bytes:
                    low = max(low, begin * stride)
                    high = max(low, min(high, (end - 1) * stride + kh))
                    pack_rows(
                        x_at, plan, kh, low, high, x_block, dtype, width, itemsize
                    )
                    x_at = x_block - low * x_row
                for s in range(runs):
                    here = entry(plan, "plan.strips_at", "strip", s)
                    fields = (
                        x_at,
                        sums,
                        sums + (vectors - 1) * pitch if b else 0,
                        g_at + get(here, "strip.o"),
                        x_row,
                        get(plan, "plan.o_row"),
                        low,
                        high,
                        begin,
                        end,
                        plan + get(plan, "plan.taps_at"),
                        kh,
                        kw,
                        stride,
                        get(here, "strip.x"),
                        get(plan, "plan.x_pix"),
                        get(plan, "plan.o_pix"),
                        get(here, "strip.columns"),
                        get(here, "strip.begin"),
                        get(plan, "plan.used"),
                        0,
                        plan + PARAMETER,
                    )
                    flat_taps(fields, get(here, "strip.kind"), labels)
            skip = part * get(plan, "plan.part")
            taps = vectors - 1
            _add_lanes(sums, o + skip, taps, plan, dtype, pitch, itemsize)
            if b:
                bias = sums + taps * pitch
                _add_lanes(bias, b + skip, 1, plan, dtype, pitch, itemsize)

    return kernel_grad_flat


@jit.helper
def _add_lanes(sums, target, taps, plan, dtype, pitch, itemsize):  # type: ignore[no-untyped-def]
    """Add the lanes in use to the channel each belongs to, lowest lane first."""
    used, period = get(plan, "plan.used"), get(plan, "plan.period")
    for tap in range(taps):
        for lane in range(used):
            at = target + (tap * period + lane % period) * itemsize
            add_element(sums + tap * pitch + lane * itemsize, at, dtype)
