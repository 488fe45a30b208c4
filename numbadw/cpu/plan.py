"""Numbers for the kernels: which tile, how wide, which strips, rows and lanes.

Everything that depends on the image's size, padding, dilation and strides becomes
integers in tables here, so that compiled code depends on none of them.

One axis with stride s and dilation d splits into d / gcd(s, d) *phases*: outputs of a
phase read every d-th input, so within a phase the kernel is dense and the stride is
s / gcd(s, d).  A dilated convolution is thus several dense ones with longer steps.
The way back, from gradients at the outputs to those at the inputs, splits alike.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from numbadw.cpu import records
from numbadw.cpu.label import Tile

# Kernels up to this many taps keep all weights in registers (3x3 and below).
BLOCK_TAPS = 9
# Kernels wider than this take the tile whose kernel columns are a run-time loop, so
# that one compiled tile serves them all and no emitted block grows past 1,000 taps.
ROWS_COLUMNS = 20
# Kernels with more taps than this take a tile that sums in shorter chains: one float32
# accumulator would drift past 4 eps sqrt(taps).
CHAIN_TAPS = 1000


Table = list[tuple[int, ...]]


class Phase(NamedTuple):
    """One dense convolution along an axis."""

    start: int  # input index of column 0, maybe outside the image
    out: int  # first output
    outputs: int
    low: int  # dense columns that exist: low <= column < high
    high: int
    tap: int  # first tap
    taps: int
    top: int = 0  # outputs to leave out at the start (transposed)


class Axis(NamedTuple):
    """An axis as dense phases: steps of inputs, outputs and taps, and the stride.

    On a transposed axis the roles change: `stride` outputs to one input.
    """

    phases: list[Phase]
    in_step: int
    out_step: int
    stride: int
    tap_step: int = 1
    transposed: bool = False


def split_axis(
    size: int, out: int, stride: int, dilation: int, before: int, taps: int
) -> Axis:
    """Split an axis of `size` inputs and `out` outputs into its dense phases."""
    common = math.gcd(stride, dilation)
    out_step = dilation // common
    phases = []
    for first in range(min(out_step, out)):
        start = first * stride - before
        low = max(0, -(start // dilation))
        high = max(low, -((start - size) // dilation))
        outputs = -(-(out - first) // out_step)
        phases.append(Phase(start, first, outputs, low, high, 0, taps))
    return Axis(phases, dilation, out_step, stride // common)


def split_back(
    size: int,
    out: int,
    stride: int,
    dilation: int,
    before: int,
    taps: int,
    transposed: bool,
) -> Axis:
    """Split an axis for the way back: `out` gradients in, `size` gradients out.

    Input y and output i meet at tap k where y + before = i * stride + k * dilation.
    With G = gcd(stride, dilation), s = stride / G and d = dilation / G, the outputs
    i = r + d * I reach the inputs y = r * stride - before + dilation * Y at the taps
    k = Y - I * s: a dense problem for each r.  Inputs whose y + before is no multiple
    of G are reached by none.

    Transposed, a phase computes all Y, s to each I, and its outputs count from a
    multiple of s.  Otherwise it computes those of one Y mod s, which every s-th tap
    reaches: a convolution of stride 1 with these taps, last one first.
    """
    common = math.gcd(stride, dilation)
    s, d = stride // common, dilation // common
    phases = []
    for rest in range(min(dilation, size)):
        outputs = -(-(size - rest) // dilation)
        starts = range(min(d, out))
        meet = [r for r in starts if (r * stride - before - rest) % dilation == 0]
        r = meet[0] if meet else 0
        first = (rest - r * stride + before) // dilation  # the phase's first Y
        count = -(-(out - r) // d) if meet else 0
        if transposed:
            top = first % s
            base = first // s - (-(-taps // s) - 1)  # I of row 0
            high = max(count - base, 0)
            low = min(max(0, -base), high)
            start, skip = r + d * base, rest - dilation * top
            phases.append(Phase(start, skip, outputs + top, low, high, 0, taps, top))
            continue
        for turn in range(min(s, outputs)):
            tap = (first + turn) % s
            many = -(-(taps - tap) // s) if tap < taps else 0
            base = (first + turn) // s - (many - 1)
            high = max(count - base, 0)
            low = min(max(0, -base), high)
            each = -(-(outputs - turn) // s)
            last = tap + s * (many - 1) if many else 0
            skip = rest + dilation * turn
            phases.append(Phase(r + d * base, skip, each, low, high, last, many))
    if transposed:
        return Axis(phases, d, dilation, s, 1, True)
    return Axis(phases, d, dilation * s, 1, -s)


class Steps(NamedTuple):
    """Byte steps of an array along image, row, column and channel."""

    n: int
    h: int
    w: int
    c: int

    @classmethod
    def of(cls, strides: tuple[int, ...], channels_first: bool) -> Steps:
        """Reorder an array's strides."""
        if channels_first:
            n, c, h, w = strides
            return cls(n, h, w, c)
        return cls(*strides)


