"""The register tile for few channels: lanes run along the flattened row.

With C channels in a dense row, output lane (column, channel) of one kernel tap reads
the row shifted by whole pixels, so a vector holds as many whole pixels as fit and its
weights repeat with the channels.  A strip is `width` such vectors:

    for block of `together` output rows:
        for strip of a run, side by side:                             # run time
            for row in input rows of the block:                       # unrolled
                for tap in kernel columns:                            # run time
                    for t in vectors:                                 # unrolled
                        x[t] = load(row, tap shift + t)
                    for out in the output rows that the row belongs to:
                        for t in vectors:                             # unrolled
                            acc[out][t] += x[t] * weight[row - out, tap]
            store the block

Loads are unaligned and cost more than the arithmetic, so each serves many rows.  Of
tall kernels the input rows that serve all output rows of the block are a run-time loop;
where there are none, or too many taps for one chain of sums, output rows go one at a
time.  Kernel width, dilation and padding are run-time numbers (the table of taps), but
for the columns of small kernels, which are unrolled (`Known`).  In a *phased* tile the
output channels do not fit a vector whole number of times but fit the strip: each of its
vectors has weights of its own.  *Guarded* tiles compare each lane with the row's ends:
lanes outside read zero, which is what padding means.

Source: OpenCV's filter2D also flattens the channels into the row; keeping many output
rows in registers is Goto and van de Geijn's argument, "Anatomy of High-Performance
Matrix Multiplication", ACM TOMS 34(3), 2008, section 4, with rows for columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from numbadw.cpu.choice import make_intrinsic
from numbadw.cpu.finish import Finish
from numbadw.cpu.label import Tile
from numbadw.cpu.records import index, size
from numbadw.cpu.simd import I32, Cell, Int, Simd, Vec
from numbadw.cpu.tile import CHAIN

FLAT_FIELDS = (
    "x",  # address of the (maybe virtual) input row 0 of the phase
    "w",  # address of the prepared weights: one vector a tap, columns then rows
    "b",  # address of the prepared bias vector, or 0
    "o",  # address of output row 0 of the phase, at the strip's first lane
    "x_row",  # bytes
    "o_row",
    "row_lo",  # input rows that exist
    "row_hi",
    "first",  # output rows: first <= row < last
    "last",
    "taps",  # address of the table of taps
    "kh",
    "kw",
    "sh",
    "x_first",  # element of the row that lane 0 reads at shift 0
    "x_step",  # elements from one vector to the next
    "o_step",  # bytes from one vector to the next
    "left",  # output lanes from the strip's first to the end of the row
    "run",  # strips side by side, each `width` vectors on (flat_taps.py: vectors)
    "lanes",  # lanes in use: whole pixels
    "stream",
    "parameter",
)


class Flat:
    """Arguments, masks, loads and stores of one flat strip."""

    def __init__(self, simd: Simd, tile: Tile, arguments: dict[str, Int]) -> None:
        self.simd = simd
        self.tile = tile
        self.args = arguments
        self.repeat = max(1, tile.multiplier)
        self.phases = tile.width if tile.form == "phased" else 1
        self.narrow = Simd(simd.builder, tile.dtype, tile.lanes // self.repeat)

    def __getattr__(self, name: str) -> Int:
        return self.args[name]

    @contextmanager
    def each_strip(self) -> Iterator[Flat]:
        """Emit the body for every strip of the run."""
        width = self.tile.width
        with self.simd.loop(self.simd.integer(0), self.run) as s:
            vectors = s * width
            own = {
                "x_first": self.x_first + vectors * self.x_step,
                "o": self.o + vectors * self.o_step,
                "left": self.left - vectors * self.lanes,
            }
            yield Flat(self.simd, self.tile, self.args | own)

    def load_x(self, row: Int, tap: dict[str, Int], t: int) -> Vec:
        """Load vector `t` of a row at a tap's shift."""
        return self.load_at(row, tap, self.x_first + t * self.x_step)

    def load_at(self, row: Int, tap: dict[str, Int], element: Int) -> Vec:
        """Load the vector that begins at an element of a row, at a tap's shift."""
        address = row + tap["x"] + element * self.simd.itemsize
        mask = None
        if self.tile.guarded:
            mask = self.inside(tap["first"] + element, tap["count"])
        vec = self.narrow.load(address, mask)
        return self.simd.repeat(vec, self.repeat) if self.repeat > 1 else vec

    def inside(self, element: Int, count: Int) -> Any:
        """Return the mask of lanes whose element of the row exists."""
        narrow, builder = self.narrow, self.simd.builder
        kind = ir.VectorType(I32, narrow.lanes)
        iota = ir.Constant(kind, list(range(narrow.lanes)))
        start = narrow.splat(builder.trunc(element.value, I32))
        stop = narrow.splat(builder.trunc(count.value, I32))
        lanes = builder.add(iota, start)
        return builder.icmp_unsigned("<", lanes, stop)

    def taps_of(self, column: Int) -> dict[str, Int]:
        """Read one entry of the table of taps."""
        simd = self.simd
        base = self.taps + column * size("tap")
        names = ("x", "first", "count")
        return {name: simd.load_int(base + 8 * index(f"tap.{name}")) for name in names}

    def accumulators(self) -> list[Cell]:
        """Return one zeroed variable per vector."""
        zero = self.simd.vec(0.0)
        return [self.simd.variable(zero) for _ in range(self.tile.width)]

    def store(self, finish: Finish, accs: list[Cell], row: Int) -> None:
        """Finish and store one output row of the strip."""
        simd = self.simd
        address = self.o + row * self.o_row

        # Lanes behind the whole pixels hold nothing; the next vector, which starts
        # there, overwrites them. Only the end of the row is masked.
        def mask(t: int) -> Any:
            if not self.tile.guarded:
                return None
            return simd.mask((self.left - t * self.lanes).maximum(0))

        finish.row(
            accs,
            address,
            self.o_step,
            mask,
            streams=not self.tile.guarded,
            biases=self.phases,
        )


