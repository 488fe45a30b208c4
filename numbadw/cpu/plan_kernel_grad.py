"""The planner of the kernel gradient: which taps together, which strips and parts."""

from __future__ import annotations

from typing import NamedTuple

from numbadw import jit
from numbadw.cpu import flat_taps
from numbadw.cpu import plan_flat as flat
from numbadw.cpu.caches import LINE, caches
from numbadw.cpu.flat import ROWS_TOGETHER
from numbadw.cpu.label import ABSENT, MASKED, Tile, usual_tail
from numbadw.cpu.plan import BLOCK_TAPS, Plan, Table, assemble
from numbadw.cpu.plan_forward import (
    GROUP,
    LARGE_ROWS,
    even,
    lane_table,
    whole_records,
)
from numbadw.cpu.plan_tiles import CROWD, crowded, held_vectors
from numbadw.cpu.request import ITEMS, Request
from numbadw.cpu.simd import BYTES
from numbadw.cpu.taps import SUMS

# Columns of a strip (taps.py).
WIDTH = {32: 7, 16: 4}
# Kernel columns of a tile; wider kernels are crossed in equal blocks of fewer.
MOST_COLUMNS = 8
# Rows of a block: 32 rows of 7 columns are the longest chain of one sum, 224 terms.
ROWS_HEIGHT = 32
# Beyond such a share of the last cache blocks have few rows and all lanes: batch 16 of
# 14x14x576 3x3 on one Zen 5 core 317 -> 272 us.
SPREAD_SHARE = 4
# Output rows from which on a swath of fewer than seven is no loss, and columns from
# which on its guarded sides are none; fewest lane vectors of a pixel; how many times L2
# the arrays must be.  Batch 16 on one Zen 5 core: 14x14x512 3x3 stride 2 252 -> 167 us,
# 28x28x192 174 -> 133, 56x56x128 1.28 -> 0.90 ms; but 14x14x576 stride 1 320 -> 339 us,
# 7x7x960 111 -> 144, 112x112x32 1.06 -> 1.43 ms.
MANY_ROWS = 28
SWATH_VECTORS = 4
SWATH_CACHES = 4
# Vectors of a row that a flat tile adds up in one chain, at most.
RUN = 256
# Bytes of a part's sums may be so large a share of the arrays read.
PART_SHARE = 16


class Sizes(NamedTuple):
    """How many parts the sums have, each of so many strips at most."""

    parts: int
    strips: int


