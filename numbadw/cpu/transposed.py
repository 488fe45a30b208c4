"""The tiles of a strided convolution's way back: `s` outputs to each input.

Along an axis of stride s, output o reads input i at tap o - i * s.  Outputs count here
from a multiple of s and inputs so that the first one that output 0 could read is 0:
output o = s * a + r reads the inputs a + last - t at the taps r + s * t, for all
t < ceil(taps / s), with last = ceil(taps / s) - 1.

tblock  kernels up to 3x3.  One group of output rows at a time, weights in registers:

            for group of output rows:               # run time
                for lane vector:                    # run time
                    for row, column of the inputs:  # unrolled
                        x = load(row, column)
                        for each output it belongs to:
                            acc[out] += x * weight  # unrolled
                    store the group

trows   up to 20 columns.  One output row at a time, every s-th kernel row in a
        run-time loop, columns unrolled.

Each input is loaded once for all the outputs it reaches, and whole pixels of the result
are written in order; as s * s convolutions of stride 1 every row would be crossed s
times.  Inputs are summed in ascending order, whatever the tile.
"""

from __future__ import annotations

from numbadw.cpu.simd import Cell, Int, Vec
from numbadw.cpu.strip import Strip


def rows_together(stride: int) -> int:
    """Return the output rows of a `tblock` tile: at least two, whole groups."""
    return max(2, stride)


def emit_tblock(whole: Strip) -> None:
    """Emit the strip for small kernels: a group of output rows, lanes innermost."""
    simd, tile = whole.simd, whole.tile
    kh, kw, sh = tile.kh, tile.kw, tile.sh
    height = rows_together(sh)
    reach = -(-kh // sh)
    with (
        simd.loop(whole.first, whole.last, height) as o,
        whole.each_lane() as strip,
    ):
        weights = [
            [strip.load_tap(strip.w + ky * strip.w_row, kx) for kx in range(kw)]
            for ky in range(kh)
        ]
        accs = [strip.fresh() for _ in range(height)]
        top = o.divided(sh)
        first = (o + strip.ahead).divided(sh) + reach - 1
        strip.ask(first, height // sh, tile.width // tile.sw)
        for r in range(height // sh - 1 + reach):
            row = top + r
            parts = []
            for k in range(height):
                ky = k % sh + sh * (k // sh + reach - 1 - r)
                if 0 <= ky < kh:
                    parts.append((accs[k], weights[ky]))
            if parts:
                with simd.when(row.within(strip.row_lo, strip.row_hi)):
                    _emit_columns(strip, strip.x + row * strip.x_row, parts)
        for k in range(height):
            with simd.when((o + k).within(strip.top, strip.last)):
                strip.finish(accs[k], o + k)


def emit_trows(whole: Strip) -> None:
    """Emit the strip for middling kernels: kernel rows in a run-time loop."""
    simd, tile = whole.simd, whole.tile
    with whole.each_lane() as strip:
        accs = strip.fresh()
        with simd.loop(strip.top, strip.last) as o:
            strip.reset(accs)
            group = o.divided(strip.sh)
            first = (o + strip.ahead + strip.kh).divided(strip.sh)
            strip.ask(first, 1, tile.width // tile.sw)
            rest = o - group * strip.sh
            reach = (strip.kh + strip.sh - 1).divided(strip.sh)
            many = (strip.kh - rest + strip.sh - 1).divided(strip.sh)
            high = group + reach
            low = (high - many).maximum(strip.row_lo)
            with simd.loop(low, high.minimum(strip.row_hi)) as row:
                ky = rest + strip.sh * (high - 1 - row)
                taps = strip.w + ky * strip.w_row
                weights = [strip.load_tap(taps, kx) for kx in range(tile.kw)]
                parts = [(accs, weights)]
                _emit_columns(strip, strip.x + row * strip.x_row, parts)
            strip.finish(accs, o)


def _emit_columns(
    strip: Strip, row: Int, targets: list[tuple[list[Cell], list[Vec]]]
) -> None:
    """Emit one input row into (accumulators, weights) pairs."""
    kw, sw, width = strip.tile.kw, strip.tile.sw, strip.tile.width
    reach = -(-kw // sw)

    for j in range(width // sw - 1 + reach):
        taps = [
            (t, kx)
            for t in range(width)
            if 0 <= (kx := t % sw + sw * (t // sw + reach - 1 - j)) < kw
        ]
        if not taps:
            continue
        with strip.column(j):
            x = strip.load_x(row + j * strip.x_pix)
            for accs, weights in targets:
                for t, kx in taps:
                    strip.add(accs[t], x, weights[kx])
