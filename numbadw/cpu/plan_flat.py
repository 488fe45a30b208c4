"""The planner of the flat feed: lanes along the row, few channels or one plane.

A row of W pixels and C channels is W * C elements; a vector takes whole pixels of it,
or (phased) any elements where a strip of vectors takes whole pixels.
"""

from __future__ import annotations

import math

from numbadw import jit
from numbadw.cpu.flat import ROWS_TOGETHER
from numbadw.cpu.label import MASKED, Tile
from numbadw.cpu.plan import BLOCK_TAPS, CHAIN_TAPS, Plan, Table, assemble, cover
from numbadw.cpu.request import ITEMS, Request
from numbadw.cpu.tile import CHAIN
from numbadw.geometry import Geometry

# Vectors of a strip: 8 rows of 3 fill 24 of 32 registers (flat.py).
FLAT_WIDTH = 3
# Taller kernels take flat tiles that know no height.
FLAT_ROWS = 11
# Kernel columns that a tile of few registers knows: it has but 8 sums to hide the taps'
# table and the loop over it behind.  With 24 sums LLVM has registers for the weights of
# few taps; of more it spills the sums.
KNOWN_COLUMNS = 11
# Bytes of a block of rows that is crossed strip by strip: what L1 holds, so that lines
# shared by neighbouring strips are still there.
FLAT_BYTES = 32 * 1024


def strip_phases(r: Request) -> int:
    """Return how many vectors whole pixels fill where that is a strip, else 1.

    RGB through 4 or 8 filters is 12 or 24 channels: three quarters of the lanes of one
    or two vectors a pixel, all lanes of three vectors every four or two pixels.
    """
    many = jit.target().registers >= 32
    if not many or r.g.kh > FLAT_ROWS or r.g.m < 4 or r.lanes % r.g.m:
        return 1
    count = r.channels // math.gcd(r.channels, r.lanes)
    return count if count == FLAT_WIDTH and r.channels < 2 * r.lanes else 1


