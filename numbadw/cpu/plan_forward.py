"""The planner of the forward pass: geometry and strides in, a `Plan` out.

few channels, lanes along the row        -> flat feed
pixels are neighbours and rows are long  -> flat feed, one plane at a time
channels are neighbours                  -> direct feed (two vectors a line: no wide)
anything else                            -> packed feed
"""

from __future__ import annotations

from typing import NamedTuple

from numbadw.cpu import plan_flat
from numbadw.cpu.label import ABSENT, Tile
from numbadw.cpu.plan import ROWS_COLUMNS, Plan, Table, assemble, cover
from numbadw.cpu.plan_tiles import choose_tiles, fold, halves_lines, held_vectors, suit
from numbadw.cpu.request import ITEMS, Request
from numbadw.cpu.tile import BLOCK_ROWS

# Rows shorter than this many vectors leave too many lanes idle for the flat feed.
PLANE_VECTORS = 2
# Channels-first images of so few taps, or with such a share of idle lanes to each lane
# in use, go plane by plane (see `light`).
LIGHT_TAPS = 4
IDLE_SHARE = 0.6
# Bytes of packed rows that a block of rows may take: a quarter of a usual L2.
PACKED_BYTES = 256 * 1024
# Lane vectors of a work item: few enough for L1 to keep the rows they share.  All tiles
# but the block lose nothing by more, and take all items of a piece together.
GROUP = 8
# Output rows of a work item, most and least: more gains nothing, fewer cost restarts,
# and where some have fewer than others one thread waits for the other (see `row_count`;
# 28x28x240 5x5 on two Zen 5 cores 23.7 -> 20.3 us, 14x14x384 7x7 15.9 -> 14.0).  In
# arrays too large for the caches (request.py) the tile asks for the inputs of the next
# item's rows: it jumps too much for prefetchers.  Batch 16 of 112x112x32 3x3 on one
# Zen 5 core: 3.6 ms without, 0.8 to 1.2 with.
ROWS_HEIGHT = 16
LEAST_HEIGHT = 8
LARGE_ROWS = 4
LARGE_GROUP = 16
# Outputs and lane vectors of a work item of a sequence, and strips to ask for ahead in
# large ones: what comes next lies beside it.  1x4096x2048 of width 4 on one Zen 5 core:
# 2.1 ms as an image of one row, 1.5 to 1.7 so.
RUN_COLUMNS = 56
RUN_GROUP = 128
RUN_AHEAD = 4


