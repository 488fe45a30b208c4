"""The register tile: one strip of outputs, written as LLVM vector code.

A *strip* is `width` neighbouring outputs of one channel vector (the lanes), over a run
of output rows.  It knows registers only; where the strip lies, which rows and columns
of the image exist and how many lanes count are run-time integers (strip.py).
Its emitters share that interface with swath.py, which goes along the rows of images too
large for L2, and with those of the gradients in transposed.py, taps.py and
taps_swath.py; the planners pick one, here by kernel size:

block   kernels of few taps: 9, or 20 in up to 5 columns.  Two output rows at a time,
        all weights loaded once:

            for pair of output rows:                # run time
                for lane vector:                    # run time
                    for row, column of the inputs:  # unrolled
                        x = load(row, column)
                        for each output it belongs to:
                            acc[out] += x * weight  # unrolled
                    store the pair

        Lane vectors are innermost, so neighbouring lines are read and written together
        and the two input rows that the next pair shares are still in L1.

roll    kernels of three rows, stride 1, where hardware prefetchers are to follow.  One
        input row at a time, which belongs to three output rows: each row is read once.

            for lane vector:                            # run time
                for row of the inputs:                  # run time
                    for column:                         # unrolled
                        x = load(row, column)
                        for each output it belongs to:
                            acc[out] += x * weight      # unrolled
                    store the first output row, the next takes its place

rows    up to 20 columns.  One output row at a time, kernel rows in a run-time loop
        (its bounds clip the top and bottom border), columns unrolled.

wide    more columns.  As rows, with the kernel columns in a run-time loop of unrolled
        blocks.  Nothing depends on the kernel size: one compiled tile serves them all.

Left and right borders: in a *guarded* tile every column sits behind a compare with
`col_lo` and `col_hi`.  The order of the sum is the same for every output and tile:
kernel rows, then kernel columns, ascending; so bits never depend on where a tile lies.

Source: the split into tile, loops and table follows Van Zee and van de Geijn, "BLIS: A
Framework for Rapidly Instantiating BLAS Functionality", ACM TOMS 41(3), 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from numbadw.cpu.both import emit_both
from numbadw.cpu.choice import call_tile, make_intrinsic
from numbadw.cpu.label import APART, MASKED, Tile
from numbadw.cpu.simd import Cell, Int, Simd, Vec
from numbadw.cpu.strip import STRIP_FIELDS, Strip
from numbadw.cpu.swath import emit_swath
from numbadw.cpu.taps import emit_taps
from numbadw.cpu.taps_swath import emit_taps_edge, emit_taps_swath
from numbadw.cpu.transposed import emit_tblock, emit_trows

BLOCK_ROWS = 2  # 2 x 7 accumulators, 9 weights and an input fit 32 registers


def emit_block(whole: Strip) -> None:
    """Emit the strip for small kernels: two output rows, lane vectors innermost.

    One row where a lane record is several vectors: their sums fill the registers, and
    the weights of a kernel row come when it does.
    """
    simd, tile = whole.simd, whole.tile
    kh, kw, sh = tile.kh, tile.kw, tile.sh
    height = BLOCK_ROWS if tile.vectors == 1 else 1
    with (
        simd.loop(whole.first, whole.last, height) as o,
        whole.each_lane() as strip,
    ):
        parts = strip.parts()

        def row_weights(part: Strip, ky: int) -> list[Vec]:
            return [part.load_tap(part.w + ky * part.w_row, kx) for kx in range(kw)]

        kept = []
        if height > 1:
            kept = [[row_weights(part, ky) for ky in range(kh)] for part in parts]
        sums = [[part.fresh() for _ in range(height)] for part in parts]
        first = (o + strip.ahead) * sh + kh - 1
        strip.ask(first, height * sh, tile.width, tile.sw)
        for r in range(sh * (height - 1) + kh):
            row = o * sh + r
            reached = [a for a in range(height) if 0 <= r - sh * a < kh]
            if not reached:
                continue
            with simd.when(row.within(strip.row_lo, strip.row_hi)):
                for p, part in enumerate(parts):
                    weights = kept[p] if kept else {r: row_weights(part, r)}
                    targets = [(sums[p][a], weights[r - sh * a]) for a in reached]
                    _emit_columns(part, part.x + row * part.x_row, targets)
        for a in range(height):
            with simd.when((o + a).compare("<", strip.last)):
                for p, part in enumerate(parts):
                    part.finish(sums[p][a], o + a)


def _emit_columns(
    strip: Strip,
    row: Int,
    targets: list[tuple[list[Cell], list[Vec]]],
    first: Int | int = 0,
) -> None:
    """Emit one input row of an unrolled tile into (accumulators, weights) pairs.

    `first` is the column of the strip that `row` points to.
    """
    tile = strip.tile
    reads = tile.reads(len(targets[0][1]))
    address = strip.columns_of(row, list(reads))

    for j in reads:
        with strip.column(first + j):
            x = strip.load_x(address(j))
            for accs, weights in targets:
                for t, kx in reads[j]:
                    strip.add(accs[t], x, weights[kx])


def emit_roll(whole: Strip) -> None:
    """Emit the strip with the sums of all output rows that an input row belongs to.

    Step `o` reads the last row of output row `o`; the first steps only fill the sums.
    """
    simd, tile = whole.simd, whole.tile
    with whole.each_lane() as strip:
        rows = [strip.w + ky * strip.w_row for ky in range(tile.kh)]
        weights = [[strip.load_tap(row, kx) for kx in range(tile.kw)] for row in rows]
        sums = [strip.fresh() for _ in rows]
        low = strip.row_lo.maximum(strip.first).minimum(strip.row_hi)
        with simd.loop(strip.first - (tile.kh - 1), strip.last) as o:
            row = o + (tile.kh - 1)
            with simd.when(row.within(low, strip.row_hi)):
                targets = list(zip(sums, reversed(weights), strict=True))
                _emit_columns(strip, strip.x + row * strip.x_row, targets)
            with simd.when(o.compare(">=", strip.first)):
                strip.finish(sums[0], o)
            for accs, following in pairwise(sums):
                for acc, value in zip(accs, following, strict=True):
                    acc.set(value.get(simd.builder))
            strip.reset(sums[-1])


def emit_rows(whole: Strip) -> None:
    """Emit the strip for middling kernels: kernel rows in a run-time loop."""
    with whole.each_lane() as strip:
        _emit_rows_lane(strip)


def _emit_rows_lane(strip: Strip) -> None:
    simd, tile = strip.simd, strip.tile
    parts = [(part, part.fresh()) for part in strip.parts()]
    with simd.loop(strip.first, strip.last) as o:
        for part, accs in parts:
            part.reset(accs)
        first = (o + strip.ahead) * strip.sh + strip.kh - 1
        strip.ask(first, strip.sh, tile.width, tile.sw)
        top = o * strip.sh
        low = (strip.row_lo - top).maximum(0)
        high = (strip.row_hi - top).minimum(strip.kh)
        with simd.loop(low, high) as ky:
            for part, accs in parts:
                taps = part.w + ky * part.w_row
                weights = [part.load_tap(taps, kx) for kx in range(tile.kw)]
                row = part.x + (top + ky) * part.x_row
                _emit_columns(part, row, [(accs, weights)])
        for part, accs in parts:
            part.finish(accs, o)


# Kernel columns a step of the wide tile, largest first: 8 weights, 14 accumulators and
# an input fit 32 registers, and any width is a few eights, at most two threes and ones.
WIDE_STEPS = (8, 3, 1)


def emit_wide(whole: Strip) -> None:
    """Emit the strip for wide kernels: kernel columns in blocks of a fixed size."""
    with whole.each_lane() as strip:
        _emit_wide_lane(strip)


# One float32 chain of 1,000 taps drifts past 4 eps sqrt(taps): sum so many by itself.
CHAIN = 256


def _emit_wide_lane(strip: Strip) -> None:
    """Emit one lane vector, its sum in chains of about `CHAIN` taps."""
    simd = strip.simd
    sums, accs = strip.fresh(), strip.fresh()
    chain = simd.variable(simd.integer(0))

    def flush() -> None:
        """Add the chain to the sum once it is long."""
        with simd.when(chain.get(simd.builder).compare(">=", CHAIN)):
            _add_all(sums, accs)
            strip.reset(accs)
            chain.set(simd.integer(0))

    with simd.loop(strip.first, strip.last) as o:
        strip.reset(sums)
        strip.reset(accs)
        chain.set(simd.integer(0))
        top = o * strip.sh
        low = (strip.row_lo - top).maximum(0)
        high = (strip.row_hi - top).minimum(strip.kh)
        with simd.loop(low, high) as ky:
            taps = strip.w + ky * strip.w_row
            row = strip.x + (top + ky) * strip.x_row
            kx = simd.variable(simd.integer(0))
            for step in WIDE_STEPS:
                with _each_block(strip, kx, step) as first:
                    _emit_taps(strip, row, taps, accs, first, step)
                    chain.set(chain.get(simd.builder) + step)
                    if step == WIDE_STEPS[0]:
                        flush()
            flush()
        _add_all(sums, accs)
        strip.finish(sums, o)


def _add_all(sums: list[Cell], accs: list[Cell]) -> None:
    for total, acc in zip(sums, accs, strict=True):
        builder = total.builder
        total.set(total.get(builder) + acc.get(builder))


@contextmanager
def _each_block(strip: Strip, kx: Cell, step: int) -> Iterator[Int]:
    """Emit `while kx + step <= kw: body(kx); kx += step`."""
    simd = strip.simd

    def more() -> Any:
        return (kx.get(simd.builder) + step).compare("<=", strip.kw)

    with simd.repeat_while(more):
        first = kx.get(simd.builder)
        yield first
        kx.set(first + step)


def _emit_taps(
    strip: Strip, row: Int, taps: Int, accs: list[Cell], first: Int, step: int
) -> None:
    """Emit `step` kernel columns from run-time column `first` on."""
    at = taps + first * strip.w_col
    weights = [strip.load_tap(at, k) for k in range(step)]
    start = row + first * strip.x_pix
    _emit_columns(strip, start, [(accs, weights)], first)


EMITTERS = {
    "block": emit_block,
    "roll": emit_roll,
    "rows": emit_rows,
    "wide": emit_wide,
    "swath": emit_swath,
    "tblock": emit_tblock,
    "trows": emit_trows,
    "taps": emit_taps,
    "tswath": emit_taps_swath,
    "tedge": emit_taps_edge,
    "both": emit_both,
}


def _emit_strip(simd: Simd, tile: Tile, values: dict[str, Int]) -> None:
    """Emit a strip, its whole lane records without masks where those are not free."""
    if tile.tail != APART:
        emit = EMITTERS[tile.form]
        emit(Strip(simd, tile, values, masked=tile.tail == MASKED))
        return
    begin, rest, end = (values[name] for name in ("lane", "lane_rest", "lane_end"))
    with simd.when(begin.compare("<", rest)):
        whole = Strip(simd, tile, values | {"lane_end": rest}, masked=False)
        EMITTERS[tile.form](whole)
    with simd.when(rest.compare("<", end)):
        one = tile._replace(vectors=1, tail=MASKED)
        call_tile(simd.builder, one, values | {"lane": rest}, _emit_strip, "rest")


strip = make_intrinsic(STRIP_FIELDS, _emit_strip)
