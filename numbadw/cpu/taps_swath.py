"""The kernel gradient of large images: swaths along the rows, lane vectors innermost.

    for chain of columns:                                   # run time
        clear the chain's sums
        for column of outputs:                              # run time
            for lane vector:                                # run time
                acc[taps] = the chain's sums                # from L1
                g[t] = load gradient                        # unrolled: `width` rows
                for row of the inputs:                      # unrolled
                    for kernel column:                      # unrolled
                        x = load(row, column)
                        for each output t that reads it:
                            acc[kernel row, column] += x * g[t]
                the chain's sums = acc
        result += the chain's sums                          # one step of the sum

Both arrays are read from end to end of some rows side by side, as swath.py does and for
its reason; here, too, all integers are turned.  Sums go to L1 and back with every
column, which costs less than what taps.py waits for lines of L3 and memory.

The columns at the image's sides are a function's of their own, with guards; swaths of
fewer rows than `width` are the `tedge` tile's, which takes outputs one by one.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from numbadw.cpu.label import Tile
from numbadw.cpu.simd import Cell, Int, Simd, Vec
from numbadw.cpu.strip import Strip
from numbadw.cpu.swath import inside

# Columns of a chain of sums: of seven outputs each, 224 terms.
CHAIN = 32
# Bytes ahead in each row that are asked for in arrays too large for the caches.  Batch
# 16 on one Zen 5 core: 28x28x256 3x3 1.17 -> 0.85 ms, 56x56x144 2.08 -> 1.58, two
# threads 56x56x128 1.26 -> 1.15.
AHEAD = 512


def emit_taps_swath(whole: Strip) -> None:
    """Emit a swath of whole columns."""
    with (
        _chains(whole) as part,
        whole.simd.loop(part.first, part.last) as o,
        inside(part, o, _emit_side, "side"),
    ):
        _emit_column(part, o)


def _emit_side(simd: Simd, tile: Tile, values: dict[str, Int]) -> None:
    whole = Strip(simd, tile, values, masked=False)
    _emit_column(whole, whole.first, side=True)


def emit_taps_edge(whole: Strip) -> None:
    """Emit a swath of columns that are not whole, one output at a time."""
    with _chains(whole) as part, whole.simd.loop(part.first, part.last) as o:
        _emit_edge(part, o)


@contextmanager
def _chains(whole: Strip) -> Iterator[Strip]:
    """Emit the body for at most `CHAIN` columns at a time, with sums of their own."""
    simd = whole.simd
    with simd.loop(whole.first, whole.last, CHAIN) as first:
        last = (first + CHAIN).minimum(whole.last)
        fields = whole.args | {"first": first, "last": last}
        part = Strip(simd, whole.tile, fields, whole.masked)
        _clear(part)
        yield part
        _add(part)


class Sums:
    """The sums of one lane vector: in the chain's memory, which has a kernel's form.

    That lies at `w`; the bias' sums lie behind, if there are any (`b` is not 0).
    """

    def __init__(self, strip: Strip) -> None:
        self.strip = strip
        self.taps = [(r, k) for r in range(strip.tile.kh) for k in range(strip.tile.kw)]
        self.bias = strip.w + len(self.taps) * strip.w_row  # steps of a kernel column
        self.sums_bias = strip.b.compare("!=", 0)

    def place(self, base: Int, tap: tuple[int, int]) -> Int:
        """Return the address of a tap."""
        return base + tap[0] * self.strip.w_row + tap[1] * self.strip.w_col

    def load(self) -> dict[tuple[int, int], Cell]:
        """Return the sums as variables."""
        simd, w = self.strip.simd, self.strip.w
        return {t: simd.variable(simd.load(self.place(w, t))) for t in self.taps}

    def store(self, sums: dict[tuple[int, int], Cell]) -> None:
        """Put variables back."""
        simd, w = self.strip.simd, self.strip.w
        for tap, acc in sums.items():
            simd.store(acc.get(simd.builder), self.place(w, tap))

    def add_bias(self, gradients: list[Vec]) -> None:
        """Add gradients to the bias' sum."""
        simd = self.strip.simd
        with simd.when(self.sums_bias):
            total = functools.reduce(operator.add, gradients)
            simd.store(simd.load(self.bias) + total, self.bias)


