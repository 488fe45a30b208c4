"""The planner of the forward pass: geometry and strides in, a `Plan` out.

few channels, lanes along the row           -> flat feed
pixels are neighbours and rows are long     -> flat feed, one plane at a time
channels are neighbours                     -> direct feed
anything else                               -> packed feed
"""

from __future__ import annotations

import math
import struct

from numbadw import jit
from numbadw.cpu.caches import LINE, caches
from numbadw.cpu.flat import ROWS_TOGETHER
from numbadw.cpu.label import Tile
from numbadw.cpu.plan import (
    BLOCK_TAPS,
    CHAIN_TAPS,
    ROWS_COLUMNS,
    Plan,
    Steps,
    Table,
    assemble,
    cover,
    extent,
    row_blocks,
    split_axis,
)
from numbadw.cpu.tile import BLOCK_ROWS
from numbadw.geometry import Geometry

# Rows shorter than this many vectors leave too many lanes idle for the flat feed.
PLANE_VECTORS = 2
FLAT_WIDTH = 3
# Taller kernels take the flat tile that knows no height.
FLAT_ROWS = 12
# Bytes of packed rows that a block of rows may take: a quarter of a usual L2.
PACKED_BYTES = 256 * 1024
# Bytes of a block of rows that the flat feed crosses strip by strip: what L1 holds, so
# that lines shared by neighbouring strips are still there.
FLAT_BYTES = 32 * 1024
# Lane vectors of a work item: few enough for L1 to keep the rows they share.
GROUP = 8
# Output rows of a work item: more gains nothing, fewer cost restarts.  Arrays beyond
# the last cache are crossed a pair of rows at a time, and each item asks for its share
# of the inputs two rows of items ahead: a strip alone jumps too much for the hardware
# prefetchers.  Batch 32 of 112x112x32 3x3 on one Zen 5 core: 9.4 ms without, 2.5 with.
ROWS_HEIGHT = 8
# Beyond half the last cache storing past it wins (1x224x224x64 3x3 on one core: 784 ->
# 598 us), up to a quarter it loses (4x112x112x32: 223 -> 284 us).
LARGE_SHARE = 2
AHEAD_BLOCKS = 2
# Work items a plan aims at, so that threads share them evenly; a fixed number, so
# that plans never depend on the number of threads.
ITEMS = 16


