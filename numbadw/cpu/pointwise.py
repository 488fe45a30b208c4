"""The loops of matrix products C = A B: 1x1 convolutions and their gradients.

    for image (or row of one), chunk of C's rows, panel of its columns:    # work items
        for batch, block of DEPTH terms:
            pack the panel's rows of B                  # tile.width vectors each
            for tile.kh rows of the chunk: tile         # adds to C
        unpack the chunk, where C's columns are no neighbours

A panel's block of B stays in L1 while the rows of A pass by; a chunk's rows of A
stay in L2 while the panels do.  Which array is A, which B and where their rows and
terms lie is said by the plan (plan_pointwise.py): pixels are the rows of C, or its
columns where these are neighbours (channels first).

Items that follow each other pack up to GROUP panels together, row by row of B: it is
read once where a few rows of A are multiplied with it, and then memory is the limit
(7x7x1024 to 1024 on one Zen 5 core: 120 us to pack 4 MiB one panel at a time, 85 so).
Where B comes packed an item may be half of a chunk and panel, so that threads share
them evenly, and the tiles ask for the panel's next terms meanwhile.  One row of A takes
the panels of several items side by side (multiply.py).

Sums have three levels: a chain of DEPTH terms, the blocks of a batch, the batches; the
same for every number of threads, as no sum is split between work items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numbadw import jit
from numbadw.cpu.caches import LINE
from numbadw.cpu.choice import join
from numbadw.cpu.kernel_grad import PARAMETER
from numbadw.cpu.label import Tile
from numbadw.cpu.multiply import ASKED, multiply
from numbadw.cpu.pack import copy_rows, pack_block, unpack_block
from numbadw.cpu.records import entry, get
from numbadw.cpu.simd import BYTES

# Terms of one chain, and rows of a packed panel: 32 KiB of two vectors each.
DEPTH = 256
# Panels that are packed together: rows of 1 KiB of B, and a quarter of a usual L2.
GROUP = 8


def make_product(tiles: list[Tile]) -> Callable[..., None]:
    """Build the loops round two tiles of products: of many rows, and of one."""
    labels = join(tiles)
    dtype, lanes = tiles[0].dtype, tiles[0].lanes
    height, width = tiles[0].kh, tiles[0].width * tiles[0].lanes
    itemsize = BYTES[dtype]
    pitch = width * itemsize
    abreast = tiles[1].vectors

    def product(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        here = entry(plan, "plan.products_at", "product", 0)
        if get(here, "product.swap"):
            x, w = w, x
        rows, depth = get(here, "product.rows"), get(here, "product.k")
        chunk, chunks = get(here, "product.chunk"), get(here, "product.chunks")
        panels, images = get(here, "product.panels"), get(here, "product.images")
        batches, staged = get(here, "product.batches"), get(here, "product.staged")
        c_column, bias_row = (
            get(here, "product.c_column"),
            get(here, "product.bias_row"),
        )
        adds, block = get(here, "product.adds"), min(DEPTH, depth)
        units, unit = get(here, "product.units"), get(here, "product.unit")
        b_panel = get(here, "product.b_panel")
        alone = staged or b_panel or rows <= height
        together = 1 if alone else min(GROUP, panels)
        room = (together * block + staged * chunk) * pitch + LINE
        scratch = np.empty(room, np.uint8)
        if get(here, "product.columns") % lanes:
            scratch[:] = 0  # lanes that no column has count as numbers, too
        b_k, b_column = get(here, "product.b_k"), get(here, "product.b_column")
        panel = (scratch.ctypes.data + LINE - 1) & -LINE
        item = first
        while item < last:
            number = item // units % panels
            column, rest = number * width, item // units // panels
            stop = min((rest % chunks + 1) * chunk, rows)
            start, outer = (rest % chunks) * chunk + item % units * unit, rest // chunks
            group, taken = 1, min(units - item % units, last - item)
            stop = min(stop, start + taken * unit)
            n, y = outer // images, outer % images
            columns = min(width, get(here, "product.columns") - column)
            # Whole rows of B that one tile reads need no packing.
            plain = b_column == itemsize and columns == width
            direct = b_panel != 0 or (plain and stop - start <= height)
            if plain and together > 1:
                whole = get(here, "product.columns") // width - number
                group = taken = min(together, whole, last - item)
            elif rows == 1 and direct and not staged:
                whole = panels if b_panel else get(here, "product.columns") // width
                taken = min(abreast, whole - number, last - item)
                columns = min(taken * width, get(here, "product.columns") - column)
            skip = n * get(here, "product.c_n") + y * get(here, "product.c_h")
            skip += start * get(here, "product.c_row") + column * c_column
            target, step = o + skip, get(here, "product.c_row")
            if staged:
                target, step = panel + block * pitch, pitch
            g_at = g + n * get(here, "product.g_n") + y * get(here, "product.g_h")
            g_at += start * get(here, "product.g_row") + column * itemsize
            bias = 0
            if b:
                bias = b + (start * bias_row if bias_row else column * itemsize)
            for batch in range(batches):
                # An image of its own, or one of many that a sum goes through.
                bn, by = batch // images + n, batch % images + y
                a_at = x + bn * get(here, "product.a_n") + by * get(here, "product.a_h")
                a_at += start * get(here, "product.a_row")
                b_at = w + bn * get(here, "product.b_n") + by * get(here, "product.b_h")
                b_at += number * b_panel if b_panel else column * b_column
                for k in range(0, depth, block):
                    many = min(block, depth - k)
                    source = b_at + k * b_k
                    if plain and not direct:
                        # Row by row: memory likes to be read in order.
                        for i in range(many):
                            row, to = source + i * b_k, panel + i * pitch
                            fields = row, pitch, group, to, block * pitch, width
                            copy_rows(fields, dtype, width)
                    elif not direct:
                        steps, sizes = (0, b_k, b_column), (many, columns)
                        _pack_panel(
                            source, steps, panel, pitch, sizes, dtype, lanes, itemsize
                        )
                    for i in range(group):
                        packed, right = i * block * pitch, i * pitch
                        _multiply_rows(
                            here,
                            (
                                a_at + k * get(here, "product.a_k"),
                                source + right if direct else panel + packed,
                                target + i * width * c_column,
                                bias + right if bias and not bias_row else bias,
                                g_at + right,
                            ),
                            (b_k if direct else pitch, step, b_panel or pitch),
                            (stop - start, columns, many),
                            (
                                int(batch == 0 and k == 0 and not adds),
                                int(batch + 1 == batches and k + many == depth),
                                plan + PARAMETER,
                            ),
                            labels,
                            height,
                        )
            if staged:
                steps = 0, get(here, "product.c_row"), c_column
                sizes = stop - start, columns
                _unpack_columns(
                    target, pitch, o + skip, steps, sizes, dtype, lanes, itemsize
                )
            item += taken
        scratch[0] = 0  # keeps it alive until here

    return product


@jit.helper
def _multiply_rows(here, places, steps, sizes, ends, labels, height):  # type: ignore[no-untyped-def]
    """Multiply rows of A with one panel, a tile's height at a time.

    Contract: places = addresses of A, the panel, C, bias and g; steps = of the panel's
    and C's rows and of panels, of which one row of A takes several; sizes = rows,
    columns and terms; ends = first, last and parameter.
    """
    a, panel, c, bias, g = places
    rows, columns, terms = sizes
    bias_row = get(here, "product.bias_row")
    # Packed panels follow each other: their next terms, or those of the next panel.
    size = terms * steps[0] if get(here, "product.b_panel") else 0
    ask = panel + size
    for m in range(0, rows, height):
        fields = (
            a + m * get(here, "product.a_row"),
            panel,
            c + m * steps[1],
            bias + m * bias_row if bias else 0,
            g + m * get(here, "product.g_row"),
            get(here, "product.a_row"),
            get(here, "product.a_k"),
            steps[0],
            steps[2],
            steps[1],
            get(here, "product.g_row"),
            bias_row,
            min(height, rows - m),
            columns,
            terms,
            ends[0],
            ends[1],
            ends[2],
            ask,
        )
        multiply(fields, 1 if rows - m == 1 else 0, labels)
        ask = min(ask + terms * ASKED, panel + 2 * size)


@jit.helper
def _pack_panel(source, steps, target, pitch, sizes, dtype, lanes, itemsize):  # type: ignore[no-untyped-def]
    """Copy (terms, columns) of B to rows of whole vectors."""
    many, columns = sizes
    for c in range(0, columns, lanes):
        pack_block(
            source + c * steps[2],
            steps,
            target + c * itemsize,
            pitch,
            (1, many, min(lanes, columns - c)),
            dtype,
            lanes,
            itemsize,
        )


@jit.helper
def _unpack_columns(source, pitch, target, steps, sizes, dtype, lanes, itemsize):  # type: ignore[no-untyped-def]
    """Copy (rows, columns) of a staged C to where they belong."""
    many, columns = sizes
    for c in range(0, columns, lanes):
        unpack_block(
            source + c * itemsize,
            pitch,
            target + c * steps[2],
            steps,
            (1, many, min(lanes, columns - c)),
            dtype,
            lanes,
            itemsize,
        )
