"""The planner of 1x1 convolutions: which array is A, which B, and the work items."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from numbadw import jit
from numbadw.cpu.label import MASKED, Tile
from numbadw.cpu.plan import Plan, Steps, Table, assemble, extent
from numbadw.cpu.pointwise import DEPTH
from numbadw.cpu.records import RECORDS
from numbadw.cpu.request import ITEMS

# Rows of a tile for 1, 2, ... vectors, the widths that are liked best first: sums,
# vectors of B and one of A fill the registers. One vector takes more rows, or each load
# would serve one multiply-add. Two vectors by DEPTH are 32 KiB, which L1 keeps; 7 rows
# divide the images of 7, 14, 28, ... pixels a side.
HEIGHTS = {32: {2: 7, 3: 7, 1: 14}, 16: {2: 6, 1: 12}}
# Panels that the tile of one row takes side by side.
ABREAST = 4

# Bytes of a work item's rows of A and C: half of a usual L2.
ITEM_BYTES = 512 * 1024
# Tiles of rows that share a packed panel, at least: packing it again for each chunk of
# 7x7x1152 to 192 took a fifth of the time.
SHARED_TILES = 4


class Grid(NamedTuple):
    """Pixels of two arrays as (images, rows of an image, columns), axes joined."""

    n: int
    h: int
    w: int
    one: Steps
    other: Steps

    @classmethod
    def of(cls, shape: tuple[int, int, int], one: Steps, other: Steps) -> Grid:
        """Join the axes along which both arrays go on without a gap."""
        n, h, w = shape
        if h == 1 or all(s.h == w * s.w for s in (one, other)):
            h, w = 1, h * w
        if h == 1 and (n == 1 or all(s.n == w * s.w for s in (one, other))):
            n, w = 1, n * w
        return cls(n, h, w, one, other)


class Product(NamedTuple):
    """A product C = A B as the kernel takes it; the steps are (n, h, row, column)."""

    rows: int
    columns: int
    k: int
    images: tuple[int, int]  # images, and rows of one, of which each has ...
    batched: bool  # False: a C of its own; True: a part of every sum
    a: tuple[int, int, int, int]
    b: tuple[int, int, int, int]
    c: tuple[int, int, int, int]
    swap: bool = False
    bias_row: int = 0
    g: tuple[int, int, int] = (0, 0, 0)  # of the gradient beside C, columns dense
    adds: bool = False  # to what C holds
    b_panel: int = 0  # bytes from one packed panel of B to the next, 0: not packed


def columns_are_neighbours(steps: Steps, itemsize: int) -> bool:
    """Tell whether pixels are to be the columns of a product: channels first."""
    return steps.w == itemsize != steps.c


def product_of_pixels(
    grid: Grid,
    channels: int,
    filters: int,
    w_steps: tuple[int, int],
    itemsize: int,
    swap: bool,
) -> Product:
    """Return pixels by channels times weights: from `grid.one` to `grid.other`.

    `w_steps` are the byte steps of the weights along channels and filters; with `swap`
    pixels are the columns of C, else its rows.
    """
    x, o = grid.one, grid.other
    images = grid.n, grid.h
    if swap:
        return Product(
            filters,
            grid.w,
            channels,
            images,
            False,
            (0, 0, w_steps[1], w_steps[0]),
            (x.n, x.h, x.c, x.w),
            (o.n, o.h, o.c, o.w),
            True,
            itemsize,
        )
    return Product(
        grid.w,
        filters,
        channels,
        images,
        False,
        (x.n, x.h, x.w, x.c),
        (0, 0, *w_steps),
        (o.n, o.h, o.w, o.c),
    )


def product_of_gradients(
    grid: Grid, channels: int, filters: int, itemsize: int
) -> Product:
    """Return inputs (`grid.one`) times gradients (`other`), summed over the pixels."""
    x, g = grid.one, grid.other
    return Product(
        channels,
        filters,
        grid.w,
        (grid.n, grid.h),
        True,
        (x.n, x.h, x.c, x.w),
        (g.n, g.h, g.w, g.c),
        (0, 0, filters * itemsize, itemsize),
    )


def heights() -> dict[int, int]:
    """Return the rows of a tile by its width in vectors."""
    return HEIGHTS[jit.target().registers]


def choose_tiles(columns: int, dtype: str, activation: str) -> tuple[Tile, Tile]:
    """Return the tiles of many rows and of one.

    All have as many vectors, so many that least of them lie beyond the columns.
    """
    lanes = jit.target().vector_bytes // (4 if dtype == "f32" else 8)
    vectors = -(-columns // lanes)
    table = heights()
    wide = [width for width in table if width > 1 or vectors == 1]
    width = min(wide, key=lambda width: -(-vectors // width) * width)
    shape = 0, 0, 0, width, 1, False, MASKED, activation
    tall = Tile("multiply", dtype, lanes, table[width], *shape)
    return tall, tall._replace(kh=1, vectors=ABREAST if width > 1 else 1)


def panel_columns(columns: int, dtype: np.dtype[Any]) -> int:
    """Return the columns of a panel of B, where C has so many."""
    name = "f32" if dtype.itemsize == 4 else "f64"
    tile = choose_tiles(columns, name, "linear")[0]
    return tile.width * tile.lanes


def plan_product(
    p: Product,
    dtype: np.dtype[Any],
    activation: str = "linear",
    parameter: float = 0.0,
    checks: dict[str, int] | None = None,
    sizes: Table | None = None,
    alone: bool = False,
) -> Plan:
    """Plan a product; `checks` and `sizes` are what a launch from Python looks at.

    `alone` is for those that one thread runs.
    """
    itemsize = dtype.itemsize
    name = "f32" if itemsize == 4 else "f64"
    tiles = choose_tiles(p.columns, name, activation)
    tile = tiles[0]
    width = tile.width * tile.lanes
    panels = -(-p.columns // width)
    outer = 1 if p.batched else p.images[0] * p.images[1]
    chunk = _chunk(p, tile, 1 if alone else -(-ITEMS // (panels * outer)), itemsize)
    chunks = -(-p.rows // chunk)
    odd = panels * chunks * outer % 2 and panels * chunks * outer < ITEMS
    halves = p.b_panel and odd and chunk >= SHARED_TILES * tile.kh
    unit = -(-chunk // (2 * tile.kh)) * tile.kh if halves else chunk
    units = -(-chunk // unit)
    names = RECORDS["product"]
    record = dict.fromkeys(names, 0) | {
        "swap": int(p.swap),
        "rows": p.rows,
        "columns": p.columns,
        "k": p.k,
        "batches": p.images[0] * p.images[1] if p.batched else 1,
        "chunk": chunk,
        "chunks": chunks,
        "panels": panels,
        "units": units,
        "unit": unit,
        "images": p.images[1],
        "staged": int(p.c[3] != itemsize),
        "bias_row": p.bias_row,
        "adds": int(p.adds),
        "b_panel": p.b_panel,
    }
    for letter, steps, last in (
        ("a", p.a, ("row", "k")),
        ("b", p.b, ("k", "column")),
        ("c", p.c, ("row", "column")),
        ("g", p.g, ("row",)),
    ):
        for axis, step in zip(("n", "h", *last), steps, strict=True):
            record[f"{letter}_{axis}"] = step
    (bits,) = struct.unpack("q", struct.pack("d", parameter))
    fields = {"parameter": bits, **(checks or {})}
    tables = {"products": [tuple(record[key] for key in names)]}
    if sizes is not None:
        tables["sizes"] = sizes
    return assemble("product", tiles, outer * chunks * panels * units, fields, tables)


def _chunk(p: Product, tile: Tile, cuts: int, itemsize: int) -> int:
    """Return the rows of a chunk: what L2 holds, and `cuts` of them or more.

    Where B comes packed, threads should share the larger of A and B: chunks if that is
    A, of which four or a multiple go evenly among threads, else panels.
    """
    depth = min(DEPTH, p.k)
    room = ITEM_BYTES // ((depth + tile.width * tile.lanes) * itemsize)
    if not p.b_panel:
        tiles = -(-min(room, -(-p.rows // cuts)) // tile.kh)
        return max(tiles, SHARED_TILES) * tile.kh
    tiles = -(-p.rows // tile.kh)
    least = -(-p.rows // room)
    if p.rows >= p.columns:
        best = min((4, 8, 12, 16), key=lambda n: (-tiles % n, n))
        least = -(-least // best) * best
    return -(-tiles // least) * tile.kh


def checked_fields(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    w_bytes: int,
    b_bytes: int,
    dtype: np.dtype[Any],
) -> tuple[dict[str, int], Table]:
    """Return what a launch checks: the extents, shapes and strides of its arrays."""
    fields = {"w_bytes": w_bytes, "b_bytes": b_bytes}
    table: Table = []
    for name, shape, steps in zip("xo", shapes, strides, strict=True):
        low, high = extent(shape, steps, dtype.itemsize)
        fields |= {f"{name}_low": low, f"{name}_high": high}
        table += [shape, steps]
    return fields | {"dtype": id(np.dtype(dtype.type))}, table