def cover(count: int, widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cover `count` columns with tiles; return (first column, index of width) each.

    The last tile of each width may overlap its neighbour.  Fewest columns computed
    first, then fewest tiles.
    """
    best: tuple[int, int, int] | None = None
    wide, narrow = widths[0], widths[-1]
    for many in range(-(-count // wide) + 1):
        few = max(0, -(-(count - many * wide) // narrow))
        cost = many * (wide + 1) + few * (narrow + 1)
        if best is None or cost < best[0]:
            best = (cost, many, few)
    _, many, few = best or (0, 0, 0)
    tiles, position = [], 0
    for kind in [0] * many + [len(widths) - 1] * few:
        first = max(0, min(position, count - widths[kind]))
        tiles.append((first, kind))
        position = first + widths[kind]
    return tiles


def row_blocks(count: int, blocks: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Split rows into about `blocks` equal blocks of a multiple of `multiple` rows."""
    units = -(-count // multiple)
    height = -(-units // max(1, min(blocks, units))) * multiple
    return [(i, min(i + height, count)) for i in range(0, count, height)]


def extent(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int
) -> tuple[int, int]:
    """Return the bytes an array spans below and above its data pointer."""
    low = sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
    high = sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
    return (0, 0) if 0 in shape else (low, high + itemsize)


class Plan(NamedTuple):
    """What to run: the feed and tiles to compile, and the integers they read."""

    feed: str
    tiles: tuple[Tile, ...]
    integers: np.ndarray
    items: int

    @property
    def address(self) -> int:
        """The address of the integers, valid while the plan lives."""
        return int(self.integers.ctypes.data)


# The record that each table's entries are.
TABLES = {
    "rows": "rows",
    "strips": "strip",
    "lanes": "lane",
    "taps": "tap",
    "picks": "pick",
    "sizes": "sizes",
    "products": "product",
    "bands": "band",
}


def assemble(
    feed: str,
    tiles: tuple[Tile, ...],
    items: int,
    fields: dict[str, int],
    tables: dict[str, Table],
) -> Plan:
    """Lay the fields and tables out as the records say."""
    at = records.size("plan")
    words: list[int] = []
    for name, table in tables.items():
        fields[f"{name}_at"] = at
        record = TABLES[name]
        for row in table:
            if len(row) != len(records.RECORDS[record]):
                msg = f"a {record} record has other fields: {row}"
                raise ValueError(msg)
            words.extend(row)
            at += 8 * len(row)
    fields["items"] = items
    head = [fields.pop(name, 0) for name in records.RECORDS["plan"]]
    if fields:
        msg = f"unknown plan fields: {sorted(fields)}"
        raise KeyError(msg)
    return Plan(feed, tiles, np.array(head + words, dtype=np.int64), items)
