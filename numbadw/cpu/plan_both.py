"""The planner of both gradients in one pass (both.py): stride 1, small kernels."""

from __future__ import annotations

from numbadw import jit
from numbadw.cpu.caches import caches
from numbadw.cpu.label import Tile, usual_tail
from numbadw.cpu.plan import Plan, Table, assemble
from numbadw.cpu.plan_forward import LARGE_ROWS, even, lane_table, whole_records
from numbadw.cpu.plan_kernel_grad import ROWS_HEIGHT, Sizes, cut, part_bytes
from numbadw.cpu.plan_tiles import CROWD, crowded
from numbadw.cpu.request import Request
from numbadw.geometry import Geometry

FEED = "both_grad"
# Columns of a strip.  As many inputs and their gradients, the taps' sums, the weights
# of a kernel row, a gradient and the bias' sum are to be in registers.
WIDTH = 7
REGISTERS = 32 - 2 * WIDTH - 2
# Images of more rows are cut into blocks of few where memory holds the arrays: batch 16
# of 56x56x128 there 1.10 ms in blocks of 4 rows, 1.74 of 8.
FEW_ROWS = 14
# Lane vectors that go together, so that L1 holds their sums: batch 16 of 7x7x1024 on
# two Zen 5 cores 199 -> 138 us, 14x14x480 212 -> 171.
TOGETHER = 16
# How many times L2 the gradients must be, unless lines meet in few sets of L1: smaller
# arrays wait for the addition of their sums to memory (two Zen 5 cores, batch 1 of
# 7x7x960 3x3 11.8 -> 13.1 us, 14x14x480 16.7 -> 17.2, but 56x56x144 66.6 -> 61).
CACHES = 2


def same_pixel(before: int, dilation: int, taps: int) -> int:
    """Return the tap, from the last, that reads the gradient at an input's own place.

    -1 where none does.
    """
    tap, rest = divmod(before, dilation)
    return taps - 1 - tap if rest == 0 and tap < taps else -1


def possible(r: Request) -> bool:
    """Tell whether one pass is for such kernels; `r` is the gradient at the inputs."""
    g, steps = r.g, (r.rows.stride, r.columns.stride)
    few = g.kh * g.kw + g.kw <= REGISTERS and 1 not in (g.kh, g.kw)
    plain = steps == (1, 1) and not r.rows.transposed and r.fold == 1
    many = r.channels > r.lanes // 2
    return few and plain and many and jit.target().registers >= 32


def pays(r: Request, g: Geometry) -> bool:
    """Tell whether it gives all of a possible problem, and faster."""
    places = same_pixel(g.pt, g.dh, g.kh), same_pixel(g.pl, g.dw, g.kw)
    if min(places) < 0 or g.oh > g.h or g.ow > g.w:
        return False
    large = r.moved > CACHES * caches().second
    return large or crowded(r, choose_tiles(r)[0], CROWD)


def choose_tiles(r: Request) -> tuple[Tile, ...]:
    """Return the three tiles: whole strips without and with guards, single columns."""
    tail = usual_tail(jit.target().vector_bytes)
    shape = r.dtype, r.lanes, r.g.kh, r.g.kw, 1, 1
    return tuple(
        Tile("both", *shape, width, 1, guarded, tail, "linear")
        for width, guarded in ((WIDTH, False), (WIDTH, True), (1, True))
    )


def strip_table(r: Request, own: int) -> Table:
    """Return the strips of every phase; no two share an input.

    Of a whole one all columns but the outermost read gradients that exist, and so do
    the inputs at their own places but the last.  `own` is the column of the window at
    which an input reads the gradient at its own place.
    """
    axis, kw = r.columns, r.g.kw
    table: Table = []
    for phase in axis.phases:
        first = 0
        while first < phase.outputs:
            left = phase.outputs - first
            low, high = max(phase.low - first, 0), phase.high - first
            whole = left >= WIDTH and low < kw and high >= WIDTH
            columns = WIDTH if whole else min(left, WIDTH - 1)
            span = columns - 1 + kw
            low, high = min(low, span), min(high, span)
            kind = int(low > 0 or high < span) if whole else 2
            x = (phase.start + first * axis.in_step) * r.x.w
            o = (phase.out + first * axis.out_step) * r.o.w
            taps = r.tap_offset(phase), phase.taps
            table.append((kind, x, o, *taps, low, max(low, high), own, columns))
            first += columns
    return table


def make_plan(r: Request, g: Geometry) -> tuple[Plan, Sizes]:
    """Plan both gradients of a convolution of geometry `g`; see `pays`."""
    tiles = choose_tiles(r)
    tall = not r.far or r.g.oh <= FEW_ROWS
    blocks = -(-r.g.oh // (ROWS_HEIGHT if tall else LARGE_ROWS))
    own = same_pixel(g.pt, g.dh, g.kh), same_pixel(g.pl, g.dw, g.kw)
    rows = [(*row[:8], own[0], row[9]) for row in r.row_table(blocks)]
    lanes, strips = lane_table(r, tiles[0]), strip_table(r, own[1])
    units = r.g.n * len(rows) * len(strips)
    group = even(len(lanes), TOGETHER)
    groups = -(-len(lanes) // group)
    sizes = cut(r, units, groups)
    fields = r.fields | {
        "ahead": LARGE_ROWS if r.far and r.g.h > 1 else 0,
        "rows": len(rows),
        "strips": len(strips),
        "lanes": len(lanes),
        "groups": groups,
        "group": group,
        "whole": whole_records(lanes, tiles[0]),
        "splits": sizes.parts,
        "units": units,
        "part": part_bytes(r),
        "stream": r.channels % r.lanes == 0 and r.streams(r.o.n, r.o.h, r.o.w),
        "x_row": r.fields["x_h"],
        "x_pix": r.x.w * r.columns.in_step,
        "o_row": r.fields["o_h"],
        "o_pix": r.o.w * r.columns.out_step,
    }
    tables = {"sizes": r.sizes, "rows": rows, "strips": strips, "lanes": lanes}
    return assemble(FEED, tiles, sizes.parts * groups, fields, tables), sizes
