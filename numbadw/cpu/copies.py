"""The loops that copy whole arrays between the caller's layout and dense pixels.

    for image, block of rows:                                           # work items
        for channels, a vector at a time:
            pack (or unpack) the block

The gradients go through them a band of images at a time where channels are not
neighbours, so that a band is still in the cache when the tiles read it.
"""

from __future__ import annotations

from collections.abc import Callable

from numbadw.cpu.label import Tile
from numbadw.cpu.pack import pack_block, unpack_block
from numbadw.cpu.plan import Plan, Steps, assemble
from numbadw.cpu.records import get
from numbadw.cpu.simd import BYTES

# Rows of a work item: some tens of kilobytes each for usual rows.
HEIGHT = 4


def make_copy_in(tiles: list[Tile]) -> Callable[..., None]:
    """Build the copy from any strides at `x` to dense pixels at `o`."""
    dtype, lanes = tiles[0].dtype, tiles[0].lanes
    itemsize = BYTES[dtype]

    def copy_in(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        groups, height = get(plan, "plan.groups"), get(plan, "plan.group")
        rows, columns = get(plan, "plan.rows"), get(plan, "plan.w")
        channels = get(plan, "plan.c")
        steps = get(plan, "plan.x_h"), get(plan, "plan.x_w"), get(plan, "plan.x_c")
        for item in range(first, last):
            n, row = item // groups, (item % groups) * height
            count = min(height, rows - row)
            source = x + n * get(plan, "plan.x_n") + row * get(plan, "plan.x_h")
            target = o + (n * rows + row) * columns * channels * itemsize
            for c in range(0, channels, lanes):
                pack_block(
                    source + c * get(plan, "plan.x_c"),
                    steps,
                    target + c * itemsize,
                    channels * itemsize,
                    (count, columns, min(lanes, channels - c)),
                    dtype,
                    lanes,
                    itemsize,
                )

    return copy_in


def make_copy_out(tiles: list[Tile]) -> Callable[..., None]:
    """Build the copy from dense pixels at `x` to any strides at `o`."""
    dtype, lanes = tiles[0].dtype, tiles[0].lanes
    itemsize = BYTES[dtype]

    def copy_out(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        groups, height = get(plan, "plan.groups"), get(plan, "plan.group")
        rows, columns = get(plan, "plan.rows"), get(plan, "plan.w")
        channels = get(plan, "plan.c")
        steps = get(plan, "plan.x_h"), get(plan, "plan.x_w"), get(plan, "plan.x_c")
        for item in range(first, last):
            n, row = item // groups, (item % groups) * height
            count = min(height, rows - row)
            source = x + (n * rows + row) * columns * channels * itemsize
            target = o + n * get(plan, "plan.x_n") + row * get(plan, "plan.x_h")
            for c in range(0, channels, lanes):
                unpack_block(
                    source + c * itemsize,
                    channels * itemsize,
                    target + c * get(plan, "plan.x_c"),
                    steps,
                    (count, columns, min(lanes, channels - c)),
                    dtype,
                    lanes,
                    itemsize,
                )

    return copy_out


def plan_copy(feed: str, shape: tuple[int, ...], steps: Steps, tile: Tile) -> Plan:
    """Plan a copy of (n, h, w, c) elements that lie `steps` bytes apart."""
    n, h, w, c = shape
    groups = -(-h // HEIGHT)
    fields = {
        "groups": groups,
        "group": HEIGHT,
        "rows": h,
        "w": w,
        "c": c,
        "x_n": steps.n,
        "x_h": steps.h,
        "x_w": steps.w,
        "x_c": steps.c,
    }
    return assemble(feed, (tile,), n * groups, fields, {})


def dense_steps(shape: tuple[int, ...], itemsize: int) -> Steps:
    """Return the byte steps of dense (n, h, w, c) elements."""
    _, h, w, c = shape
    return Steps(h * w * c * itemsize, w * c * itemsize, c * itemsize, itemsize)
