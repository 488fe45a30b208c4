"""The loops of the kernel gradient, alone or with the other, and the sum of its parts.

`kernel_grad`: the work is cut into `splits` parts of the outputs, each with sums of its
own, and into groups of lane vectors:

    for part of the outputs, group of lane vectors:                     # work items
        for image, row block, strip of columns in the part:
            tile(strip)          # adds to the part's sums, over the group's lanes

`add_parts`: result = part 0 + part 1 + ..., in this order.

The cut depends on shapes alone, so the sums have the same bits for any number of
threads.  Every sum has three levels (the outputs of a strip, the strips of a part, the
parts), and a fourth where a part has many strips (the bands of images, backward.py), so
that no chain of additions is long: the rounding error of n terms stays within
4 eps sqrt(n) of their absolute sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from numbadw.cpu.caches import LINE
from numbadw.cpu.choice import join
from numbadw.cpu.label import Tile
from numbadw.cpu.records import entry, get, index
from numbadw.cpu.simd import BYTES, Simd
from numbadw.cpu.tile import strip

PARAMETER = 8 * index("plan.parameter")


def make_kernel_grad(tiles: list[Tile]) -> Callable[..., None]:
    """Build the loops round three tiles (see `plan_kernel_grad.strip_table`).

    Of the tiles of both gradients (both.py) x is the gradient at the outputs, o that at
    the inputs, g the inputs, which lie as it does, and b the sums, the bias' behind the
    kernel's; of others x is the inputs, g the gradient, o and b are the sums.
    """
    labels = join(tiles)
    both = tiles[0].form == "both"

    def kernel_grad(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        groups, strips = get(plan, "plan.groups"), get(plan, "plan.strips")
        rows, group = get(plan, "plan.rows"), get(plan, "plan.group")
        lanes, splits = get(plan, "plan.lanes"), get(plan, "plan.splits")
        units, whole = get(plan, "plan.units"), get(plan, "plan.whole")
        scratch = np.empty(get(plan, "plan.scratch_o") + LINE, np.uint8)
        chain = (scratch.ctypes.data + LINE - 1) & -LINE
        stream = get(plan, "plan.stream") if (o & (LINE - 1)) == 0 else 0
        for item in range(first, last):
            part = item // groups
            part_skip = part * get(plan, "plan.part")
            start = (item % groups) * group
            stop = min(start + group, lanes)
            for unit in range(units * part // splits, units * (part + 1) // splits):
                rest = unit // strips
                block = entry(plan, "plan.rows_at", "rows", rest % rows)
                here = entry(plan, "plan.strips_at", "strip", unit % strips)
                n = rest // rows
                x_at = x + n * get(plan, "plan.x_n")
                x_at += get(block, "rows.x") + get(here, "strip.x")
                skip = n * get(plan, "plan.o_n")
                skip += get(block, "rows.o") + get(here, "strip.o")
                if both:
                    tap = get(block, "rows.w") + get(here, "strip.w")
                    places = w + tap, b + part_skip + tap, o + skip
                else:
                    places = chain, b + part_skip if b else 0, o + part_skip
                fields = (
                    x_at,
                    places[0],
                    places[1],
                    places[2],
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
                    stream,
                    get(plan, "plan.ahead"),
                    plan + PARAMETER,
                )
                strip(fields, get(here, "strip.kind"), labels)
        scratch[0] = 0

    return kernel_grad


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_vectors(typingctx: Any, fields: Any, dtype: Any, lanes: Any) -> Any:
    """Store the sum of one vector of every part.

    Contract: fields = (first part, step from part to part, parts, target, count,
    whether the later parts become 0), the steps in bytes; lanes from `count` on are
    neither read nor written.
    """
    signature = types.void(fields, dtype, lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        simd = Simd(builder, sig.args[1].literal_value, sig.args[2].literal_value)
        source, step, parts, target, count, clear = (
            simd.integer(builder.extract_value(args[0], i)) for i in range(6)
        )
        mask = simd.mask(count)
        total = simd.variable(simd.load(source, mask))
        with simd.loop(simd.integer(1), parts) as part:
            vec = simd.load(source + part * step, mask)
            total.set(total.get(builder) + vec)
            with simd.when(clear.compare("!=", 0)):
                simd.store(simd.vec(0.0), source + part * step, mask)
        simd.store(total.get(builder), target, mask)
        return context.get_dummy_value()

    return signature, codegen


def make_add_parts(tiles: list[Tile]) -> Callable[..., None]:
    """Build `add_parts`: items are vectors of the result."""
    dtype, lanes = tiles[0].dtype, tiles[0].lanes
    itemsize = BYTES[dtype]
    pitch = lanes * itemsize

    def add_parts(
        x: int, w: int, b: int, o: int, g: int, plan: int, first: int, last: int
    ) -> None:
        step, parts = get(plan, "plan.part"), get(plan, "plan.splits")
        clear = get(plan, "plan.clear")
        for item in range(first, last):
            skip = item * pitch
            count = min(lanes, (get(plan, "plan.length") - skip) // itemsize)
            fields = x + skip, step, parts, o + skip, count, clear
            add_vectors(fields, dtype, lanes)

    return add_parts
