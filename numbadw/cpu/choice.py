"""The intrinsics that run a tile: integers in, and which of a driver's tiles it is.

    switch kind:                     # one case for each different tile
        case 0: tile 0 of the fields
        ...

The tiles of a driver differ in what decides their machine code, so each is a case of
its own; tiles that are the same are compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numbadw import jit
from numbadw.cpu.label import Tile
from numbadw.cpu.simd import I64, Int, Simd

Emit = Callable[[Simd, Tile, dict[str, Int]], None]


def join(tiles: Sequence[Tile]) -> str:
    """Write the labels of a driver's tiles in one literal, as intrinsics take it."""
    return " ".join(tile.label for tile in tiles)


def make_intrinsic(names: Sequence[str], emit: Emit) -> Any:
    """Make the intrinsic `f(fields, kind, labels)` of one family of tiles.

    Contract: `fields` are the integers that `names` name, `kind` counts the tiles of
    `labels` (see `join`), which are known at compile time; the last takes all above.
    To be kept in a global: compiled code that has an intrinsic in its closure is not
    found again on disk.
    """

    def run_tile(typingctx: Any, fields: Any, kind: Any, labels: Any) -> Any:
        signature = types.void(fields, types.int64, labels)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            tiles = [Tile.parse(label) for label in sig.args[2].literal_value.split()]
            fields = {
                name: Int(builder, builder.extract_value(args[0], i))
                for i, name in enumerate(names)
            }

            def one(tile: Tile) -> None:
                call_tile(builder, tile, fields, emit)

            _emit_switch(builder, args[1], tiles, one)
            return context.get_dummy_value()

        return signature, codegen

    return intrinsic(prefer_literal=True)(run_tile)


def call_tile(
    builder: Any, tile: Tile, fields: dict[str, Int], emit: Emit, part: str = "tile"
) -> None:
    """Emit a call of one tile's function, and at its first call the function.

    A function of its own has registers of its own: inlined into the driver's loops,
    their integers and those of the other tiles push its own out of them.  With vector
    registers enough for a whole tile its loops are few and LLVM inlines it: multiples
    of the steps are then made once for all work items (7x7: 3 to 12 % faster).  But
    others gain nothing by it, cost each other registers (7x7x960: 10 %) and take longer
    to compile.
    """
    name = f"{part}_{tile.label}"
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * len(fields))
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        alone = tile.turned or tile.form in ("block", "roll")
        if jit.target().registers < 32 or alone:
            function.attributes.add("noinline")
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        simd = Simd(inner, tile.dtype, tile.lanes)
        values = map(simd.integer, function.args)
        emit(simd, tile, dict(zip(fields, values, strict=True)))
        inner.ret_void()
    builder.call(function, [field.value for field in fields.values()])


def _emit_switch(
    builder: Any, kind: Any, tiles: Sequence[Tile], emit: Callable[[Tile], None]
) -> None:
    """Emit every different tile behind the numbers that choose it."""
    cases = {tile: builder.append_basic_block("tile") for tile in dict.fromkeys(tiles)}
    done = builder.append_basic_block("tile.done")
    switch = builder.switch(kind, cases[tiles[-1]])
    for number, tile in enumerate(tiles[:-1]):
        switch.add_case(number, cases[tile])
    for tile, block in cases.items():
        builder.position_at_end(block)
        emit(tile)
        builder.branch(done)
    builder.position_at_end(done)