# Output rows computed together.  A load that straddles two lines costs as much as four
# multiply-adds, so each must serve many: 8 rows of 3 vectors fill 24 of 32 registers.
ROWS_TOGETHER = {32: 8, 16: 4}


def emit_flat(flat: Flat, finish: Finish, together: int) -> None:
    """Emit the strip: rows together where the tile knows the kernel's stride."""
    simd = flat.simd
    if not flat.tile.sh:
        with simd.loop(flat.first, flat.last) as o, flat.each_strip() as here:
            totals = here.accumulators()
            for total in totals:
                total.set(simd.vec(0.0))
            _emit_chunks(here, o, totals)
            here.store(finish, totals, o)
        return
    known = Known(flat) if flat.tile.kw else None
    with simd.loop(flat.first, flat.last, together) as o, flat.each_strip() as here:
        _emit_together(here, finish, o, together, known)


class Known:
    """The kernel columns of a tile that knows how many, all its weights loaded once.

    LLVM keeps as many weights in registers as there are, and the others at hand.
    """

    def __init__(self, flat: Flat) -> None:
        simd, tile, phases = flat.simd, flat.tile, flat.phases
        vector = simd.lanes * simd.itemsize
        self.taps = [flat.taps_of(simd.integer(k)) for k in range(tile.kw)]
        self.weights = {
            (k, ky, t): simd.load(flat.w + ((k * tile.kh + ky) * phases + t) * vector)
            for k, ky, t in itertools.product(
                range(tile.kw), range(tile.kh), range(phases)
            )
        }

    def emit_row(
        self, flat: Flat, address: Int, targets: list[tuple[int, list[Cell]]]
    ) -> None:
        """Emit one input row into the (kernel row, sums) it belongs to."""
        simd = flat.simd
        address = simd.opaque(address)
        for k, tap in enumerate(self.taps):
            for t in range(flat.tile.width):
                x = flat.load_x(address, tap, t)
                for ky, accs in targets:
                    acc, w = accs[t], self.weights[k, ky, t % flat.phases]
                    acc.set(simd.fma(x, w, acc.get(simd.builder)))


def _emit_together(
    flat: Flat, finish: Finish, o: Int, together: int, known: Known | None
) -> None:
    """Emit a block of output rows of a strip, each input row loaded once for all."""
    simd = flat.simd
    outs = [flat.accumulators() for _ in range(together)]
    for acc in itertools.chain(*outs):
        acc.set(simd.vec(0.0))
    if flat.tile.kh:
        _emit_block(flat, outs, o, known)
    else:
        _emit_tall(flat, outs, o)
    for a in range(together):
        with simd.when((o + a).compare("<", flat.last)):
            flat.store(finish, outs[a], o + a)


