"""The tile of the kernel gradient: one accumulator a tap, outputs walked past them.

Tap (ky, kx) of a channel sums, over all outputs, the gradient at the output times the
input that the output reads there.  A tile takes `kh` x `kw` taps at a time, as many as
registers hold, and adds their sums over the strip's outputs to memory:

    for lane vector:                                    # run time
        for block of kh x kw taps:                      # run time
            for output row:                             # run time
                g[t] = load gradient                    # unrolled: `width` columns
                for kernel row:                         # unrolled
                    for input column:                   # unrolled
                        x = load(row, column)
                        for each output t that reads it:
                            acc[kernel row][column - t] += x * g[t]
            result[block] += acc                        # one step of the sum

Where registers are left (3x3), a tap has two sums that take outputs in turn and meet at
the end.  A strip is crossed once for each block of taps, from L1.  Its outputs all
exist, so each input is loaded once a kernel row for up to `kw` multiply-adds; the
columns left over at the end of a row (`single` tiles) go one by one.  Inputs outside
the image are skipped, never multiplied: a NaN reaches no tap but those that read it.

Large images whose kernels' sums fit registers are crossed otherwise: taps_swath.py.

The first block of taps also sums the gradient itself: the bias' gradient.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any

from numbadw import jit
from numbadw.cpu.simd import Cell, Int, Vec
from numbadw.cpu.strip import Strip

# Sums of a tile: 21, with 7 gradients, an input and the bias' sum, fit 32 registers;
# 10, 4 and two fit 16.
SUMS = {32: 21, 16: 10}
# Sums of one tap: one added to seven times a row waits for itself as long as the row's
# multiply-adds of a 3x3 kernel take.
MOST_SETS = 2


class Block:
    """One block of taps: its accumulators, and which of its taps exist."""

    def __init__(self, strip: Strip, ky: Int, kx: Int) -> None:
        tile, simd = strip.tile, strip.simd
        self.strip, self.ky, self.kx = strip, ky, kx
        zero = simd.vec(0.0)
        sets = max(
            1, min(MOST_SETS, SUMS[jit.target().registers] // (tile.kh * tile.kw))
        )
        # Kernel row, column, set.
        self.accs = [
            [[simd.variable() for _ in range(sets)] for _ in range(tile.kw)]
            for _ in range(tile.kh)
        ]
        self.bias = simd.variable()
        for acc in itertools.chain(*itertools.chain(*self.accs), [self.bias]):
            acc.set(zero)  # in every turn of the loops round the block
        first = simd.builder.and_(ky.compare("==", 0), kx.compare("==", 0))
        self.first = first
        self.last = simd.builder.and_(
            (ky + tile.kh).compare(">=", strip.kh),
            (kx + tile.kw).compare(">=", strip.kw),
        )
        self.sums_bias = simd.builder.and_(first, strip.b.compare("!=", 0))

    def add_bias(self, gradients: list[Vec]) -> None:
        """Add gradients to the bias' sum, where this block keeps it."""
        simd = self.strip.simd
        with simd.when(self.sums_bias):
            total = functools.reduce(operator.add, gradients)
            self.bias.set(self.bias.get(simd.builder) + total)

    def each_row(self, o: Int, body: Any) -> None:
        """Emit `body(accumulators, address)` for the input rows that output `o` reads.

        The address is that of the input row at this block's first column.
        """
        strip = self.strip
        simd = strip.simd
        top = o * strip.sh + self.ky
        start = strip.x + self.kx * strip.x_pix
        for a, accs in enumerate(self.accs):
            row = top + a
            inside = row.within(strip.row_lo, strip.row_hi)
            if a:
                exists = (self.ky + a).compare("<", strip.kh)
                inside = simd.builder.and_(inside, exists)
            with simd.when(inside):
                body(accs, start + row * strip.x_row)

    def store(self) -> None:
        """Add the sums to those in memory."""
        strip = self.strip
        simd = strip.simd
        for a, accs in enumerate(self.accs):
            with simd.when((self.ky + a).compare("<", strip.kh)):
                row = strip.o + (self.ky + a) * strip.w_row
                for k, sets in enumerate(accs):
                    with simd.when((self.kx + k).compare("<", strip.kw)):
                        self._add(sets, row + (self.kx + k) * strip.w_col)
        with simd.when(self.sums_bias):
            self._add([self.bias], strip.b)

    def _add(self, sets: list[Cell], address: Int) -> None:
        simd, mask = self.strip.simd, self.strip.mask
        total = functools.reduce(operator.add, [acc.get(simd.builder) for acc in sets])
        simd.store(simd.load(address, mask) + total, address, mask)


def emit_taps(whole: Strip) -> None:
    """Emit the strip of the kernel gradient."""
    simd, tile = whole.simd, whole.tile
    zero = simd.integer(0)
    with (
        whole.each_lane() as strip,
        simd.loop(zero, strip.kh, tile.kh) as ky,
        simd.loop(zero, strip.kw, tile.kw) as kx,
    ):
        block = Block(strip, ky, kx)
        with simd.loop(strip.first, strip.last) as o:
            row = strip.g + o * strip.o_row
            if tile.single:
                with simd.loop(zero, strip.columns) as t:
                    _emit_single(block, o, t * tile.sw, row + t * strip.o_pix)
            else:
                _emit_columns(block, o, row)
        block.store()


def _emit_columns(block: Block, o: Int, gradient: Int) -> None:
    """Emit `width` outputs of a row, each input column loaded once."""
    strip, simd = block.strip, block.strip.simd
    tile = strip.tile
    gs = [simd.load(gradient + t * strip.o_pix, strip.mask) for t in range(tile.width)]
    block.add_bias(gs)
    _ask(block, o, gradient)
    reads = tile.reads(tile.kw)

    def row(accs: list[list[Cell]], address: Int) -> None:
        place = simd.walk(address, strip.x_pix, list(reads))

        for j in reads:
            with strip.column(block.kx + j):
                x = strip.load_x(place(j))
                for t, k in reads[j]:
                    strip.add(accs[k][t % len(accs[k])], x, gs[t])

    block.each_row(o, row)


def _ask(block: Block, o: Int, gradient: Int) -> None:
    """Ask for rows ahead, if memory holds them: inputs first, gradients last.

    Inputs in the first pass over the strip and gradients in the last, so that no pass
    waits for the lines of both.
    """
    strip, simd = block.strip, block.strip.simd
    tile = strip.tile
    with simd.when(block.first):
        first = (o + strip.ahead) * strip.sh + strip.kh - 1
        strip.ask(first, strip.sh, tile.width, tile.sw)
    wanted = simd.builder.and_(block.last, strip.ahead.compare("!=", 0))
    with simd.when(wanted):
        below = gradient + strip.ahead * strip.o_row
        for t in range(tile.width):
            simd.prefetch(below + t * strip.o_pix, 2)


def _emit_single(block: Block, o: Int, first: Int, gradient: Int) -> None:
    """Emit one output, each of its inputs behind a guard.

    `first` is the input column that it reads at kernel column 0.
    """
    strip = block.strip
    g = strip.simd.load(gradient, strip.mask)
    block.add_bias([g])

    def row(accs: list[list[Cell]], address: Int) -> None:
        start = address + first * strip.x_pix
        for k, (acc, *_) in enumerate(accs):
            with strip.column(first + block.kx + k):
                strip.add(acc, strip.load_x(start + k * strip.x_pix), g)

    block.each_row(o, row)
