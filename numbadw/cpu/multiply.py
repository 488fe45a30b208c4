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

The sums over k are one chain each, in order, for any tile and place: bits never depend
on where a tile lies.

Registers: tile.kh * tile.width sums, as many b as vectors, and one a; on Zen 5 two
multiply-adds a cycle need 8 sums to hide their latency of 4, and 6 rows of 4 vectors
take (4 + 6) loads for 24 multiply-adds, where two loads a cycle are free.

Source: the micro-kernel of Van Zee and van de Geijn, "BLIS: A Framework for Rapidly
Instantiating BLAS Functionality", ACM TOMS 41(3), 2015.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from numbadw.cpu.label import Tile
from numbadw.cpu.simd import Cell, Int, Simd, Vec
from numbadw.cpu.vecmath import emit_activation

MULTIPLY_FIELDS = (
    "a",  # address of A's first row
    "b",  # of the panel's row 0, padded to whole vectors
    "c",  # of C's first row
    "bias",  # of the bias, 0: none
    "g",  # of the gradient that a derivative is multiplied with
    "a_row",  # byte steps: A's rows and its elements along k,
    "a_k",
    "b_k",  # the panel's rows,
    "c_row",  # C's rows and those of g
    "g_row",
    "bias_row",  # and the bias along the rows, 0: it lies along the columns
    "rows",  # rows of C, at least 1
    "columns",  # columns of C in this panel
    "k",  # terms of each sum
    "first",  # 1: C holds nothing yet
    "last",  # 1: end with bias and activation
    "parameter",  # address of the activation's parameter
)
UNROLL = 4


class Multiply:
    """One tile of a product, bound to its run-time fields."""

    def __init__(self, simd: Simd, tile: Tile, fields: dict[str, Int]) -> None:
        self.simd, self.tile, self.at = simd, tile, fields
        self.size = simd.lanes * simd.itemsize
        last = fields["rows"] - 1
        self.a = [
            fields["a"] + fields["a_row"] * last.minimum(m) for m in range(tile.kh)
        ]

    def terms(self, accs: list[list[Cell]], first: Int, last: Int, step: int) -> None:
        """Add the terms of `first <= k < last` to the sums, `step` at a time."""
        simd, at = self.simd, self.at
        with simd.loop(first, last, step) as k:
            for u in range(step):
                row = at["b"] + (k + u) * at["b_k"]
                bs = [simd.load(row + v * self.size) for v in range(self.tile.width)]
                skip = (k + u) * at["a_k"]
                for m, sums in enumerate(accs):
                    a = simd.load_splat(self.a[m] + skip)
                    for acc, b in zip(sums, bs, strict=True):
                        acc.set(simd.fma(a, b, acc.get(simd.builder)))

    def finish(self, sums: list[Cell], m: int) -> None:
        """Add, activate and store one row, whole vectors without a mask."""
        simd, at = self.simd, self.at
        row = at["c"] + m * at["c_row"]
        whole = at["columns"].compare(">=", len(sums) * simd.lanes)
        with simd.builder.if_else(whole) as (full, tail):
            with full:
                self._finish(sums, m, row, [None] * len(sums))
            with tail:
                masks = [
                    simd.mask((at["columns"] - v * simd.lanes).maximum(0))
                    for v in range(len(sums))
                ]
                self._finish(sums, m, row, masks)

    def _finish(self, sums: list[Cell], m: int, row: Int, masks: list[Any]) -> None:
        simd, at = self.simd, self.at
        places = [(v * self.size, mask) for v, mask in enumerate(masks)]
        totals = [simd.variable(acc.get(simd.builder)) for acc in sums]
        with simd.when(at["first"].compare("==", 0)):
            for total, (skip, mask) in zip(totals, places, strict=True):
                before = simd.load(row + skip, mask)
                total.set(before + total.get(simd.builder))
        with simd.when(at["last"].compare("!=", 0)):
            parameter = simd.load_parameter(at["parameter"])
            with simd.when(at["bias"].compare("!=", 0)):
                for total, (skip, mask) in zip(totals, places, strict=True):
                    total.set(total.get(simd.builder) + self._bias(m, skip, mask))
            for total, (skip, mask) in zip(totals, places, strict=True):
                value = emit_activation(
                    simd, self.tile.activation, parameter, total.get(simd.builder)
                )
                if self.tile.derives:
                    beside = at["g"] + m * at["g_row"] + skip
                    value = value * simd.load(beside, mask)
                total.set(value)
        for total, (skip, mask) in zip(totals, places, strict=True):
            simd.store(total.get(simd.builder), row + skip, mask)

    def _bias(self, m: int, skip: int, mask: Any) -> Vec:
        simd, at = self.simd, self.at
        bias = simd.variable(simd.vec(0.0))
        along_rows = at["bias_row"].compare("!=", 0)
        with simd.builder.if_else(along_rows) as (one, many):
            with one:
                bias.set(simd.load_splat(at["bias"] + m * at["bias_row"]))
            with many:
                bias.set(simd.load(at["bias"] + skip, mask))
        value: Vec = bias.get(simd.builder)
        return value


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def multiply(typingctx: Any, fields: Any, label: Any) -> Any:
    """Compute one tile; `fields` are the integers of MULTIPLY_FIELDS.

    Contract: reads `rows` rows and `k` columns of A, `k` whole rows of the panel, and
    of C, g and bias what the tile covers; writes C alone.
    """
    signature = types.void(fields, label)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile = Tile.parse(sig.args[1].literal_value)
        simd = Simd(builder, tile.dtype, tile.lanes)
        values = {
            name: simd.integer(builder.extract_value(args[0], i))
            for i, name in enumerate(MULTIPLY_FIELDS)
        }
        whole = Multiply(simd, tile, values)
        accs = [
            [simd.variable(simd.vec(0.0)) for _ in range(tile.width)]
            for _ in range(tile.kh)
        ]
        main = values["k"].divided(UNROLL) * UNROLL
        whole.terms(accs, simd.integer(0), main, UNROLL)
        whole.terms(accs, main, values["k"], 1)
        for m, sums in enumerate(accs):
            with simd.when(values["rows"].compare(">", m)):
                whole.finish(sums, m)
        return context.get_dummy_value()

    return signature, codegen
