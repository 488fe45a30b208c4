"""The tile of a swath of rows: one column of outputs at a time, along the rows.

    for column of outputs:                          # run time
        for lane vector:                            # run time
            for row of the inputs:                  # unrolled
                for kernel column:                  # unrolled
                    x = load(row, column)
                    for each output it belongs to:
                        acc[out] += x * weight      # unrolled
            store the column

A swath reads as many rows side by side as it has inputs, each from end to end: streams
that the hardware's prefetchers follow from L3 without being asked, and from memory with
some help (`_ask`), where the strips of tile.py, which go down the image, start anew
with every row.  From L1 and L2 strips read less.

A swath is a strip turned by a quarter, and so are all the integers it takes: its
columns are the image's rows, `x_pix` is the step from row to row, `kw` the kernel's
height, and `first` to `last` are columns of the image.  The sum keeps its order: kernel
rows, then kernel columns.  The inner tile hands the few columns at the image's sides to
the guarded one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from numbadw.cpu.choice import Emit, call_tile
from numbadw.cpu.label import Tile
from numbadw.cpu.simd import Int, Simd
from numbadw.cpu.strip import Strip

# Bytes ahead in each row that are asked for in arrays too large for the caches.  Old
# and new in turns on one and two Zen 5 cores, 3x3 with stride 2: batch 16 of 56x56x144
# 803 -> 658 and 397 -> 317 us, 32 of 56x56x128 1.62 -> 1.42 and 0.99 -> 0.95 ms, 16 of
# 112x112x96 2.74 -> 2.21 and 1.66 -> 1.74.
AHEAD = 1024


def emit_swath(whole: Strip) -> None:
    """Emit the columns of a swath."""
    simd, tile = whole.simd, whole.tile
    with simd.loop(whole.first, whole.last) as o:
        if tile.guarded:
            _emit_column(whole, o)
        else:
            with inside(whole, o, _emit_guarded):
                _emit_column(whole, o)


@contextmanager
def inside(whole: Strip, o: Int, side: Emit, part: str = "tile") -> Iterator[None]:
    """Emit the body for a column whose input columns exist; others a function takes.

    That is emitted by `side`, for the guarded tile; `part` begins its name.
    """
    simd, tile = whole.simd, whole.tile
    start = o * tile.sh
    there = simd.builder.and_(
        start.compare(">=", whole.row_lo),
        (start + tile.kh).compare("<=", whole.row_hi),
    )
    with simd.builder.if_else(there) as (plain, border):
        with plain:
            yield
        with border:
            fields = whole.args | {"first": o, "last": o + 1}
            guarded = tile._replace(guarded=True)
            call_tile(simd.builder, guarded, fields, side, part)


def _emit_guarded(simd: Simd, tile: Tile, values: dict[str, Int]) -> None:
    emit_swath(Strip(simd, tile, values, masked=False))


def _emit_column(whole: Strip, o: Int) -> None:
    """Emit one column of outputs for every lane vector."""
    simd, tile = whole.simd, whole.tile
    start = o * tile.sh
    with whole.each_lane() as strip:
        weights = [
            [strip.load_tap(strip.w + r * strip.w_row, k) for k in range(tile.kw)]
            for r in range(tile.kh)
        ]
        accs = strip.fresh()
        row = strip.x + start * strip.x_row
        if not tile.guarded:
            _ask(strip, row)
        for j, pairs in tile.reads(tile.kw).items():
            row = simd.opaque(row + strip.x_pix if j else row)
            with strip.column(j):
                for r in range(tile.kh):
                    with strip.guard(start + r, strip.row_lo, strip.row_hi):
                        x = strip.load_x(row + r * strip.x_row)
                        for t, k in pairs:
                            strip.add(accs[t], x, weights[r][k])
        strip.finish(accs, o)


def _ask(strip: Strip, row: Int) -> None:
    """Ask for lines further along each input row, if memory holds them.

    `row` is the address of the first column that this one reads.
    """
    simd, tile = strip.simd, strip.tile
    with simd.when(strip.ahead.compare("!=", 0)):
        at = row + AHEAD
        for j in tile.reads(tile.kw):
            at = simd.opaque(at + strip.x_pix if j else at)
            for r in range(max(0, tile.kh - tile.sh), tile.kh):
                simd.prefetch(at + r * strip.x_row)