class Shape:
    """How the vectors lie in the row: channels, multiplier, lanes in use, steps."""

    def __init__(self, r: Request, planes: int) -> None:
        g = r.g
        self.c, self.m = (1, 1) if planes > 1 else (g.c, g.m)
        self.vectors = strip_phases(r) if planes == 1 else 1
        pixels = max(1, (r.lanes // self.m) // self.c)
        self.used = pixels * self.c * self.m if self.vectors == 1 else r.lanes
        self.step = self.used // self.m  # elements from one vector to the next
        self.total = g.ow * self.c * self.m  # output lanes of a row
        self.packs = g.sw > 1 or not (planes > 1 or r.dense(r.x, self.c))
        self.stages = not (planes > 1 or r.dense(r.o, self.c * self.m))
        # Elements of one column phase of a packed row; whole vectors are written.
        self.segment = -(-g.w // g.sw) * self.c + r.lanes
        long = g.kw > CHAIN or g.kh * g.kw > CHAIN_TAPS
        self.tall = g.kh > FLAT_ROWS or long
        # Output rows one at a time: few input rows would serve all of those together.
        apart = r.rows.stride * (ROWS_TOGETHER[16] - 1)
        self.alone = long or (self.tall and apart > FLAT_ROWS)


def choose_tiles(r: Request, s: Shape) -> tuple[Tile, ...]:
    """Return the four tiles (two widths, each without and with guards)."""
    if s.vectors > 1:
        widths = (FLAT_WIDTH, FLAT_WIDTH)
    elif jit.target().registers < 32:
        widths = (2, 1)
    else:
        widths = (8, 2) if s.alone else (FLAT_WIDTH, 1)
    form = "flat" if s.vectors == 1 else "phased"
    kh, sh = 0 if s.tall else r.g.kh, 0 if s.alone else r.rows.stride
    few = jit.target().registers < 32
    known = r.g.kw <= KNOWN_COLUMNS if few else r.g.kh * r.g.kw <= BLOCK_TAPS
    kw = r.g.kw if known and not s.tall else 0
    size = r.dtype, r.lanes, kh, kw, sh, 0
    return tuple(
        Tile(form, *size, width, s.m, guarded, MASKED, r.activation)
        for width in widths
        for guarded in (False, True)
    )


def tap_table(r: Request, s: Shape) -> Table:
    """Return offset, first element and elements of the row that each column reads."""
    g = r.g
    table: Table = []
    for kx in range(g.kw):
        q, phase = divmod(kx * g.dw - g.pl, g.sw)
        count = len(range(phase, g.w, g.sw)) * s.c
        offset = (phase * s.segment + q * s.c) * r.itemsize
        table.append((offset, q * s.c, count))
    return table


def strip_table(r: Request, s: Shape, widths: tuple[int, int], taps: Table) -> Table:
    """Return the runs of strips of a row: kind, first element, offset, lanes left."""
    table: Table = []
    count = -(-s.total // s.used)
    phase = r.columns.phases[0]
    taps_of_row = r.tap_offset(phase), r.g.kw
    whole = [(first, 0) for first in range(0, count, FLAT_WIDTH)]
    for first, index in cover(count, widths) if s.vectors == 1 else whole:
        left = s.total - first * s.used
        low = min(start for _, start, _ in taps) + first * s.step
        last = (first + widths[index] - 1) * s.step
        # Whole vectors are loaded and stored: the lanes behind `used` must exist too.
        inside = low >= 0 and left >= (widths[index] - 1) * s.used + r.lanes
        for _, start, elements in taps:
            inside = inside and start + last + r.lanes // s.m <= elements
        kind, offset = 2 * index + (not inside), first * s.used * r.itemsize
        start = first * s.step
        strip = (kind, start, offset, *taps_of_row, 0, 0, 1, left)
        if table and goes_on(table[-1], strip, widths[index] * s.step):
            table[-1] = (*table[-1][:7], table[-1][7] + 1, table[-1][8])
        else:
            table.append(strip)
    return table


def goes_on(run: tuple[int, ...], strip: tuple[int, ...], step: int) -> bool:
    """Tell whether a strip follows the last of a run of its kind, `step` elements on.

    Rows are crossed from end to end: down a strip the lines of rows a power of two
    apart would meet in one set of the first cache.
    """
    return run[0] == strip[0] and strip[1] == run[1] + run[7] * step


def pick_table(r: Request, channels: int) -> Table:
    """Return where each vector of a column phase finds its elements in a dense row.

    The vectors repeat after a whole number of pixels.  Empty where rows are not dense,
    or the CPU cannot gather lanes in one step.
    """
    if not r.dense(r.x, channels) or not jit.target().permutes:
        return []
    lanes, each = r.lanes, r.itemsize // 4
    table: Table = []
    for first in range(0, math.lcm(channels, lanes), lanes):
        pixels = (divmod(e, channels) for e in range(first, first + lanes))
        elements = [pixel * r.g.sw * channels + c for pixel, c in pixels]
        start = elements[0]
        parts = [(e - start) * each + part for e in elements for part in range(each)]
        sources = parts[-1] // len(parts) + 1
        parts += [0] * (16 - len(parts))
        order = [parts[i] | parts[i + 1] << 32 for i in range(0, 16, 2)]
        table.append((start * r.itemsize, sources, *order))
    return table


def phase_bits(g: Geometry) -> int:
    """Return the set of the column phases that any tap reads, as bits."""
    return sum({1 << (kx * g.dw - g.pl) % g.sw for kx in range(g.kw)})


def make_plan(r: Request, planes: int) -> Plan:
    """Plan all channels together (`planes` = 1), or one output plane at a time."""
    g, isz = r.g, r.itemsize
    s = Shape(r, planes)
    tiles = choose_tiles(r, s)
    taps = tap_table(r, s)
    strips = strip_table(r, s, (tiles[0].width, tiles[2].width), taps)
    picks = pick_table(r, s.c) if s.packs else []
    row_bytes = (g.w * s.c * r.rows.stride + s.total) * isz
    blocks = max(-(-(g.oh * row_bytes) // FLAT_BYTES), -(-ITEMS // (g.n * planes or 1)))
    together = 1 if s.alone else ROWS_TOGETHER[jit.target().registers]
    rows = r.row_table(max(len(r.rows.phases), blocks), together)
    tallest = max(row[7] - row[6] for row in rows)
    need = min(g.h, (tallest - 1) * r.rows.stride + g.kh)
    full = s.used == r.lanes and not s.stages
    packed_row = g.sw * s.segment * isz
    fields = r.fields | {
        "rows": len(rows),
        "strips": len(strips),
        "planes": planes,
        "c": s.c,
        "m": g.m if planes > 1 else 1,
        "period": s.c * s.m,
        "vectors": s.vectors,
        "used": s.used,
        "stream": full and r.streams(r.o.n, r.o.h, r.o.c if planes > 1 else 0),
        "sw": g.sw,
        "segment": s.segment * isz,
        "phases": phase_bits(g),
        "picks": len(picks),
        "x_row": packed_row if s.packs else r.fields["x_h"],
        "o_row": s.total * isz if s.stages else r.fields["o_h"],
        "x_pix": s.step,
        "o_pix": s.used * isz,
        "scratch_x": need * packed_row if s.packs else 0,
        "scratch_o": tallest * s.total * isz if s.stages else 0,
    }
    tables = {
        "sizes": r.sizes,
        "rows": rows,
        "strips": strips,
        "taps": taps,
        "picks": picks,
    }
    return assemble("flat", tiles, g.n * planes * len(rows), fields, tables)
