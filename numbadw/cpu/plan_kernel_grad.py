"""The planner of the kernel gradient: which taps together, which strips and parts."""

from __future__ import annotations

from typing import NamedTuple

from numbadw import jit
from numbadw.cpu.caches import LINE
from numbadw.cpu.label import Tile
from numbadw.cpu.plan import Plan, Table, assemble
from numbadw.cpu.plan_forward import GROUP, lane_table
from numbadw.cpu.request import ITEMS, Request
from numbadw.cpu.simd import BYTES

# Taps of a tile and its width: 21 sums, 7 gradients, an input and the bias' sum fit 32
# registers; 9, 4 and two fit 16.
MOST_TAPS = {32: 21, 16: 9}
WIDTH = {32: 7, 16: 4}
# Kernel columns of a tile; wider kernels are crossed in equal blocks of fewer.
MOST_COLUMNS = 8
# Rows of a block: 32 rows of 7 columns are the longest chain of one sum, 224 terms.
ROWS_HEIGHT = 32
# Arrays too large for the caches are crossed a few rows at a time, and the tile asks
# for what lies so many rows ahead: it jumps too much for the hardware prefetchers.
# 16x112x112x32 3x3 on one Zen 5 core: 4.7 ms without, 1.4 with.
STREAMED_HEIGHT = 8
AHEAD_ROWS = 8
# Bytes of a part's sums may be so large a share of the arrays read.
PART_SHARE = 16
MOST_PARTS = 64


class Sizes(NamedTuple):
    """What a run needs beyond the plan: how many parts, and the room of each."""

    parts: int
    part: int  # bytes
    taps: int  # bytes of the kernel gradient


def registers() -> int:
    """Return the class of the register file that the tiles are made for."""
    return 32 if jit.target().registers >= 32 else 16


def choose_tiles(r: Request) -> tuple[Tile, ...]:
    """Return the three tiles: whole strips without and with guards, single columns."""
    g, class_ = r.g, registers()
    kw = -(-g.kw // -(-g.kw // MOST_COLUMNS))
    most = max(1, MOST_TAPS[class_] // kw)
    kh = -(-g.kh // -(-g.kh // most))
    multiplier = g.m if g.m <= r.lanes // 2 else 0
    masked = jit.target().vector_bytes == 64
    shape = r.dtype, r.lanes, kh, kw, 0, r.columns.stride
    rest = masked, "linear"
    width = WIDTH[class_]
    return tuple(
        Tile("taps", *shape, columns, multiplier, guarded, *rest)
        for columns, guarded in ((width, False), (width, True), (1, True))
    )


def strip_table(r: Request, tiles: tuple[Tile, ...]) -> Table:
    """Return the strips of every phase: whole ones (kinds 0, 1), then single columns.

    No two strips share an output, as its term would count twice.
    """
    axis, width = r.columns, tiles[0].width
    kw = -(-r.g.kw // tiles[0].kw) * tiles[0].kw
    table: Table = []
    for phase in axis.phases:
        for first in range(0, phase.outputs, width):
            columns = min(width, phase.outputs - first)
            span = axis.stride * (columns - 1) + kw
            low = min(max(phase.low - first * axis.stride, 0), span)
            high = max(low, min(phase.high - first * axis.stride, span))
            kind = 2 if columns < width else int(low > 0 or high < span)
            start = phase.start + first * axis.stride * axis.in_step
            out = phase.out + first * axis.out_step
            places = start * r.x.w, out * r.o.w, 0, phase.taps
            table.append((kind, *places, low, high, 0, columns))
    return table


def make_plan(r: Request) -> tuple[Plan, Sizes]:
    """Plan the gradient of the kernel from inputs `r.x` and gradients `r.o`."""
    g, axis = r.g, r.columns
    tiles = choose_tiles(r)
    lanes = lane_table(r)
    strips = strip_table(r, tiles)
    height = STREAMED_HEIGHT if r.far else ROWS_HEIGHT
    rows = r.row_table(-(-g.oh // height))
    units = g.n * len(rows) * len(strips)
    group = len(lanes) if r.far else min(GROUP, len(lanes))
    while group > 1 and -(-len(lanes) // group) < ITEMS and not r.far:
        group //= 2
    groups = -(-len(lanes) // group)
    taps = g.kh * g.kw * r.channels * r.itemsize
    room = max(1, r.moved // PART_SHARE // taps)
    splits = max(1, min(-(-ITEMS // groups), units, room, MOST_PARTS))
    part = -(-(taps + r.channels * r.itemsize) // LINE) * LINE
    fields = r.fields | {
        "ahead": AHEAD_ROWS if r.far else 0,
        "rows": len(rows),
        "strips": len(strips),
        "lanes": len(lanes),
        "groups": groups,
        "group": group,
        "splits": splits,
        "units": units,
        "part": part,
        "x_row": r.fields["x_h"],
        "x_pix": r.x.w * axis.in_step,
        "o_row": r.fields["o_h"],
        "o_pix": r.o.w * axis.out_step,
    }
    tables = {"sizes": r.sizes, "rows": rows, "strips": strips, "lanes": lanes}
    plan = assemble("kernel_grad", tiles, splits * groups, fields, tables)
    return plan, Sizes(splits, part, taps)


def plan_sum(parts: int, part: int, length: int, tile: Tile) -> Plan:
    """Plan the sum of parts, `part` bytes apart, over `length` bytes of each."""
    fields = {"splits": parts, "part": part, "length": length}
    items = -(-length // (tile.lanes * BYTES[tile.dtype]))
    return assemble("add_parts", (tile,), items, fields, {})
