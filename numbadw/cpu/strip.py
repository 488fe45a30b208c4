"""One strip as its emitter sees it: addresses, lane vectors, guards, loads and the end.

A *strip* is `width` neighbouring outputs of one channel vector (the lanes), over a run
of output rows.  Every form of tile (tile.py, swath.py, transposed.py, taps.py, both.py)
is a function of a `Strip`, and all take the same integers; what they mean to swaths and
to both gradients, their files say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from numbadw.cpu.finish import Finish
from numbadw.cpu.label import Tile
from numbadw.cpu.records import index, size
from numbadw.cpu.simd import Cell, Int, Simd, Vec

# The integers a strip takes, in order.  "_row", "_pix" and "_tap" are byte steps;
# rows and columns count from the strip's first input row and column.
STRIP_FIELDS = (
    "x",  # address of the (maybe virtual) first input row and column, channel 0
    "w",  # address of the first tap (taps_swath.py: of its chain's sums)
    "b",  # address of the bias, or 0
    "o",  # address of output row 0, column 0 of the strip
    "x_row",
    "x_pix",
    "w_row",
    "w_col",
    "o_row",
    "o_pix",
    "g",  # address of the gradient at the strip's outputs, where one is read
    "row_lo",  # first input row that exists
    "row_hi",  # one past the last
    "first",  # output rows to compute: first <= row < last
    "last",
    "top",  # first row to store (transposed.py; else `first`)
    "col_lo",  # first input column that exists
    "col_hi",
    "begin",  # first column to store (transposed.py; else 0)
    "columns",  # output columns to store, at most the width
    "lane",  # address of the first lane record, of the first that is not whole, and
    "lane_rest",  # one past the last
    "lane_end",
    "kh",
    "kw",
    "sh",
    "stream",  # non-zero: store past the caches
    "ahead",  # non-zero: ask for the inputs of so many output rows ahead
    "parameter",  # address of the activation's parameter (a float64)
)


class Strip:
    """One lane vector's addresses, masks, loads and finish."""

    def __init__(
        self, simd: Simd, tile: Tile, arguments: dict[str, Int], masked: bool
    ) -> None:
        self.simd = simd
        self.tile = tile
        self.args = arguments
        self.masked = masked
        self.end = Finish(simd, tile, arguments)
        self.mask: Any = None  # set for each lane vector
        self.whole: Any = None
        self.source: tuple[Simd, Any] | None = None

    def __getattr__(self, name: str) -> Int:
        return self.args[name]

    @contextmanager
    def each_lane(self) -> Iterator[Strip]:
        """Emit the body for every lane vector, with its own addresses and mask."""
        simd = self.simd
        with simd.loop(self.lane, self.lane_end, size("lane")) as lane:
            x, w, o, count, adds = (
                simd.load_int(lane + 8 * index(f"lane.{name}"))
                for name in ("x", "w", "o", "count", "adds")
            )
            places = self._moved(x, w, o) | {"count": count, "adds": adds}
            here = Strip(simd, self.tile, self.args | places, self.masked)
            here.mask = simd.mask(count) if self.masked else None
            here.whole = count.compare("==", self.tile.lanes) if self.masked else None
            here.source = here._source(count)
            yield here

    def _moved(self, x: Int | int, w: Int | int, o: Int | int) -> dict[str, Int]:
        """Return the addresses so many bytes on; no bias stays none."""
        there = self.b.compare("!=", 0)
        bias = self.simd.builder.select(there, (self.b + w).value, self.b.value)
        return {
            "x": self.x + x,
            "w": self.w + w,
            "b": self.simd.integer(bias),
            "o": self.o + o,
            "g": self.g + w,
        }

    def over(self, fields: dict[str, Int]) -> Strip:
        """Return the same lane vector with some integers replaced."""
        other = Strip(self.simd, self.tile, self.args | fields, self.masked)
        other.mask, other.whole, other.source = self.mask, self.whole, self.source
        return other

    def parts(self) -> list[Strip]:
        """Return a strip for each of the record's vectors, one line's neighbours."""
        if self.tile.vectors == 1:
            return [self]
        size = self.simd.lanes * self.simd.itemsize
        steps = [v * size for v in range(self.tile.vectors)]
        return [
            Strip(self.simd, self.tile, self.args | self._moved(*[step] * 3), False)
            for step in steps
        ]

    def _source(self, count: Int) -> tuple[Simd, Any] | None:
        """Return the narrower vector that inputs are loaded with, and its mask."""
        tile, simd = self.tile, self.simd
        if tile.multiplier < 2:
            return None
        narrow = Simd(simd.builder, tile.dtype, tile.lanes // tile.multiplier)
        used = count + (tile.multiplier - 1)
        groups = simd.integer(
            simd.builder.udiv(used.value, simd.integer(tile.multiplier).value)
        )
        return narrow, None if self.mask is None else narrow.mask(groups)

    def ask(self, row: Int, rows: Int | int, width: int, step: int = 1) -> None:
        """Ask for input rows from `row` on, which need not exist, into L2.

        Of each row the columns that `width` outputs read, `step` columns apart.
        Only where the arrays are too large for the caches (`ahead` is not 0).
        """
        simd = self.simd
        last = row + rows
        with (
            simd.when(self.ahead.compare("!=", 0)),
            simd.loop(row, last) as here,
        ):
            taps = min(step, max(1, self.tile.kw))
            columns = [t * step + k for t in range(width) for k in range(taps)]
            address = simd.walk(self.x + here * self.x_row, self.x_pix, columns)
            for j in columns:
                simd.prefetch(address(j), 2)

    def columns_of(self, row: Int, columns: Sequence[int]) -> Callable[[int], Int]:
        """Return the address of each of some input columns of a row.

        In a loop over kernel rows LLVM itself reaches one neighbour from the other.
        """
        if self.tile.kh or self.tile.sw > 1:
            return self.simd.walk(row, self.x_pix, columns)
        return lambda column: row + self.x_pix * column

    def load_x(self, address: Int) -> Vec:
        """Load the input lanes that belong to the output lanes."""
        if self.tile.multiplier == 0:
            return self.simd.load_splat(address)
        if self.source is None:
            return self.simd.load(address, self.mask)
        narrow, mask = self.source
        loaded = narrow.load(address, mask)
        return self.simd.repeat(loaded, self.tile.multiplier)

    def load_tap(self, row: Int, column: int) -> Vec:
        """Load the weights of one tap of a kernel row."""
        return self.simd.load(row + column * self.w_col, self.mask)

    def fresh(self) -> list[Cell]:
        """Return one accumulator per output column, set to zero."""
        simd = self.simd
        return [simd.variable(simd.vec(0.0)) for _ in range(self.tile.width)]

    def reset(self, accs: list[Cell]) -> None:
        """Set accumulators back to zero."""
        for acc in accs:
            acc.set(self.simd.vec(0.0))

    def add(self, acc: Cell, x: Vec, w: Vec) -> None:
        """Accumulate one tap."""
        acc.set(self.simd.fma(x, w, acc.get(self.simd.builder)))

    def finish(self, accs: list[Cell], row: Int) -> None:
        """Activate and store one output row."""
        skip = row * self.o_row
        if self.tile.fold != 1:
            self.end.folded(
                accs,
                self.o + skip,
                self.o_pix,
                self.count,
                self.adds,
                self.columns,
            )
            return
        self.end.row(
            accs,
            self.o + skip,
            self.o_pix,
            lambda t: self.mask,
            self.columns,
            self.mask,
            self.whole,
            grad=self.g + skip,
        )

    @contextmanager
    def column(self, j: Int | int) -> Iterator[None]:
        """Emit the body for input column `j`, behind its guard where there is one."""
        index = j if isinstance(j, Int) else self.simd.integer(j)
        with self.guard(index, self.col_lo, self.col_hi):
            yield

    @contextmanager
    def guard(self, index: Int, low: Int, high: Int) -> Iterator[None]:
        """Emit the body for `low <= index < high`, or always: an inner tile's."""
        if not self.tile.guarded:
            yield
            return
        with self.simd.when(index.within(low, high)):
            yield
