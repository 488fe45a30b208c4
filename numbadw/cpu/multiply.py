"""The register tile of matrix products: rows of A times a panel of B.

    for row of C (tile.kh of them), vector of its columns (tile.width):  # unrolled
        acc = 0
    for k:                                             # run time, unrolled by UNROLL
        b = load vectors of row k of the panel
        for row:                                       # unrolled
            a = broadcast A[row, k]
            for vector: acc[row][vector] += a * b[vector]
    acc += C, unless these are the first k             # then bias, activation and
    store acc                                          # derivative, if the last

Columns of C are the lanes.  Rows lie any number of bytes apart, and so do the elements
of A along k, so one tile serves pixels by channels and channels by pixels alike.  A
tile with fewer rows than it has room for reads its last row again and stores it once.

The tile of one row takes tile.vectors panels side by side, and with fewer the last one
again: one panel's sums are too few to hide the latency, and of L3 the hardware's
prefetchers read one stream of vectors with 19 GB/s, four with 70 (Zen 5).

The sums over k are one chain each, in order, for any tile and place: bits never depend
on where a tile lies.

Registers: tile.kh * tile.width sums, as many b as vectors, and one a; on Zen 5 two
multiply-adds a cycle need 8 sums to hide their latency of 4, and 7 rows of 2 vectors
take (2 + 7) loads for 14 multiply-adds, where two loads a cycle are free.  The steps of
dense rows of A and of a packed panel are constants: with an integer register for each
of 7 rows and each of UNROLL steps most would be kept on the stack.

Source: the micro-kernel of Van Zee and van de Geijn, "BLIS: A Framework for Rapidly
Instantiating BLAS Functionality", ACM TOMS 41(3), 2015.
"""

from __future__ import annotations

from typing import Any

from numbadw.cpu.caches import LINE
from numbadw.cpu.choice import make_intrinsic
from numbadw.cpu.label import Tile
from numbadw.cpu.simd import Int, Simd, Vec
from numbadw.cpu.vecmath import emit_activation

MULTIPLY_FIELDS = (
    "a",  # address of A's first row
    "b",  # of the panel's row 0, padded to whole vectors
    "c",  # of C's first row
    "bias",  # of the bias, 0: none
    "g",  # of the gradient that a derivative is multiplied with
    "a_row",  # byte steps: A's rows and its elements along k,
    "a_k",
    "b_k",  # the panel's rows, one panel and the next,
    "b_panel",
    "c_row",  # C's rows and those of g
    "g_row",
    "bias_row",  # and the bias along the rows, 0: it lies along the columns
    "rows",  # rows of C, at least 1
    "columns",  # columns of C in this panel, or in the panels
    "k",  # terms of each sum
    "first",  # 1: C holds nothing yet
    "last",  # 1: end with bias and activation
    "parameter",  # address of the activation's parameter
    "ask",  # address of what to ask for meanwhile, ASKED bytes a term
)
UNROLL = 4
# Four tiles ask for a panel of two vectors, so that L2 has the next one in time.
ASKED = 2 * LINE // UNROLL