class Request:
    """One forward problem: geometry, element size, and where the bytes lie."""

    def __init__(
        self,
        geometry: Geometry,
        itemsize: int,
        x_strides: tuple[int, ...],
        o_strides: tuple[int, ...],
        activation: str,
        parameter: float,
    ) -> None:
        g = geometry
        self.g = g
        self.itemsize = itemsize
        self.dtype = "f32" if itemsize == 4 else "f64"
        self.lanes = jit.target().vector_bytes // itemsize
        self.activation = activation
        self.x = Steps.of(x_strides, g.channels_first)
        self.o = Steps.of(o_strides, g.channels_first)
        self.rows = split_axis(g.h, g.oh, g.sh, g.dh, g.pt)
        self.columns = split_axis(g.w, g.ow, g.sw, g.dw, g.pl)
        self.channels = g.c * g.m
        self.x_bytes = math.prod(g.input_shape) * itemsize
        self.moved = self.x_bytes + math.prod(g.output_shape) * itemsize
        self.large = self.moved > caches().last // LARGE_SHARE
        o_low, o_high = extent(g.output_shape, o_strides, itemsize)
        x_low, x_high = extent(g.input_shape, x_strides, itemsize)
        (bits,) = struct.unpack("q", struct.pack("d", parameter))
        self.fields = {
            "o_low": o_low,
            "o_high": o_high,
            "x_low": x_low,
            "x_high": x_high,
            "w_bytes": g.kh * g.kw * self.channels * itemsize,
            "b_bytes": self.channels * itemsize,
            "x_n": self.x.n,
            "x_h": self.x.h * self.rows.in_step,
            "x_w": self.x.w,
            "x_c": self.x.c,
            "o_n": self.o.n,
            "o_h": self.o.h * self.rows.out_step,
            "o_w": self.o.w,
            "o_c": self.o.c,
            "w_tap": self.channels * itemsize,
            "kh": g.kh,
            "kw": g.kw,
            "sh": self.rows.stride,
            "w": g.w,
            "ow": g.ow,
            "c": g.c,
            "parameter": bits,
        }

    def dense(self, steps: Steps, channels: int) -> bool:
        """Tell whether pixels and channels follow each other without a gap."""
        near = channels == 1 or steps.c == self.itemsize
        return near and steps.w == channels * self.itemsize

    def streams(self, *steps: int) -> bool:
        """Tell whether to store past the caches: too large for them, whole lines.

        `steps` are the bytes between vectors of the result, in every direction.
        """
        return self.large and all(step % LINE == 0 for step in steps)

    def row_table(self, blocks: int, multiple: int = 1) -> Table:
        """Return the row blocks of every phase, about `blocks` in all."""
        table: Table = []
        each = -(-blocks // len(self.rows.phases))
        for phase in self.rows.phases:
            for first, last in row_blocks(phase.outputs, each, multiple):
                table.append(
                    (
                        phase.start * self.x.h,
                        phase.out * self.o.h,
                        phase.low,
                        phase.high,
                        first,
                        last,
                    )
                )
        return table


def make_plan(request: Request) -> Plan:
    """Choose the feed and make the plan."""
    r = request
    g, lanes = r.g, r.lanes
    near_x = g.c == 1 or r.x.c == r.itemsize
    near_o = r.channels == 1 or r.o.c == r.itemsize
    near = near_x and near_o
    planar = r.x.w == r.itemsize and r.o.w == r.itemsize
    long = g.ow >= PLANE_VECTORS * lanes
    if planar and not near and long and r.channels < lanes:
        return plan_flat(r, planes=r.channels)
    if r.channels <= lanes // 2 or strip_phases(r) > 1:
        return plan_flat(r, planes=1)
    return plan_direct(r) if near else plan_packed(r)


def strip_phases(r: Request) -> int:
    """Return how many vectors whole pixels fill where that is a strip of the flat feed.

    RGB through 4 or 8 filters is 12 or 24 channels: three quarters of the lanes of one
    or two vectors a pixel, all lanes of three vectors every four or two pixels.
    """
    many = jit.target().registers >= 32
    if not many or r.g.kh > FLAT_ROWS or r.g.m < 4 or r.lanes % r.g.m:
        return 1
    count = r.channels // math.gcd(r.channels, r.lanes)
    return count if count == FLAT_WIDTH and r.channels < 2 * r.lanes else 1


def choose_tiles(r: Request) -> tuple[Tile, ...]:
    """Return the four tiles (two widths, each without and with guards)."""
    g, many = r.g, jit.target().registers >= 32
    masked = jit.target().vector_bytes == 64
    sh, sw, kh, kw = r.rows.stride, r.columns.stride, g.kh, g.kw
    multiplier = g.m if g.m <= r.lanes // 2 else 0
    if kh * kw <= BLOCK_TAPS:
        form, widths = "block", (7, 4) if many else (4, 2)
    elif kw > ROWS_COLUMNS or kh * kw > CHAIN_TAPS:
        form, widths = "wide", (14, 7) if many else (7, 4)
        sh = kh = kw = 0
    else:
        form, widths = "rows", (14, 7) if many else (7, 4)
        sh = kh = 0
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
            guarded,
            masked,
            r.activation,
        )
        for width in widths
        for guarded in (False, True)
    )