def choose_tiles(r: Request) -> tuple[Tile, ...]:
    """Return the three tiles: whole strips without and with guards, single columns."""
    g, class_ = r.g, jit.target().registers
    kw = -(-g.kw // -(-g.kw // MOST_COLUMNS))
    most = max(1, SUMS[class_] // kw)
    kh = -(-g.kh // -(-g.kh // most))
    multiplier = g.m if g.m <= r.lanes // 2 else 0
    tail = usual_tail(jit.target().vector_bytes)
    shape = r.dtype, r.lanes, kh, kw, 0, r.columns.stride
    rest = tail, "linear"
    width = WIDTH[class_]
    return tuple(
        Tile("taps", *shape, columns, multiplier, guarded, *rest)
        for columns, guarded in ((width, False), (width, True), (1, True))
    )


def swath_tiles(r: Request, tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
    """Return the three tiles of swaths (taps_swath.py), turned, if there are any."""
    g, (tile, *_) = r.g, tiles
    some = tile.tail == MASKED and tile.multiplier == 1 and r.rows.stride <= 2
    if not some or g.kh * g.kw > BLOCK_TAPS or 1 in (g.kh, g.kw):
        return ()
    inner = tile._replace(
        form="tswath",
        kh=g.kw,
        kw=g.kh,
        sh=r.columns.stride,
        sw=r.rows.stride,
        guarded=False,
        tail=ABSENT,
    )
    guarded = inner._replace(guarded=True)
    return inner, guarded, guarded._replace(form="tedge")


def spread(r: Request) -> bool:
    """Tell whether rows of all lane vectors, few at a time, beat a few of many rows."""
    return r.moved > caches().last // SPREAD_SHARE


def in_swaths(r: Request, tiles: tuple[Tile, ...]) -> bool:
    """Tell whether swaths are faster: of whole vectors, data that L2 does not hold.

    Strips do not lose that much where rows are short, but where their lines meet in few
    sets of L1.
    """
    tile, rows = tiles[0], [phase.outputs for phase in r.rows.phases]
    fits = all(n >= MANY_ROWS or (n and n % tile.width == 0) for n in rows)
    whole = r.channels % r.lanes == 0 and r.channels >= SWATH_VECTORS * r.lanes
    far = r.moved > SWATH_CACHES * caches().second
    short = r.rows.stride == 1 and r.g.ow < MANY_ROWS
    return fits and whole and far and (not short or crowded(r, tile, CROWD))


def strip_table(r: Request, tiles: tuple[Tile, ...], kind: int = 0) -> Table:
    """Return the strips of every phase: whole ones (kinds 0, 1), then single columns.

    No two strips share an output, as its term would count twice.  `kind` is the number
    of the first of these tiles.
    """
    axis, width = r.columns, tiles[0].width
    table: Table = []
    for phase in axis.phases:
        kw = -(-phase.taps // tiles[0].kw) * tiles[0].kw
        for first in range(0, phase.outputs, width):
            columns = min(width, phase.outputs - first)
            span = axis.stride * (columns - 1) + kw
            low = min(max(phase.low - first * axis.stride, 0), span)
            high = max(low, min(phase.high - first * axis.stride, span))
            which = 2 if columns < width else int(low > 0 or high < span)
            start = phase.start + first * axis.stride * axis.in_step
            out = phase.out + first * axis.out_step
            places = start * r.x.w, out * r.o.w, 0, phase.taps
            table.append((kind + which, *places, low, high, 0, columns))
    return table


def make_plan(r: Request) -> tuple[Plan, Sizes]:
    """Plan the gradient of the kernel from inputs `r.x` and gradients `r.o`."""
    few = r.channels <= r.lanes // 2
    return plan_flat(r) if few and r.dense(r.o, r.channels) else plan_direct(r)


def plan_direct(r: Request) -> tuple[Plan, Sizes]:
    """Plan for lanes along the channels."""
    tiles = choose_tiles(r)
    swaths = swath_tiles(r, tiles)
    used, every = tiles, tiles + swaths
    if swaths and in_swaths(r, tiles):
        r, used = r.turned(), swaths
        bands = -(-r.g.oh // swaths[0].width)
        rows = r.row_table(-(-ITEMS // (r.g.n * bands)))
    else:
        rows = r.row_table(-(-r.g.oh // (LARGE_ROWS if spread(r) else ROWS_HEIGHT)))
    g, axis = r.g, r.columns
    lanes = lane_table(r, used[0])
    strips = strip_table(r, used, every.index(used[0]))
    units = g.n * len(rows) * len(strips)
    whole = spread(r) or used == swaths
    group = len(lanes) if whole else min(GROUP, len(lanes))
    if used == swaths and not r.far:
        group = even(len(lanes), held_vectors(r, used[0]))
    while group > 1 and -(-len(lanes) // group) < ITEMS and not whole:
        group //= 2
    groups = -(-len(lanes) // group)
    sizes = cut(r, units, groups)
    fields = r.fields | {
        "ahead": LARGE_ROWS if r.far and g.h > 1 else 0,
        "scratch_o": part_bytes(r) if used == swaths else 0,
        "rows": len(rows),
        "strips": len(strips),
        "lanes": len(lanes),
        "groups": groups,
        "group": group,
        "whole": whole_records(lanes, used[0]),
        "splits": sizes.parts,
        "units": units,
        "part": part_bytes(r),
        "x_row": r.fields["x_h"],
        "x_pix": r.x.w * axis.in_step,
        "o_row": r.fields["o_h"],
        "o_pix": r.o.w * axis.out_step,
    }
    tables = {"sizes": r.sizes, "rows": rows, "strips": strips, "lanes": lanes}
    plan = assemble("kernel_grad", every, sizes.parts * groups, fields, tables)
    return plan, sizes


def cut(r: Request, units: int, groups: int) -> Sizes:
    """Cut the units into parts, so that with the groups there is work for many."""
    taps = r.g.kh * r.g.kw * r.channels * r.itemsize
    room = max(1, r.moved // PART_SHARE // taps)
    parts = max(1, min(-(-ITEMS // groups), units, room))
    return Sizes(parts, -(-units // parts))


def part_bytes(r: Request) -> int:
    """Return the bytes from the sums of one part to those of the next."""
    sums = (r.g.kh * r.g.kw + 1) * r.channels * r.itemsize
    return -(-sums // LINE) * LINE


def flat_runs(r: Request, s: flat.Shape, taps: Table) -> Table:
    """Return the runs of vectors of a row, each without or with guards."""
    phase = r.columns.phases[0]
    kernel = r.tap_offset(phase), r.g.kw
    table: Table = []
    for v in range(-(-s.total // s.used)):
        left, first = s.total - v * s.used, v * s.step
        inside = left >= r.lanes
        for _, start, elements in taps:
            low = start + first
            inside = inside and low >= 0 and low + r.lanes // s.m <= elements
        kind = int(not inside)
        if table and table[-1][0] == kind and table[-1][7] < RUN:
            table[-1] = (*table[-1][:7], table[-1][7] + 1, table[-1][8])
        else:
            offset = v * s.used * r.itemsize
            table.append((kind, first, offset, *kernel, 0, 0, 1, left))
    return table


def plan_flat(r: Request) -> tuple[Plan, Sizes]:
    """Plan for lanes along the row: few channels."""
    g = r.g
    s = flat.Shape(r, planes=1)
    together = ROWS_TOGETHER[jit.target().registers]
    kh = -(-g.kh // -(-g.kh // (flat_taps.SUMS * together)))
    shape = r.dtype, r.lanes, kh, 0, r.rows.stride, 0, together, s.m
    tiles = tuple(
        Tile("ftaps", *shape, guarded, MASKED, "linear") for guarded in (False, True)
    )
    taps = flat.tap_table(r, s)
    runs = flat_runs(r, s, taps)
    picks = flat.pick_table(r, s.c) if s.packs else []
    row_bytes = (g.w * s.c * r.rows.stride + s.total) * r.itemsize
    blocks = max(-(-(g.oh * row_bytes) // flat.FLAT_BYTES), -(-ITEMS // max(g.n, 1)))
    rows = r.row_table(blocks, together)
    units = g.n * len(rows)
    sizes = cut(r, units, 1)
    packed_row = g.sw * s.segment * r.itemsize
    tallest = max(row[7] - row[6] for row in rows)
    need = min(g.h, (tallest - 1) * r.rows.stride + g.kh)
    fields = r.fields | {
        "rows": len(rows),
        "strips": len(runs),
        "splits": sizes.parts,
        "units": units,
        "part": part_bytes(r),
        "c": s.c,
        "period": s.c * s.m,
        "used": s.used,
        "sw": g.sw,
        "segment": s.segment * r.itemsize,
        "phases": flat.phase_bits(g),
        "picks": len(picks),
        "x_row": packed_row if s.packs else r.fields["x_h"],
        "o_row": r.fields["o_h"],
        "x_pix": s.step,
        "o_pix": s.used * r.itemsize,
        "scratch_x": need * packed_row if s.packs else 0,
    }
    tables = {
        "sizes": r.sizes,
        "rows": rows,
        "strips": runs,
        "taps": taps,
        "picks": picks,
    }
    plan = assemble("kernel_grad_flat", tiles, sizes.parts, fields, tables)
    return plan, sizes._replace(strips=sizes.strips * len(runs))


def plan_sum(
    parts: int, part: int, length: int, tile: Tile, clear: bool = False
) -> Plan:
    """Plan the sum of parts, `part` bytes apart, over `length` bytes of each.

    With `clear` all parts but the first become 0.
    """
    fields = {"splits": parts, "part": part, "length": length, "clear": int(clear)}
    items = -(-length // (tile.lanes * BYTES[tile.dtype]))
    return assemble("add_parts", (tile,), items, fields, {})