class Multiply:
    """One tile of a product, bound to its run-time fields."""

    def __init__(self, simd: Simd, tile: Tile, fields: dict[str, Int]) -> None:
        self.simd, self.tile, self.at = simd, tile, fields
        self.size = simd.lanes * simd.itemsize
        last = fields["rows"] - 1
        self.a = [
            fields["a"] + fields["a_row"] * last.minimum(m) for m in range(tile.kh)
        ]
        columns = tile.width * simd.lanes
        self.panels = (fields["columns"] + (columns - 1)).divided(columns)
        self.b = [fields["b"]]
        for p in range(1, tile.vectors):
            skip = fields["b_panel"] * (self.panels - 1).minimum(p)
            self.b.append(fields["b"] + skip)
        self.accs = [
            [simd.variable(simd.vec(0.0)) for _ in range(tile.width * tile.vectors)]
            for _ in range(tile.kh)
        ]

    def sums(self) -> None:
        """Add all terms, of one panel or of all that the tile has room for."""
        if len(self.b) == 1:
            self._sums(1)
            return
        with self.simd.builder.if_else(self.panels.compare("==", 1)) as (one, more):
            with one:
                self._sums(1)
            with more:
                self._sums(len(self.b))

    def _sums(self, panels: int) -> None:
        """Add all terms: faster if all rows are there, A's terms and panels dense."""
        simd, at = self.simd, self.at
        pitch = self.tile.width * self.size
        dense = simd.builder.and_(
            at["a_k"].compare("==", simd.itemsize), at["b_k"].compare("==", pitch)
        )
        whole = at["rows"].compare("==", self.tile.kh)
        dense = simd.builder.and_(dense, whole)
        main = at["k"].divided(UNROLL) * UNROLL
        with simd.builder.if_else(dense) as (near, far):
            for branch, steps in (
                (near, (simd.itemsize, pitch)),
                (far, (at["a_k"], at["b_k"])),
            ):
                with branch:
                    self._terms(panels, simd.integer(0), main, UNROLL, *steps)
                    self._terms(panels, main, at["k"], 1, *steps)

    def _terms(
        self,
        panels: int,
        first: Int,
        last: Int,
        step: int,
        a_k: Int | int,
        b_k: Int | int,
    ) -> None:
        """Add the terms of `first <= k < last` to the sums, `step` at a time.

        One panel's tiles ask for the next; of several no more need be asked for.
        """
        simd, at = self.simd, self.at
        asked = ASKED * step if step > 1 and panels == 1 else 0
        with simd.loop(first, last, step) as k:
            for line in range(0, asked, LINE):
                simd.prefetch(at["ask"] + k * ASKED + line, 2)
            b_rows, a_skip = [b + k * b_k for b in self.b[:panels]], k * a_k
            a_rows = [a + a_skip for a in self.a]
            if isinstance(a_k, int):
                walk = simd.walk(at["a"] + a_skip, at["a_row"], range(self.tile.kh))
                a_rows = [walk(m) for m in range(self.tile.kh)]
            for u in range(step):
                bs = [
                    simd.load(row + b_k * u + v * self.size)
                    for row in b_rows
                    for v in range(self.tile.width)
                ]
                for m, sums in enumerate(self.accs):
                    a = simd.load_splat(a_rows[m] + a_k * u)
                    for acc, b in zip(sums, bs, strict=False):
                        acc.set(simd.fma(a, b, acc.get(simd.builder)))

    def finish(self) -> None:
        """Add, activate and store: at once where the tile is whole, else in parts."""
        simd, at, tile = self.simd, self.at, self.tile
        builder = simd.builder
        if tile.kh == 1:
            self._finish_parts()
            return
        whole = builder.and_(
            at["columns"].compare(">=", tile.width * simd.lanes),
            at["rows"].compare("==", tile.kh),
        )
        whole = builder.and_(whole, at["bias_row"].compare("==", 0))
        with builder.if_else(whole) as (full, partial):
            with full:
                rows = [[acc.get(builder) for acc in sums] for sums in self.accs]
                self._finish(rows, [None] * tile.width)
            with partial:
                self._finish_parts()

    def _finish_parts(self) -> None:
        """Finish row after row or panel after panel, whole vectors without a mask."""
        simd, at, width = self.simd, self.at, self.tile.width
        size, columns = width * self.size, width * simd.lanes
        sums = [acc for row in self.accs for acc in row]
        kept = simd.array(len(sums))
        for i, acc in enumerate(sums):
            simd.store(acc.get(simd.builder), kept + i * self.size)
        one = self.tile.kh == 1
        with simd.loop(simd.integer(0), self.panels if one else at["rows"]) as part:
            values = [
                simd.load(kept + part * size + v * self.size) for v in range(width)
            ]
            row, panel = (simd.integer(0), part) if one else (part, simd.integer(0))
            left = at["columns"] - panel * columns
            masks = [
                simd.mask((left - v * simd.lanes).maximum(0)) for v in range(width)
            ]
            whole = left.compare(">=", columns)
            with simd.builder.if_else(whole) as (full, tail):
                with full:
                    self._finish([values], [None] * width, row, panel * size)
                with tail:
                    self._finish([values], masks, row, panel * size)

    def _finish(
        self,
        rows: list[list[Vec]],
        masks: list[Any],
        first: Int | None = None,
        along: Int | None = None,
    ) -> None:
        """Finish rows of C from `first` on, from so many bytes `along` them on."""
        simd, at = self.simd, self.at
        first, along = first or simd.integer(0), along or simd.integer(0)
        totals = [[simd.variable(value) for value in row] for row in rows]
        c, g = (at[x] + first * at[f"{x}_row"] + along for x in "cg")
        places = [
            (total, i, v * self.size, mask)
            for i, row in enumerate(totals)
            for v, (total, mask) in enumerate(zip(row, masks, strict=True))
        ]
        with simd.when(at["first"].compare("==", 0)):
            for total, i, skip, mask in places:
                before = simd.load(c + at["c_row"] * i + skip, mask)
                total.set(before + total.get(simd.builder))
        with simd.when(at["last"].compare("!=", 0)):
            with simd.when(at["bias"].compare("!=", 0)):
                biases = self._biases(first, along, masks)
                for row in totals:
                    for total, bias in zip(row, biases, strict=True):
                        total.set(total.get(simd.builder) + bias)
            parameter = simd.load_parameter(at["parameter"])
            for total, i, skip, mask in places:
                value = emit_activation(
                    simd, self.tile.activation, parameter, total.get(simd.builder)
                )
                if self.tile.derives:
                    value = value * simd.load(g + at["g_row"] * i + skip, mask)
                total.set(value)
        for total, i, skip, mask in places:
            simd.store(total.get(simd.builder), c + at["c_row"] * i + skip, mask)

    def _biases(self, row: Int, along: Int, masks: list[Any]) -> list[Vec]:
        """Return the bias of every vector; of that row where it lies along the rows."""
        simd, at = self.simd, self.at
        cells = [simd.variable(simd.vec(0.0)) for _ in masks]
        along_rows = at["bias_row"].compare("!=", 0)
        with simd.builder.if_else(along_rows) as (one, many):
            with one:
                bias = simd.load_splat(at["bias"] + row * at["bias_row"])
                for cell in cells:
                    cell.set(bias)
            with many:
                for v, (cell, mask) in enumerate(zip(cells, masks, strict=True)):
                    cell.set(simd.load(at["bias"] + along + v * self.size, mask))
        return [cell.get(simd.builder) for cell in cells]


def _emit_multiply(simd: Simd, tile: Tile, values: dict[str, Int]) -> None:
    """Emit one tile.

    Contract: reads `rows` rows and `k` columns of A, `k` whole rows of every panel that
    has columns, and of C, g and bias what the tile covers; writes C alone.
    """
    product = Multiply(simd, tile, values)
    product.sums()
    product.finish()


multiply = make_intrinsic(MULTIPLY_FIELDS, _emit_multiply)
