"""The tile of both gradients in one pass: small kernels, stride 1.

The gradient at an input sums gradients at outputs times weights, that at a weight the
same gradients times inputs: pixel by pixel both read the same window of `g`.

    for lane vector:                                    # run time
        for row of the inputs:                          # run time
            x[t] = load input                           # unrolled: `width` columns
            for kernel row:                             # unrolled
                for column of g:                        # unrolled
                    g = load(row, column)
                    for each input t that it belongs to:
                        acc[t] += g * weight            # the gradient at the inputs
                        sum[tap] += g * x[t]            # that at the kernel
            store acc
        result[taps] += sum                             # one step of the sum

Rows and columns are those of the inputs, so the way back is a convolution with the
taps last one first (`plan.split_back`); the sums have the kernel's form, the bias'
behind them.  For the bias `top` and `begin` are the row and column of the window at
which an input reads the gradient at its own place.  Against one gradient after the
other `g` crosses the caches once, loads and stores mix, and each load serves two
multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from numbadw.cpu.simd import Cell, Int, Vec
from numbadw.cpu.strip import Strip


class Sums:
    """The sums of one lane vector over a strip: of the taps and of the bias."""

    def __init__(self, strip: Strip) -> None:
        simd, tile = strip.simd, strip.tile
        self.strip = strip
        self.taps = [[simd.variable() for _ in range(tile.kw)] for _ in range(tile.kh)]
        self.bias = simd.variable()
        for cell in (*[cell for row in self.taps for cell in row], self.bias):
            cell.set(simd.vec(0.0))

    def store(self) -> None:
        """Add the sums to those in memory; the bias' lies behind the last tap's."""
        strip = self.strip
        for a, row in enumerate(self.taps):
            for k, cell in enumerate(row):
                self._add(cell, strip.b + a * strip.w_row + k * strip.w_col)
        self._add(self.bias, strip.b - strip.w_col)

    def _add(self, cell: Cell, address: Int) -> None:
        simd, mask = self.strip.simd, self.strip.mask
        total = simd.load(address, mask) + cell.get(simd.builder)
        simd.store(total, address, mask)


def emit_both(whole: Strip) -> None:
    """Emit the strip of both gradients; one column at a time if the width is 1."""
    simd = whole.simd
    with whole.each_lane() as strip:
        sums = Sums(strip)
        with simd.loop(strip.first, strip.last) as o:
            if strip.tile.width > 1:
                _emit_line(strip, o, sums)
            else:
                with simd.loop(simd.integer(0), strip.columns) as t:
                    _emit_line(_column(strip, t), o, sums)
        sums.store()


def _column(strip: Strip, t: Int) -> Strip:
    """Return one column of a strip as a strip."""
    return strip.over(
        {
            "x": strip.x + t * strip.x_pix,
            "o": strip.o + t * strip.o_pix,
            "g": strip.g + t * strip.o_pix,
            "col_lo": strip.col_lo - t,
            "col_hi": strip.col_hi - t,
        }
    )


def _emit_line(strip: Strip, o: Int, sums: Sums) -> None:
    """Emit one row of inputs: its gradient, and its part of the sums."""
    simd, tile = strip.simd, strip.tile
    _ask(strip, o)
    with _row(strip, o + strip.top) as row:
        _add_bias(strip, row + strip.begin * strip.x_pix, sums)
    place = simd.walk(strip.g + o * strip.o_row, strip.o_pix, range(tile.width))
    xs = [simd.load(place(t), strip.mask) for t in range(tile.width)]
    accs = strip.fresh()
    for a in range(tile.kh):
        with _row(strip, o + a) as row:
            _emit_row(strip, row, a, xs, accs, sums)
    row = strip.o + o * strip.o_row
    strip.end.store(accs, row, strip.o_pix, lambda t: strip.mask)


@contextmanager
def _row(strip: Strip, row: Int) -> Iterator[Int]:
    """Emit the body for a row of g, with its address, if it exists."""
    with strip.simd.when(row.within(strip.row_lo, strip.row_hi)):
        yield strip.x + row * strip.x_row


def _emit_row(
    strip: Strip, row: Int, a: int, xs: list[Vec], accs: list[Cell], sums: Sums
) -> None:
    """Emit one row of g, which both gradients read at kernel row `a`."""
    simd, tile = strip.simd, strip.tile
    taps = strip.w + a * strip.w_row
    weights = [strip.load_tap(taps, k) for k in range(tile.kw)]
    reads = tile.reads(tile.kw)
    place = simd.walk(row, strip.x_pix, list(reads))
    for j, pairs in reads.items():
        # Those between exist in every whole strip (`plan_both.strip_table`).
        between = tile.kw - 1 <= j < tile.width
        with nullcontext() if between else strip.column(j):
            g = simd.load(place(j), strip.mask)
            for t, k in pairs:
                strip.add(accs[t], g, weights[k])
                strip.add(sums.taps[a][k], g, xs[t])


def _add_bias(strip: Strip, row: Int, sums: Sums) -> None:
    """Add the gradients at the strip's own pixels, from an address on, to the bias'."""
    simd, tile, bias = strip.simd, strip.tile, sums.bias
    place = simd.walk(row, strip.x_pix, range(tile.width))
    for t in range(tile.width):
        between = t + tile.kw <= tile.width
        with nullcontext() if between else strip.column(strip.begin + t):
            g = simd.load(place(t), strip.mask)
            bias.set(bias.get(simd.builder) + g)


def _ask(strip: Strip, o: Int) -> None:
    """Ask for rows ahead, of g and of the inputs, if memory holds them."""
    simd, tile = strip.simd, strip.tile
    strip.ask(o + strip.ahead + (tile.kh - 1), 1, tile.width)
    with simd.when(strip.ahead.compare("!=", 0)):
        inputs = strip.g + (o + strip.ahead) * strip.o_row
        place = simd.walk(inputs, strip.o_pix, range(tile.width))
        for t in range(tile.width):
            simd.prefetch(place(t), 2)
