"""Which tiles: form, width and registers by the kernel, never by the size of an image.

A kernel's tiles serve all images, so that a new size compiles nothing; which of them a
strip takes is for the strip's planner (plan_forward.py).
"""

from __future__ import annotations

import math

from numbadw import jit
from numbadw.cpu.caches import LINE, caches
from numbadw.cpu.label import ABSENT, MASKED, Tile, usual_tail
from numbadw.cpu.plan import BLOCK_TAPS, CHAIN_TAPS, ROWS_COLUMNS
from numbadw.cpu.request import LARGE_SHARE, Request
from numbadw.cpu.tile import BLOCK_ROWS

# The tile of two output rows, which loads all weights once, takes more taps, too, but
# no wider rows: 57x61x1000 on one Zen 5 core 4x4 1.4 times as fast as row by row, 15x1
# 1.6 times, 14x14x512 5x2 1.8 (AVX2 code there 5x2 1.2, 15x1 1.35, 4x4 1.0); but
# 14x14x480 5x5 0.8 times, and 2x8 and 1x11 with a stride 0.6.
MORE_TAPS = 20
MORE_COLUMNS = 5
# Shares of its sets that the lines of a tile may fill (see `crowded`) before both
# vectors of a line go together, and before strided tiles are narrow ones.
CROWD = 0.75
# Rows of a swath.
SWATH_ROWS = 4
NARROW_CROWD = 1.5
# And above which input rows are not read once, for three output rows (`rolls`): pixels
# 512 bytes apart, whose lines come more slowly from L2.  On one Zen 5 core 56x56x128
# 3x3 44.6 -> 62 us, but 56x56x144 52.5 -> 42.
ROLL_CROWD = 0.4
ROLL_ROWS = 3


def choose_tiles(r: Request, wide: bool = False) -> tuple[Tile, ...]:
    """Return four tiles, not all different: two widths, each without and with guards.

    `wide` asks for those that take any number of kernel columns.
    """
    g, many = r.g, jit.target().registers >= 32
    tail = usual_tail(jit.target().vector_bytes)
    sh, sw, kh, kw = r.rows.stride, r.columns.stride, g.kh, g.kw
    multiplier = g.m if g.m <= r.lanes // 2 else 0
    most = MORE_TAPS if kw <= MORE_COLUMNS else BLOCK_TAPS
    if kh * kw <= most and not wide:
        form, widths = "block", (7, 4 if sw == 1 else 2) if many else (4, 2)
    elif wide or kw > ROWS_COLUMNS or kh * kw > CHAIN_TAPS:
        form, widths = "wide", (14, 7) if many else (7, 4)
        sh = kh = kw = 0
    else:
        # Of inputs that fill a vector each and belong to some outputs LLVM would load
        # more at once than registers hold: 224x672x1 3x9 to 32 channels, strides
        # (2, 6), on one Zen 5 core 143 -> 118 us.
        early = multiplier == 0 and 2 < sw < kw
        form, widths = "rows", (14, 7) if many and not early else (7, 4)
        sh = kh = 0
    # Guards cost less than to compile another tile; with AVX2 they take 5 to 20 %.
    plain = form == "block" and sw == 1 and many
    return tuple(
        Tile(
            form,
            r.dtype,
            r.lanes,
            kh,
            kw,
            sh,
            sw,
            width,
            multiplier,
            guarded or plain,
            tail,
            r.activation,
            fold(r),
        )
        for width in widths
        for guarded in (False, True)
    )


