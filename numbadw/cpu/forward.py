"""The loops of the forward pass: which strip next, from which memory.

`forward_direct`: the tile reads and writes the caller's arrays in place.

    for image, strip of columns, row block, group of lane vectors:      # work items
        tile(strip)            # walks the rows of the block and the group's lanes

Row blocks are short and groups small, so that the rows and lines that neighbouring
outputs share are still in L1; each form of tile (tile.py) says in which order it takes
rows and lane vectors, and why.  The order of the work items is the planner's
(`plan_forward.Walk`).

`forward_packed`: the same strips over a block copied to dense scratch, for inputs or
results whose channels are not neighbours.

    for image, row block, lane vector:                                  # work items
        pack the rows the block needs; for strip: tile; unpack the results

`forward_flat`: few channels, lanes along the row (flat.py); also one plane of a
channels-first image at a time.

    for image, plane, row block:                                        # work items
        for strip: flat tile
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numbadw import jit
from numbadw.cpu.caches import LINE
from numbadw.cpu.choice import join
from numbadw.cpu.flat import flat_strip
from numbadw.cpu.label import Tile
from numbadw.cpu.pack import copy_element, pack_block, unpack_block
from numbadw.cpu.pack_rows import pack_rows, unpack_rows
from numbadw.cpu.records import EIGHTHS, entry, get, index
from numbadw.cpu.simd import BYTES
from numbadw.cpu.tile import strip

PARAMETER = 8 * index("plan.parameter")


def make_direct(tiles: list[Tile]) -> Callable[..., None]:
    """Build the loops of the direct feed round four tiles (see `strip.kind`)."""
    labels = join(tiles)

    def forward_direct(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        groups, strips = get(plan, "plan.groups"), get(plan, "plan.strips")
        rows, group = get(plan, "plan.rows"), get(plan, "plan.group")
        lanes, whole = get(plan, "plan.lanes"), get(plan, "plan.whole")
        n_span, row_span = get(plan, "plan.n_span"), get(plan, "plan.row_span")
        strip_span = get(plan, "plan.strip_span")
        group_span, run = get(plan, "plan.group_span"), get(plan, "plan.run")
        item = first
        streamed = get(plan, "plan.stream") if (o & (LINE - 1)) == 0 else 0
        while item < last:
            n, number = item // n_span, item // group_span % groups
            row = item // row_span % rows
            block = entry(plan, "plan.rows_at", "rows", row)
            strip_at = get(block, "rows.strip") + item // strip_span % strips
            here = entry(plan, "plan.strips_at", "strip", strip_at)
            x_at = x + n * get(plan, "plan.x_n")
            x_at += get(block, "rows.x") + get(here, "strip.x")
            skip = n * get(plan, "plan.o_n") + get(block, "rows.o")
            skip += get(here, "strip.o")
            start = number * group
            count = min(run, groups - number, last - item)
            stop = min(start + count * group, lanes)
            item += count
            fields = (
                x_at,
                w + get(block, "rows.w") + get(here, "strip.w"),
                b,
                o + skip,
                get(plan, "plan.x_row"),
                get(plan, "plan.x_pix"),
                get(plan, "plan.w_row"),
                get(plan, "plan.w_col"),
                get(plan, "plan.o_row"),
                get(plan, "plan.o_pix"),
                g + skip,
                get(block, "rows.low"),
                get(block, "rows.high"),
                get(block, "rows.first"),
                get(block, "rows.last"),
                get(block, "rows.top"),
                get(here, "strip.low"),
                get(here, "strip.high"),
                get(here, "strip.begin"),
                get(here, "strip.columns"),
                entry(plan, "plan.lanes_at", "lane", start),
                entry(plan, "plan.lanes_at", "lane", min(max(start, whole), stop)),
                entry(plan, "plan.lanes_at", "lane", stop),
                get(block, "rows.kh"),
                get(here, "strip.kw"),
                get(plan, "plan.sh"),
                int((n * rows + row) % EIGHTHS < streamed),
                get(plan, "plan.ahead"),
                plan + PARAMETER,
            )
            strip(fields, get(here, "strip.kind"), labels)

    return forward_direct


def make_packed(tiles: list[Tile]) -> Callable[..., None]:
    """Build the loops of the packed feed round four tiles (see `strip.kind`)."""
    labels = join(tiles)
    dtype, width = tiles[0].dtype, tiles[0].lanes
    itemsize = BYTES[dtype]
    pitch = width * itemsize

    def forward_packed(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        rows, lanes = get(plan, "plan.rows"), get(plan, "plan.lanes")
        strips, multiplier = get(plan, "plan.strips"), get(plan, "plan.m")
        columns, o_columns = get(plan, "plan.w"), get(plan, "plan.ow")
        x_bytes = get(plan, "plan.scratch_x")
        scratch = np.empty(x_bytes + get(plan, "plan.scratch_o") + LINE, np.uint8)
        x_block = (scratch.ctypes.data + LINE - 1) & -LINE
        o_block = x_block + x_bytes
        for item in range(first, last):
            lane = entry(plan, "plan.lanes_at", "lane", item % lanes)
            after = entry(plan, "plan.lanes_at", "lane", item % lanes + 1)
            block = entry(plan, "plan.rows_at", "rows", (item // lanes) % rows)
            n = item // lanes // rows
            count = get(lane, "lane.count")
            x_skip, skip = get(lane, "lane.x"), get(lane, "lane.o")
            begin, end = get(block, "rows.first"), get(block, "rows.last")
            stride = get(plan, "plan.sh")
            low = max(get(block, "rows.low"), begin * stride)
            high = min(
                get(block, "rows.high"), (end - 1) * stride + get(block, "rows.kh")
            )
            x_at = x + n * get(plan, "plan.x_n") + get(block, "rows.x")
            x_at += x_skip + low * get(plan, "plan.x_h")
            pack_block(
                x_at,
                (get(plan, "plan.x_h"), get(plan, "plan.x_w"), get(plan, "plan.x_c")),
                x_block,
                pitch,
                (max(0, high - low), columns, (count + multiplier - 1) // multiplier),
                dtype,
                width,
                itemsize,
            )
            for s in range(strips):
                here = entry(plan, "plan.strips_at", "strip", s)
                fields = (
                    x_block - low * columns * pitch + get(here, "strip.x") - x_skip,
                    w + get(block, "rows.w") + get(here, "strip.w"),
                    b,
                    o_block - begin * o_columns * pitch + get(here, "strip.o") - skip,
                    columns * pitch,
                    get(plan, "plan.x_pix"),
                    get(plan, "plan.w_row"),
                    get(plan, "plan.w_col"),
                    o_columns * pitch,
                    get(plan, "plan.o_pix"),
                    0,
                    low,
                    max(low, high),
                    begin,
                    end,
                    begin,
                    get(here, "strip.low"),
                    get(here, "strip.high"),
                    0,
                    get(here, "strip.columns"),
                    lane,
                    after if count == width else lane,
                    after,
                    get(block, "rows.kh"),
                    get(here, "strip.kw"),
                    stride,
                    0,
                    0,
                    plan + PARAMETER,
                )
                strip(fields, get(here, "strip.kind"), labels)
            o_at = o + n * get(plan, "plan.o_n") + get(block, "rows.o")
            o_at += (skip // itemsize) * get(plan, "plan.o_c")
            unpack_block(
                o_block,
                pitch,
                o_at + begin * get(plan, "plan.o_h"),
                (get(plan, "plan.o_h"), get(plan, "plan.o_w"), get(plan, "plan.o_c")),
                (end - begin, o_columns, count),
                dtype,
                width,
                itemsize,
            )
        scratch[0] = 0

    return forward_packed


@jit.helper
def _prepare(w, b, plan, taps, plane, target, dtype, width, itemsize):  # type: ignore[no-untyped-def]
    """Repeat each tap's weights (and the bias) over the lanes; return the bias's place.

    Lane i takes output channel `plane + i % period`; unused lanes are never stored.
    """
    kh, kw = taps
    taps, period = kh * kw, get(plan, "plan.period")
    lanes = width * get(plan, "plan.vectors")
    for k in range(taps + 1):
        source = b
        if k < taps:
            source = w + k % kh * get(plan, "plan.w_row")
            source += k // kh * get(plan, "plan.w_col")
        if source:
            c = 0
            for lane in range(lanes):
                copy_element(
                    source + (plane + c) * itemsize,
                    target + (k * lanes + lane) * itemsize,
                    dtype,
                )
                c += 1
                if c == period:
                    c = 0
    return target + taps * lanes * itemsize if b else 0


def make_flat(tiles: list[Tile]) -> Callable[..., None]:
    """Build the loops of the flat feed round four tiles (see `strip.kind`)."""
    labels = join(tiles)
    dtype, width = tiles[0].dtype, tiles[0].lanes
    itemsize = BYTES[dtype]

    def forward_flat(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        rows, strips = get(plan, "plan.rows"), get(plan, "plan.strips")
        planes, multiplier = get(plan, "plan.planes"), get(plan, "plan.m")
        x_bytes, o_bytes = get(plan, "plan.scratch_x"), get(plan, "plan.scratch_o")
        kh = get(entry(plan, "plan.rows_at", "rows", 0), "rows.kh")
        strip_0 = entry(plan, "plan.strips_at", "strip", 0)
        kw = get(strip_0, "strip.kw")
        w_bytes = (kh * kw + 1) * get(plan, "plan.vectors") * width * itemsize
        scratch = np.empty(x_bytes + o_bytes + w_bytes + LINE, np.uint8)
        weights = (scratch.ctypes.data + LINE - 1) & -LINE
        x_block = weights + w_bytes
        o_block = x_block + x_bytes
        prepared = -1
        bias = 0
        for item in range(first, last):
            block = entry(plan, "plan.rows_at", "rows", item % rows)
            plane = (item // rows) % planes
            n = item // rows // planes
            if plane != prepared:
                start = w + get(block, "rows.w") + get(strip_0, "strip.w")
                taps = kh, kw
                bias = _prepare(
                    start, b, plan, taps, plane, weights, dtype, width, itemsize
                )
                prepared = plane
            x_at = x + n * get(plan, "plan.x_n") + get(block, "rows.x")
            x_at += (plane // multiplier) * get(plan, "plan.x_c")
            o_at = o + n * get(plan, "plan.o_n") + get(block, "rows.o")
            o_at += plane * get(plan, "plan.o_c")
            x_row, o_row = get(plan, "plan.x_row"), get(plan, "plan.o_row")
            begin, end = get(block, "rows.first"), get(block, "rows.last")
            stride = get(plan, "plan.sh")
            low, high = get(block, "rows.low"), get(block, "rows.high")
            if x_bytes:
                low = max(low, begin * stride)
                high = max(low, min(high, (end - 1) * stride + kh))
                pack_rows(x_at, plan, kh, low, high, x_block, dtype, width, itemsize)
                x_at = x_block - low * x_row
            result = o_at
            if o_bytes:
                o_at = o_block - begin * o_row
            for s in range(strips):
                here = entry(plan, "plan.strips_at", "strip", s)
                fields = (
                    x_at,
                    weights,
                    bias,
                    o_at + get(here, "strip.o"),
                    x_row,
                    o_row,
                    low,
                    high,
                    begin,
                    end,
                    plan + get(plan, "plan.taps_at"),
                    kh,
                    kw,
                    stride,
                    get(here, "strip.x"),
                    get(plan, "plan.x_pix"),
                    get(plan, "plan.o_pix"),
                    get(here, "strip.columns"),
                    get(here, "strip.begin"),
                    get(plan, "plan.used"),
                    get(plan, "plan.stream") if (o & (LINE - 1)) == 0 else 0,
                    plan + PARAMETER,
                )
                flat_strip(fields, get(here, "strip.kind"), labels)
            if o_bytes:
                unpack_rows(o_block, plan, begin, end, result, dtype, itemsize)
        scratch[0] = 0

    return forward_flat