def _clear(whole: Strip) -> None:
    """Set the chain's sums to zero."""
    zero = whole.simd.vec(0.0)
    with whole.each_lane() as strip:
        sums = Sums(strip)
        sums.store({tap: strip.simd.variable(zero) for tap in sums.taps})
        with strip.simd.when(sums.sums_bias):
            strip.simd.store(zero, sums.bias)


def _add(whole: Strip) -> None:
    """Add the chain's sums to those of its part of the outputs."""
    simd = whole.simd
    with whole.each_lane() as strip:
        sums = Sums(strip)
        for tap, acc in sums.load().items():
            at = sums.place(strip.o, tap)
            simd.store(simd.load(at) + acc.get(simd.builder), at)
        with simd.when(sums.sums_bias):
            simd.store(simd.load(strip.b) + simd.load(sums.bias), strip.b)


def _emit_column(whole: Strip, o: Int, side: bool = False) -> None:
    """Emit one column of outputs, all there; at a side input columns may be missing."""
    simd, tile = whole.simd, whole.tile
    with whole.each_lane() as strip:
        sums = Sums(strip)
        accs = sums.load()
        top = strip.g + o * strip.o_row
        if tile.sh == 1 and not side:
            _ask(strip, top, o + tile.kh - 1)
        place = simd.walk(top, strip.o_pix, range(tile.width))
        gs = [simd.load(place(t)) for t in range(tile.width)]
        start = o * tile.sh
        row = strip.x + start * strip.x_row
        for j, pairs in tile.reads(tile.kw).items():
            row = simd.opaque(row + strip.x_pix if j else row)
            with strip.column(j):
                for r in range(tile.kh):
                    with _there(strip, start + r) if side else nullcontext():
                        x = simd.load(row + r * strip.x_row)
                        for t, k in pairs:
                            strip.add(accs[r, k], x, gs[t])
        sums.store(accs)
        sums.add_bias(gs)


def _ask(strip: Strip, gradients: Int, column: Int) -> None:
    """Ask for lines of the newest column and of its gradients, if memory holds them.

    With stride 2, where two columns are new and more rows are read, it gains nothing.
    """
    simd, tile = strip.simd, strip.tile
    with simd.when(strip.ahead.compare("!=", 0)):
        for t in range(tile.width):
            simd.prefetch(gradients + t * strip.o_pix + AHEAD)
        inputs = strip.x + column * strip.x_row + AHEAD
        for t in range(tile.width + tile.kw - 1):
            simd.prefetch(inputs + t * strip.x_pix)


def _there(strip: Strip, column: Int) -> AbstractContextManager[None]:
    """Emit the body if an input column exists."""
    return strip.simd.when(column.within(strip.row_lo, strip.row_hi))


def _emit_edge(whole: Strip, o: Int) -> None:
    """Emit a column one output at a time, each of its inputs behind a guard."""
    simd, tile = whole.simd, whole.tile
    start = o * tile.sh
    with whole.each_lane() as strip:
        sums = Sums(strip)
        accs = sums.load()
        with simd.loop(simd.integer(0), strip.columns) as t:
            g = simd.load(strip.g + o * strip.o_row + t * strip.o_pix)
            sums.add_bias([g])
            for r, k in sums.taps:
                column, row = start + r, t * tile.sw + k
                with strip.column(row), _there(strip, column):
                    at = strip.x + column * strip.x_row + row * strip.x_pix
                    strip.add(accs[r, k], simd.load(at), g)
        sums.store(accs)