def make_plan(request: Request) -> Plan:
    """Choose the feed and make the plan."""
    r = request
    g, lanes = r.g, r.lanes
    near_x = g.c == 1 or r.x.c == r.itemsize
    near_o = r.channels == 1 or r.o.c == r.itemsize
    near = near_x and near_o
    planar = r.x.w == r.itemsize and r.o.w == r.itemsize
    long = g.ow >= PLANE_VECTORS * lanes
    if planar and not near and long and (r.channels < lanes or light(r)):
        return plan_flat.make_plan(r, planes=r.channels)
    few = r.channels <= (lanes if one_column(r) else lanes // 2)
    if few or (near and plan_flat.strip_phases(r) > 1):
        return plan_flat.make_plan(r, planes=1)
    # A wide kernel reads each packed pixel so often that packing costs nothing, and
    # lines that hold other channels, too, are read once.
    packs = halves_lines(r) and g.kw > ROWS_COLUMNS
    return plan_direct(r) if near and not packs else plan_packed(r)


def one_column(r: Request) -> bool:
    """Tell whether outputs read what lies above and below them, and no neighbours.

    Then lanes along the row cost no more loads than lanes of channels, and none idles:
    224x224x3 to 9 channels 3x1 with strides (2, 1) on one Zen 5 core 43 -> 35 us,
    112x112x12 of 5 rows 31 -> 21.
    """
    return r.g.kw == r.columns.stride == 1


def light(r: Request) -> bool:
    """Tell whether packing costs more than planes of their own: few taps or lanes.

    Channels first on one Zen 5 core: 64x112x112 2x2 179 -> 120 us, 3x3 205 -> 292, but
    17 channels, of which packed vectors hold 32, 3x3 of 225x225 366 -> 315.  Dilated
    by 6, 100x113x117 2x2 takes twice as long so.
    """
    idle = -r.channels % r.lanes
    g = r.g
    few = g.kh * g.kw <= LIGHT_TAPS and g.kw < LIGHT_TAPS
    plain = g.sh == g.sw == g.dh == g.dw == 1
    return plain and (few or idle > r.channels * IDLE_SHARE)


def folded_lanes(r: Request) -> Table:
    """Return the lane vectors of an input gradient with many outputs a channel."""
    table: Table = []
    step = (r.lanes // r.fold) * r.fold if fold(r) else r.lanes
    span = r.channels if fold(r) else r.fold
    for start in range(0, r.channels, span):
        for first in range(0, span, step):
            at = (start + first) * r.itemsize
            o = (start + first) // r.fold * r.itemsize
            adds = first > 0 and not fold(r)
            table.append((at, at, o, min(step, span - first), adds))
    return table


def lane_table(r: Request, tile: Tile) -> Table:
    """Return offsets in inputs, kernel and result, and count, of every lane record.

    A record is so many whole vectors; what is left over comes vector by vector.  For
    tiles that take no tail the last vector begins earlier, and shares some lanes.
    """
    g, lanes = r.g, r.lanes
    if r.fold > 1:
        return folded_lanes(r)
    table: Table = []
    if g.m <= lanes // 2:
        whole = (lanes // g.m) * g.m
        record = whole * tile.vectors
        first = 0
        while first < r.channels:
            if tile.tail == ABSENT:
                first = min(first, r.channels - lanes)
            left = r.channels - first
            count = record if left >= record else min(whole, left)
            at = first * r.itemsize
            table.append((first // g.m * r.x.c, at, at, count, 0))
            first += count
    else:
        for c in range(g.c):
            for first in range(0, g.m, lanes):
                count = min(lanes, g.m - first)
                at = (c * g.m + first) * r.itemsize
                table.append((c * r.x.c, at, at, count, 0))
    return table


def whole_records(lanes: Table, tile: Tile) -> int:
    """Return how many records at the start of a lane table are whole ones."""
    counts = [lane[3] for lane in lanes] + [0]
    return next(i for i, n in enumerate(counts) if n < tile.lanes * tile.vectors)


def place(r: Request, count: int, widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return first column and index of width of the strips that cover `count` columns.

    Strips that add to the result must not overlap.
    """
    if fold(r) == 0:
        return [(first, 0) for first in range(0, count, widths[0])]
    return cover(count, widths)


def strip_table(
    r: Request, tiles: tuple[Tile, ...], x_w: int, o_w: int, kind: int = 0
) -> Table:
    """Return the column strips of every phase; x_w and o_w are bytes per column.

    `kind` is the number of the first of these tiles among the kernel's.
    """
    axis = r.columns
    widths = tuple(tile.width for tile in tiles[::2])
    table: Table = []
    for phase in axis.phases:
        for first, index in place(r, phase.outputs, widths):
            width = widths[index]
            columns = min(width, phase.outputs - first)
            span = axis.stride * (width - 1) + phase.taps
            low = phase.low - first * axis.stride
            high = phase.high - first * axis.stride
            low = min(max(low, 0), span)
            high = max(low, min(high, span))
            guarded = low > 0 or high < span or columns < width
            start = phase.start + first * axis.stride * axis.in_step
            out = phase.out + first * axis.out_step
            table.append(
                (
                    kind + 2 * index + guarded,
                    start * x_w,
                    out * o_w,
                    r.tap_offset(phase),
                    phase.taps,
                    low,
                    high,
                    0,
                    columns,
                )
            )
    return table


def one_row(r: Request) -> bool:
    """Tell whether images and kernel have one row: a sequence."""
    g = r.g
    return g.h == g.oh == g.kh == 1 and g.pt == 0 and not r.columns.transposed


def run_table(strips: Table, pitch: int, height: int) -> Table:
    """Return row blocks that are runs of up to `height` neighbouring strips of a row.

    The tile takes strips of the first width, `pitch` bytes of outputs apart, as the
    rows of an image.
    """
    table: Table = []
    begin = 0
    while begin < len(strips):
        end, (kind, _, out, *_) = begin + 1, strips[begin]
        while (
            kind % 4 == 0
            and end < min(begin + height, len(strips))
            and strips[end][0] == kind
            and strips[end][2] == out + (end - begin) * pitch
        ):
            end += 1
        count = end - begin
        table.append((0, 0, 0, 1, 0, count, 0, count, 0, begin))
        begin = end
    return table


def even(count: int, most: int) -> int:
    """Return the size of groups of at most `most` that share `count` evenly."""
    return -(-count // -(-count // most))


class Walk(NamedTuple):
    """How the direct feed goes through the outputs of an image.

    `order` nests the loops over work items, outermost first: threads get parts of it.
    By strips they go side by side to the image's end; by rows prefetchers go on from
    one to lines of the next: 28x28x192 3x3 on two Zen 5 cores 8.0 -> 7.0 us, 19.6 ->
    8.7 if each has an L3 of its own.
    """

    rows: Table
    across: int  # strips that every row block has
    group: int  # lane vectors of a work item
    ahead: int
    x_row: int
    o_row: int
    order: tuple[str, str, str] = ("strip", "row", "group")

    def spans(self, groups: int) -> dict[str, int]:
        """Return the items from one image, row block, strip or group to the next."""
        counts = {"row": len(self.rows), "strip": self.across, "group": groups}
        spans, step = {}, 1
        for name in reversed(self.order):
            spans[f"{name}_span"] = step
            step *= counts[name]
        return {**spans, "n_span": step}


def row_count(r: Request, pieces: int) -> int:
    """Return how many blocks of rows an image has, all of about the same height.

    Of unequal ones one thread gets the higher.  More where each has but few pieces.
    """
    oh = r.g.oh
    heights = range(LEAST_HEIGHT, ROWS_HEIGHT + 1, 2)
    best = min(heights, key=lambda height: (-oh % height, -height))
    few = -(-ITEMS // max(1, r.g.n * pieces))
    blocks = -(-oh // best) if oh > ROWS_HEIGHT else 1
    return max(blocks, min(few, -(-oh // LEAST_HEIGHT)))


def walk_rows(r: Request, tile: Tile, strips: Table, lanes: int, together: int) -> Walk:
    """Go down the rows of an image, a few of a strip at a time.

    Threads share a single strip by rows: by lanes they would meet in every pixel.  Two
    Zen 5 cores, each with an L3 of its own: 7x7x1152 3x3 5.8 -> 3.9 us.
    """
    far = r.far and r.g.h > 1
    one = r.g.n == len(strips) == 1 and tile.form == "block" and r.g.oh > together
    blocks = -(-r.g.oh // LARGE_ROWS) if far else row_count(r, len(strips) * lanes)
    rows = r.row_table(max(blocks, 1 + one), together)
    group = even(lanes, LARGE_GROUP if far else GROUP) if fold(r) else lanes
    outer = r.g.n * len(rows) * len(strips)
    while group > 1 and fold(r) and outer * -(-lanes // group) < ITEMS:
        group //= 2
    steps = far * LARGE_ROWS, r.fields["x_h"], r.fields["o_h"]
    walk = Walk(rows, len(strips), group, *steps)
    return walk._replace(order=("row", "strip", "group")) if far or one else walk


def walk_down(r: Request, strips: Table, lanes: int) -> Walk:
    """Go down whole strips, which read each row once; parts only for threads."""
    group, outer = lanes, max(1, r.g.n * len(strips))
    while group > 1 and outer * -(-lanes // group) < ITEMS:
        group = -(-group // 2)
    parts = -(-ITEMS // (outer * -(-lanes // group)))
    rows = r.row_table(min(parts, -(-r.g.oh // LEAST_HEIGHT)))
    return Walk(rows, len(strips), group, 0, r.fields["x_h"], r.fields["o_h"])


def walk_swaths(r: Request, tile: Tile, strips: Table, lanes: int) -> Walk:
    """Go along the rows of a swath; `r` is turned.  Parts of rows only for threads.

    From L3 so few lane vectors at a time that L1 keeps what the next step shares
    (28x28x480 on a Zen 5 core 37 -> 29 us), not from memory (batch 32: 0.87 times).
    """
    rows = r.row_table(-(-ITEMS // max(1, r.g.n * len(strips))))
    group = lanes if r.far else even(lanes, held_vectors(r, tile))
    order = "group", "strip", "row"  # so that L1 keeps the weights, too
    steps = r.fields["x_h"], r.fields["o_h"]
    return Walk(rows, len(strips), group, int(r.far), *steps, order)


def walk_along(r: Request, strips: Table, lanes: int, width: int) -> Walk:
    """Go along a sequence, a run of strips at a time."""
    axis = r.columns
    x_row = width * axis.stride * axis.in_step * r.x.w
    o_row = width * axis.out_step * r.o.w
    group = even(lanes, RUN_GROUP) if fold(r) else lanes
    height = max(1, RUN_COLUMNS // width)
    rows = run_table(strips, o_row, height)
    while height > 1 and r.g.n * len(rows) * -(-lanes // group) < ITEMS:
        height //= 2
        rows = run_table(strips, o_row, height)
    return Walk(rows, 1, group, RUN_AHEAD if r.far else 0, x_row, o_row)


def plan_direct(
    r: Request,
    tiles: tuple[Tile, ...] | None = None,
    strips: Table | None = None,
    together: int = BLOCK_ROWS,
) -> Plan:
    """Plan the feed that reads and writes the caller's arrays in place.

    `together` is the number of output rows that the tiles compute at once.
    """
    used = tiles = tiles or choose_tiles(r)
    if strips is None:
        tiles, kind, used = suit(r, tiles)
        r = r.turned() if used[0].turned else r
        strips = strip_table(r, used, r.x.w, r.o.w, kind)
    g, axis = r.g, r.columns
    lanes = lane_table(r, used[0])
    if used[0].turned:
        walk = walk_swaths(r, used[0], strips, len(lanes))
    elif used[0].form == "roll":
        walk = walk_down(r, strips, len(lanes))
    elif one_row(r):
        walk = walk_along(r, strips, len(lanes), used[0].width)
    else:
        walk = walk_rows(r, used[0], strips, len(lanes), together)
    groups = -(-len(lanes) // walk.group)
    spans = walk.spans(groups)
    full = r.fold == 1 and all(lane[3] % r.lanes == 0 for lane in lanes)
    fields = {
        **r.fields,
        **spans,
        "ahead": walk.ahead,
        "rows": len(walk.rows),
        "strips": walk.across,
        "lanes": len(lanes),
        "groups": groups,
        "group": walk.group,
        "run": 1 if used[0].form in ("block", "swath") else groups,
        "whole": whole_records(lanes, used[0]),
        "stream": full and r.streams(r.o.n, r.o.h, r.o.w),
        "x_row": walk.x_row,
        "x_pix": r.x.w * axis.in_step,
        "o_row": walk.o_row,
        "o_pix": r.o.w * axis.out_step,
    }
    tables = {"sizes": r.sizes, "rows": walk.rows, "strips": strips, "lanes": lanes}
    return assemble("direct", tiles, g.n * spans["n_span"], fields, tables)


def plan_packed(r: Request) -> Plan:
    """Plan the feed that copies blocks to dense scratch and back."""
    g, axis = r.g, r.columns
    tiles = choose_tiles(r)
    pitch = r.lanes * r.itemsize
    lanes = lane_table(r, tiles[0])
    strips = strip_table(r, tiles, pitch, pitch)
    row_bytes = g.w * pitch * r.rows.stride + g.ow * pitch
    blocks = -(-(g.oh * row_bytes) // PACKED_BYTES)
    # Enough for the threads, but no rows packed more than twice for that.
    blocks = max(blocks, min(-(-ITEMS // max(1, g.n * len(lanes))), g.oh // g.kh))
    rows = r.row_table(max(len(r.rows.phases), min(blocks, g.oh)))
    tallest = max(row[7] - row[6] for row in rows)
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
    tables = {"sizes": r.sizes, "rows": rows, "strips": strips, "lanes": lanes}
    items = g.n * len(rows) * len(lanes)
    return assemble("packed", tiles, items, fields, tables)