def lane_table(r: Request, o_step: int) -> Table:
    """Return input offset, output offset and count of every lane vector."""
    g, lanes = r.g, r.lanes
    table: Table = []
    if g.m <= lanes // 2:
        whole = (lanes // g.m) * g.m
        for first in range(0, r.channels, whole):
            count = min(whole, r.channels - first)
            table.append((first // g.m * r.x.c, first * r.itemsize, count))
    else:
        for c in range(g.c):
            for first in range(0, g.m, lanes):
                count = min(lanes, g.m - first)
                at = (c * g.m + first) * r.itemsize
                table.append((c * r.x.c, at, count))
    return table


def strip_table(r: Request, tiles: tuple[Tile, ...], x_w: int, o_w: int) -> Table:
    """Return the column strips of every phase; x_w and o_w are bytes per column."""
    axis, kw = r.columns, r.g.kw
    widths = (tiles[0].width, tiles[2].width)
    table: Table = []
    for phase in axis.phases:
        for first, index in cover(phase.outputs, widths):
            width = widths[index]
            columns = min(width, phase.outputs - first)
            span = axis.stride * (width - 1) + kw
            low = phase.low - first * axis.stride
            high = phase.high - first * axis.stride
            low = min(max(low, 0), span)
            high = max(low, min(high, span))
            guarded = low > 0 or high < span or columns < width
            start = phase.start + first * axis.stride * axis.in_step
            out = phase.out + first * axis.out_step
            table.append(
                (2 * index + guarded, start * x_w, out * o_w, low, high, columns)
            )
    return table


def plan_direct(r: Request) -> Plan:
    """Plan the feed that reads and writes the caller's arrays in place."""
    g, axis = r.g, r.columns
    tiles = choose_tiles(r)
    lanes = lane_table(r, r.itemsize)
    strips = strip_table(r, tiles, r.x.w, r.o.w)
    block = tiles[0].form == "block"
    streaming = r.large
    height = BLOCK_ROWS if streaming and block else ROWS_HEIGHT
    rows = r.row_table(-(-g.oh // height), BLOCK_ROWS)
    group = 1 if streaming else min(GROUP, len(lanes))
    outer = g.n * len(rows) * len(strips)
    while group > 1 and outer * (-(-len(lanes) // group)) < ITEMS:
        group //= 2
    groups = -(-len(lanes) // group)
    items = outer * groups
    full = all(lane[2] == r.lanes for lane in lanes)
    ahead = AHEAD_BLOCKS * len(strips) * groups if streaming else 0
    fields = r.fields | {
        "ahead": ahead,
        "ahead_bytes": r.x_bytes // items if ahead else 0,
        "rows": len(rows),
        "strips": len(strips),
        "lanes": len(lanes),
        "groups": groups,
        "group": group,
        "stream": full and r.streams(r.o.n, r.o.h, r.o.w),
        "x_row": r.fields["x_h"],
        "x_pix": r.x.w * axis.in_step,
        "o_row": r.fields["o_h"],
        "o_pix": r.o.w * axis.out_step,
    }
    tables = {"rows": rows, "strips": strips, "lanes": lanes}
    return assemble("direct", tiles, items, fields, tables)


def plan_packed(r: Request) -> Plan:
    """Plan the feed that copies blocks to dense scratch and back."""
    g, axis = r.g, r.columns
    tiles = choose_tiles(r)
    pitch = r.lanes * r.itemsize
    lanes = lane_table(r, r.itemsize)
    strips = strip_table(r, tiles, pitch, pitch)
    row_bytes = g.w * pitch * r.rows.stride + g.ow * pitch
    blocks = -(-(g.oh * row_bytes) // PACKED_BYTES)
    rows = r.row_table(max(len(r.rows.phases), min(blocks, g.oh)))
    tallest = max(row[5] - row[4] for row in rows)
    need = min(g.h, (tallest - 1) * r.rows.stride + g.kh)
    multiplier = tiles[0].multiplier
    fields = r.fields | {
        "rows": len(rows),
        "strips": len(strips),
        "lanes": len(lanes),
        "x_pix": pitch * axis.in_step,
        "o_pix": pitch * axis.out_step,
        "m": multiplier or r.lanes,
        "scratch_x": need * g.w * pitch,
        "scratch_o": tallest * g.ow * pitch,
    }
    tables = {"rows": rows, "strips": strips, "lanes": lanes}
    items = g.n * len(rows) * len(lanes)
    return assemble("packed", tiles, items, fields, tables)


def plan_flat(r: Request, planes: int) -> Plan:
    """Plan lanes along the row: all channels together, or one plane at a time."""
    g, isz = r.g, r.itemsize
    c, m = (1, 1) if planes > 1 else (g.c, g.m)
    vectors = strip_phases(r) if planes == 1 else 1
    pixels = max(1, (r.lanes // m) // c)
    used = pixels * c * m if vectors == 1 else r.lanes
    step = used // m  # elements of the row from one vector to the next
    tall = g.kh > FLAT_ROWS or g.kh * g.kw > CHAIN_TAPS
    many = jit.target().registers >= 32
    widths = ((8, 2) if tall else (FLAT_WIDTH, 1)) if many else (2, 1)
    widths = (FLAT_WIDTH, FLAT_WIDTH) if vectors > 1 else widths
    together = ROWS_TOGETHER[jit.target().registers]
    kh, sh = (0, 0) if tall else (g.kh, r.rows.stride)
    tiles = tuple(
        Tile(
            "flat" if vectors == 1 else "phased",
            r.dtype,
            r.lanes,
            kh,
            0,
            sh,
            0,
            width,
            m,
            guarded,
            True,
            r.activation,
        )
        for width in widths
        for guarded in (False, True)
    )
    packs = g.sw > 1 or not (planes > 1 or r.dense(r.x, c))
    stages = not (planes > 1 or r.dense(r.o, c * m))
    segment = -(-g.w // g.sw) * c + r.lanes  # whole vectors are written at its end
    taps: Table = []
    phases = 0
    for kx in range(g.kw):
        q, phase = divmod(kx * g.dw - g.pl, g.sw)
        phases |= 1 << phase
        count = len(range(phase, g.w, g.sw)) * c
        taps.append(((phase * segment + q * c) * isz, q * c, count))
    strips: Table = []
    total = g.ow * c * m
    count = -(-total // used)
    whole = [(first, 0) for first in range(0, count, FLAT_WIDTH)]
    for first, index in cover(count, widths) if vectors == 1 else whole:
        left = total - first * used
        low = min(t[1] for t in taps) + first * step
        last = (first + widths[index] - 1) * step
        # Whole vectors are loaded and stored: the lanes behind `used` must exist too.
        inside = low >= 0 and left >= (widths[index] - 1) * used + r.lanes
        for _, start, elements in taps:
            inside = inside and start + last + r.lanes // m <= elements
        kind = 2 * index + (not inside)
        strips.append((kind, first * step, first * used * isz, 0, 0, left))
    picks = pick_table(r, c) if packs and r.dense(r.x, c) else []
    row_bytes = (g.w * c * r.rows.stride + total) * isz
    blocks = -(-(g.oh * row_bytes) // FLAT_BYTES)
    blocks = max(blocks, -(-ITEMS // (g.n * planes or 1)))
    rows = r.row_table(max(len(r.rows.phases), blocks), 1 if tall else together)
    tallest = max(row[5] - row[4] for row in rows)
    need = min(g.h, (tallest - 1) * r.rows.stride + g.kh)
    fields = r.fields | {
        "rows": len(rows),
        "strips": len(strips),
        "planes": planes,
        "c": c,
        "m": g.m if planes > 1 else 1,
        "period": c * m,
        "vectors": vectors,
        "used": used,
        "stream": not stages
        and used == r.lanes
        and r.streams(r.o.n, r.o.h, r.o.c if planes > 1 else 0),
        "sw": g.sw,
        "segment": segment * isz,
        "phases": phases,
        "picks": len(picks) // g.sw,
        "x_row": g.sw * segment * isz if packs else r.fields["x_h"],
        "o_row": total * isz if stages else r.fields["o_h"],
        "x_pix": step,
        "o_pix": used * isz,
        "scratch_x": need * g.sw * segment * isz if packs else 0,
        "scratch_o": tallest * total * isz if stages else 0,
    }
    tables = {"rows": rows, "strips": strips, "taps": taps, "picks": picks}
    return assemble("flat", tiles, g.n * planes * len(rows), fields, tables)


def pick_table(r: Request, channels: int) -> Table:
    """Return which lanes of each vector of a dense row belong to each column phase.

    Entry `vector * stride + phase`; the vectors repeat after a whole number of strides.
    """
    stride, lanes = r.g.sw, r.lanes
    period = stride * channels // math.gcd(stride * channels, lanes)
    table: Table = []
    for vector in range(period):
        for phase in range(stride):
            picked = [
                (vector * lanes + lane) // channels % stride == phase
                for lane in range(lanes)
            ]
            mask = sum(1 << lane for lane, on in enumerate(picked) if on)
            table.append((mask, sum(picked)))
    return table
