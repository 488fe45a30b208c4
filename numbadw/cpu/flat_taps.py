"""The tile of the kernel gradient for few channels: lanes run along the row.

As in flat.py a vector holds whole pixels of a row and a kernel column is a shift by
pixels.  Each lane keeps a sum of its own; lanes are added up when a part is done:

    for block of kernel rows:                                   # run time
        for kernel column:                                      # run time
            for group of `together` output rows:
                for vector of the row:                          # run time
                    g[a] = load gradient                        # unrolled: rows
                    for input row of the group:                 # unrolled
                        x = load(row, column shift)
                        for each output row a that reads it:
                            acc[kernel row][a % sets] += x * g[a]
            sums[kernel row, kernel column] += acc

An unaligned load serves several rows, and several `sets` of sums hide the latency of
the multiply-adds where the kernel has few rows.  In *guarded* tiles lanes whose input
or output lies outside the row keep their sum: a NaN there reaches nothing.
"""

from __future__ import annotations

import functools
import operator

from numbadw.cpu.choice import make_intrinsic
from numbadw.cpu.flat import FLAT_FIELDS, Flat
from numbadw.cpu.label import Tile
from numbadw.cpu.simd import Cell, Int, Simd, Vec

# Sums kept at once for each of the rows together: with the gradients of these rows and
# an input they fill 25 of 32 registers, or 13 of 16.
SUMS = 2


class FlatTaps:
    """One strip of the kernel gradient: sums of one kernel column at a time."""

    def __init__(self, flat: Flat) -> None:
        self.flat, self.together = flat, flat.tile.width
        self.sets = max(1, min(self.together, SUMS * self.together // flat.tile.kh))

    def column(self, ky: Int, kx: Int) -> None:
        """Emit one kernel column of one block of kernel rows."""
        flat, simd = self.flat, self.flat.simd
        tap = flat.taps_of(kx)
        accs = [
            [simd.variable(simd.vec(0.0)) for _ in range(self.sets)]
            for _ in range(flat.tile.kh)
        ]
        bias = simd.variable(simd.vec(0.0))
        first = simd.builder.and_(ky.compare("==", 0), kx.compare("==", 0))
        first = simd.builder.and_(first, flat.b.compare("!=", 0))
        count = flat.last - flat.first
        whole = flat.first + count.divided(self.together) * self.together
        for begin, end, step in (
            (flat.first, whole, self.together),
            (whole, flat.last, 1),
        ):
            with (
                simd.loop(begin, end, step) as o,
                simd.loop(simd.integer(0), flat.run) as v,
            ):
                gs = self.gradients(o, v, step)
                with simd.when(first):
                    total = functools.reduce(operator.add, gs)
                    bias.set(bias.get(simd.builder) + total)
                self.rows(accs, gs, o * flat.tile.sh + ky, tap, v)
        size = simd.lanes * simd.itemsize
        for a, parts in enumerate(accs):
            with simd.when((ky + a).compare("<", flat.kh)):
                values = [part.get(simd.builder) for part in parts]
                total = functools.reduce(operator.add, values)
                self.add(total, flat.w + ((ky + a) * flat.kw + kx) * size)
        with simd.when(first):
            self.add(bias.get(simd.builder), flat.b)

    def add(self, value: Vec, address: Int) -> None:
        """Add a vector to the sums in memory."""
        simd = self.flat.simd
        simd.store(simd.load(address) + value, address)

    def gradients(self, o: Int, v: Int, rows: int) -> list[Vec]:
        """Load one vector of each output row."""
        flat, simd = self.flat, self.flat.simd
        mask = None
        if flat.tile.guarded:
            mask = simd.mask((flat.left - v * flat.lanes).maximum(0))
        at = flat.o + v * flat.o_step
        return [simd.load(at + (o + a) * flat.o_row, mask) for a in range(rows)]

    def rows(
        self,
        accs: list[list[Cell]],
        gs: list[Vec],
        top: Int,
        tap: dict[str, Int],
        v: Int,
    ) -> None:
        """Emit the input rows that these output rows read, from row `top` on."""
        flat, simd = self.flat, self.flat.simd
        kh, sh = flat.tile.kh, flat.tile.sh
        element = flat.x_first + v * flat.x_step
        mask = None
        if flat.tile.guarded:
            mask = flat.inside(tap["first"] + element, tap["count"])
            if flat.repeat > 1:
                pattern = [
                    min(i // flat.repeat, flat.narrow.lanes - 1)
                    for i in range(simd.lanes)
                ]
                mask = simd.pick(mask, pattern)
            left = simd.mask((flat.left - v * flat.lanes).maximum(0))
            mask = simd.builder.and_(mask, left)
        for r in range(sh * (len(gs) - 1) + kh):
            pairs = [
                (accs[r - sh * a][a % self.sets], gs[a])
                for a in range(len(gs))
                if 0 <= r - sh * a < kh
            ]
            row = top + r
            if pairs:
                with simd.when(row.within(flat.row_lo, flat.row_hi)):
                    x = flat.load_at(flat.x + row * flat.x_row, tap, element)
                    for acc, g in pairs:
                        old = acc.get(simd.builder)
                        new = simd.fma(x, g, old)
                        acc.set(new if mask is None else simd.where(mask, new, old))


def _emit_flat_taps(simd: Simd, tile: Tile, values: dict[str, Int]) -> None:
    flat = Flat(simd, tile, values)
    strip = FlatTaps(flat)
    zero = simd.integer(0)
    with (
        simd.loop(zero, flat.kh, tile.kh) as ky,
        simd.loop(zero, flat.kw) as kx,
    ):
        strip.column(ky, kx)


flat_taps = make_intrinsic(FLAT_FIELDS, _emit_flat_taps)