def line_tiles(r: Request, tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
    """Return tiles that take both vectors of a line together, where lines hold two.

    The line is read in one go, where otherwise its second half comes only after the
    strip's other lines, which may have thrown it out (see `crowded`).
    """
    some = tiles[0].form in ("block", "rows") and r.g.m == r.fold == 1
    if not some or not halves_lines(r):
        return ()
    return tuple(tile._replace(width=4, vectors=2) for tile in tiles[:2])


def stream_tiles(r: Request, tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
    """Return tiles without masks, which hardware prefetchers follow (label.py).

    Strips if the stride is 1, then those that read each row once if there are any.
    With stride 2, swaths along the rows (swath.py), turned: what they call a row is a
    column of the image.
    """
    tile = tiles[0]._replace(tail=ABSENT)
    some = tile.form == "block" and r.g.m == r.fold == 1
    if not some or tiles[0].tail != MASKED:
        return ()
    if tile.sh == tile.sw == 1:
        strips = tuple(strip._replace(tail=ABSENT) for strip in tiles)
        rolling = tuple(strip._replace(form="roll") for strip in strips)
        return strips + rolling if rolls(tile) else strips
    if tile.sh != 2 or tile.kh * tile.kw > BLOCK_TAPS or 1 in (tile.kh, tile.kw):
        return ()
    swath = tile._replace(
        form="swath",
        kh=tile.kw,
        kw=tile.kh,
        sh=tile.sw,
        sw=tile.sh,
        width=SWATH_ROWS,
        guarded=False,
    )
    return swath, swath._replace(guarded=True)


def rolls(tile: Tile) -> bool:
    """Tell whether the registers hold the sums of all rows that an input row feeds."""
    registers = tile.kh * (tile.width + tile.kw)
    return tile.kh == ROLL_ROWS and registers < jit.target().registers


def streams(r: Request, tile: Tile) -> bool:
    """Tell whether it is faster that hardware prefetchers follow.

    There must be room in L1 for what they fetch.  Swaths are for images that do not fit
    L2; from memory, but not from L3, strips that ask for rows ahead are faster.
    """
    if r.channels < r.lanes or crowded(r, tile, NARROW_CROWD):
        return False
    if tile.turned:
        shallow = min(phase.outputs for phase in r.rows.phases) < tile.width
        return not shallow and r.moved > caches().second * r.g.n
    return r.moved <= caches().last // LARGE_SHARE


def crowded(r: Request, tile: Tile, share: float) -> bool:
    """Tell whether one step of a tile fills more than a share of its sets of L1.

    Pixels a large power of two apart share few sets: 512 channels of float32 two.  A
    strip as wide as the image would still lose more by narrower tiles.
    """
    cache = caches()
    if tile.form != "block" and not tile.turned and r.g.ow <= tile.width:
        return False
    way = cache.sets * LINE
    step = max(LINE, math.gcd(r.x.w * r.columns.in_step, way))
    return step_lines(r, tile) > share * cache.ways * (way // step)


def step_lines(r: Request, tile: Tile) -> int:
    """Return the cache lines of one step of a tile: inputs, outputs and weights."""
    height, width = BLOCK_ROWS if tile.form == "block" else 1, tile.width
    rows = r.rows.stride * (height - 1) + r.g.kh
    columns = r.columns.stride * (width - 1) + r.g.kw
    if tile.turned:
        rows, columns = tile.sw * (width - 1) + tile.kw, tile.kh
    return rows * columns + height * width + r.g.kh * r.g.kw


def held_vectors(r: Request, tile: Tile) -> int:
    """Return of how many lane vectors L1 holds one step's lines, at least 1."""
    return max(1, caches().sets * caches().ways // step_lines(r, tile))


def narrows(r: Request, tile: Tile) -> bool:
    """Tell whether strided strips are better narrow: their sets of L1 are crowded.

    What the hardware fetches of the next lane vectors has no room in them, either.
    """
    strided = tile.form == "block" and r.columns.stride > 1
    return strided and crowded(r, tile, NARROW_CROWD)


def single_tiles(tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
    """Return tiles of one column, for what narrow strips leave over.

    A second strip over some of the same columns costs more: 14x14x512 3x3 with stride 2
    7.8 -> 6.6 us.
    """
    strided = tiles[0].form == "block" and tiles[0].sw > 1
    if not strided or tiles[0].tail != MASKED:
        return ()
    return tuple(tile._replace(width=1) for tile in tiles[2:])


def suit(
    r: Request, tiles: tuple[Tile, ...]
) -> tuple[tuple[Tile, ...], int, tuple[Tile, ...]]:
    """Return all tiles to compile, and those that strips take: the first's number, all.

    Where lines lie too close in the first cache they are the line tiles or the narrow.
    """
    singles, pairs = single_tiles(tiles), line_tiles(r, tiles)
    others = stream_tiles(r, tiles)
    used = tiles
    if pairs and crowded(r, tiles[0], CROWD):
        used = pairs
    elif others and streams(r, others[0]):
        sparse = not crowded(r, tiles[0], ROLL_CROWD)
        used = others[4:] if others[4:] and sparse else others[:4]
    elif narrows(r, tiles[0]):
        used = tiles[2:] + singles
    every = tiles + singles + pairs + others
    return every, every.index(used[0]), used


def halves_lines(r: Request) -> bool:
    """Tell whether a cache line holds two vectors, and registers are few: AVX2."""
    return r.lanes * r.itemsize * 2 == LINE and jit.target().registers < 32


def fold(r: Request) -> int:
    """Return how many lanes sum into one output; 0: whole vectors and more."""
    return r.fold if r.fold <= r.lanes // 2 else 0