def _emit_block(
    flat: Flat, outs: list[list[Cell]], o: Int, known: Known | None
) -> None:
    """Emit the input rows of a block for a kernel of known height."""
    simd, kh, sh, together = flat.simd, flat.tile.kh, flat.tile.sh, len(outs)
    for r in range(sh * (together - 1) + kh):
        targets = [
            (r - sh * a, outs[a]) for a in range(together) if 0 <= r - sh * a < kh
        ]
        row = o * sh + r
        if not targets:
            continue
        with simd.when(row.within(flat.row_lo, flat.row_hi)):
            if known:
                known.emit_row(flat, flat.x + row * flat.x_row, targets)
            else:
                rows = [(simd.integer(ky), accs) for ky, accs in targets]
                _emit_row(flat, row, rows, (simd.integer(0), flat.kw))


def _emit_tall(flat: Flat, outs: list[list[Cell]], o: Int) -> None:
    """Emit the input rows of a block for a kernel taller than the rows between outputs.

    Input row r serves output row a by kernel row r - a * stride: the first and last
    rows some of them, all rows between all of them.
    """
    simd, sh, together = flat.simd, flat.tile.sh, len(outs)
    columns, top = (simd.integer(0), flat.kw), o * flat.tile.sh
    edges = sh * (together - 1)

    def targets(row: Int, served: range) -> list[tuple[Int, list[Cell]]]:
        return [(row - (top + sh * a), outs[a]) for a in served]

    def edge(row: Int, served: range) -> None:
        with simd.when(row.within(flat.row_lo, flat.row_hi)):
            _emit_row(flat, row, targets(row, served), columns)

    for r in range(edges):
        edge(top + r, range(r // sh + 1))
    low = flat.row_lo.maximum(top + edges)
    with simd.loop(low, flat.row_hi.minimum(top + flat.kh)) as row:
        _emit_row(flat, row, targets(row, range(together)), columns)
    for r in range(edges):
        edge(top + flat.kh + r, range(r // sh + 1, together))


def _emit_chunks(flat: Flat, o: Int, totals: list[Cell]) -> None:
    """Emit one output row; every block of about 1,000 taps is summed by itself.

    So is every block of `CHAIN` kernel columns, as in the wide tile (tile.py): a
    kernel of one row then has the same bits in both.
    """
    simd = flat.simd
    top = o * flat.sh
    low = (flat.row_lo - top).maximum(0)
    high = (flat.row_hi - top).minimum(flat.kh)
    accs = flat.accumulators()
    rows = simd.integer(
        simd.builder.sdiv(simd.integer(1024).value, flat.kw.value)
    ).maximum(1)
    chunk = simd.variable(simd.integer(0))
    with simd.repeat_while(lambda: chunk.get(simd.builder).compare("<", flat.kh)):
        begin = chunk.get(simd.builder)
        end = begin + rows
        column = simd.variable(simd.integer(0))
        with simd.repeat_while(lambda: column.get(simd.builder).compare("<", flat.kw)):
            columns = column.get(simd.builder)
            stop = (columns + CHAIN).minimum(flat.kw)
            for acc in accs:
                acc.set(simd.vec(0.0))
            with simd.loop(begin.maximum(low), end.minimum(high)) as ky:
                _emit_row(flat, top + ky, [(ky, accs)], (columns, stop))
            for total, acc in zip(totals, accs, strict=True):
                total.set(total.get(simd.builder) + acc.get(simd.builder))
            column.set(stop)
        chunk.set(end)


def _emit_row(
    flat: Flat,
    row: Int,
    targets: list[tuple[Int, list[Cell]]],
    columns: tuple[Int, Int],
) -> None:
    """Emit some columns of one input row into the (kernel row, sums) it belongs to."""
    simd, phases = flat.simd, flat.phases
    address = flat.x + row * flat.x_row
    vector = simd.lanes * simd.itemsize * phases
    height = flat.tile.kh or flat.kh
    with simd.loop(*columns) as kx:
        tap = flat.taps_of(kx)
        column = flat.w + kx * height * vector
        xs = [flat.load_x(address, tap, t) for t in range(flat.tile.width)]
        for ky, accs in targets:
            for t, (acc, x) in enumerate(zip(accs, xs, strict=True)):
                if t < phases:
                    w = simd.load(column + ky * vector + t * (vector // phases))
                acc.set(simd.fma(x, w, acc.get(simd.builder)))


def _emit_flat_strip(simd: Simd, tile: Tile, values: dict[str, Int]) -> None:
    few = tile.width <= 2 or (not tile.kh and tile.sh > 1)
    many = ROWS_TOGETHER[16 if few else 32]
    emit_flat(Flat(simd, tile, values), Finish(simd, tile, values), many)


flat_strip = make_intrinsic(FLAT_FIELDS, _emit_flat_strip)
