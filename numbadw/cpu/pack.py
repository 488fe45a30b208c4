"""Copies between the user's layout and the tile's: blocks of pixels by channels.

The packed feed gives the tile rows whose channels are neighbours, whatever strides the
array has.  Where pixels are neighbours instead (channels first), blocks of lanes by
lanes are transposed in registers:

    for run in rows (one run where the rows follow each other without a gap):
        for block of `lanes` pixels:
            load one vector a channel, transpose, store one vector a pixel

Source: the butterfly transpose of Eklundh, "A Fast Computer Method for Matrix
Transposing", IEEE Transactions on Computers C-21(7), 1972.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numbadw import jit
from numbadw.cpu.simd import ELEMENTS, I32, Int, Simd, Vec


def emit_transpose(simd: Simd, rows: list[Vec]) -> list[Vec]:
    """Return the transpose of `lanes` vectors: one exchange a bit of the lane index."""
    lanes, rows = simd.lanes, list(rows)
    distance = 1
    while distance < lanes:
        upper = [i - distance + lanes if i & distance else i for i in range(lanes)]
        lower = [i + lanes if i & distance else i + distance for i in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                a, b = rows[i], rows[i | distance]
                rows[i] = simd.shuffle(a, b, upper)
                rows[i | distance] = simd.shuffle(a, b, lower)
        distance *= 2
    return rows


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def transpose(typingctx: Any, fields: Any, dtype: Any, lanes: Any) -> Any:
    """Turn `many` vectors of `length` elements into `length` vectors of `many`.

    Contract: fields = (source, source step, many, target, target step, length), steps
    in bytes, many and length at most `lanes`; nothing outside them is touched.
    """
    signature = types.void(fields, dtype, lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        simd = Simd(builder, sig.args[1].literal_value, sig.args[2].literal_value)
        source, s_step, many, target, t_step, length = (
            simd.integer(builder.extract_value(args[0], i)) for i in range(6)
        )
        lanes = simd.lanes
        whole = builder.and_(many.compare("==", lanes), length.compare("==", lanes))
        with builder.if_else(whole) as (full, partial):
            with full:
                loaded = [simd.load(source + i * s_step) for i in range(lanes)]
                for j, row in enumerate(emit_transpose(simd, loaded)):
                    simd.store(row, target + j * t_step)
            with partial:
                inside, beside = simd.mask(length), simd.mask(many)
                cells = [simd.variable(simd.vec(0.0)) for _ in range(lanes)]
                for i, cell in enumerate(cells):
                    with simd.when(many.compare(">", i)):
                        cell.set(simd.load(source + i * s_step, inside))
                loaded = [cell.get(builder) for cell in cells]
                for j, row in enumerate(emit_transpose(simd, loaded)):
                    with simd.when(length.compare(">", j)):
                        simd.store(row, target + j * t_step, beside)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def copy_rows(typingctx: Any, fields: Any, dtype: Any, lanes: Any) -> Any:
    """Copy `many` vectors of `length` elements, at most `lanes`, as they are.

    Contract: fields = (source, source step, many, target, target step, length), steps
    in bytes; nothing outside them is touched.
    """
    signature = types.void(fields, dtype, lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        simd = Simd(builder, sig.args[1].literal_value, sig.args[2].literal_value)
        source, s_step, many, target, t_step, length = (
            simd.integer(builder.extract_value(args[0], i)) for i in range(6)
        )
        inside = simd.mask(length)
        with builder.if_else(length.compare("==", simd.lanes)) as (full, partial):
            for branch, mask in ((full, None), (partial, inside)):
                with branch, simd.loop(simd.integer(0), many) as i:
                    vec = simd.load(source + i * s_step, mask)
                    simd.store(vec, target + i * t_step, mask)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def copy_element(typingctx: Any, source: Any, target: Any, dtype: Any) -> Any:
    """Copy one element from address to address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ELEMENTS[sig.args[2].literal_value]
        pointers = [builder.inttoptr(a, ir.PointerType()) for a in args[:2]]
        value = builder.load(pointers[0], typ=kind, align=1)
        builder.store(value, pointers[1], align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, dtype), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_element(typingctx: Any, source: Any, target: Any, dtype: Any) -> Any:
    """Add one element to another, by address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ELEMENTS[sig.args[2].literal_value]
        pointers = [builder.inttoptr(a, ir.PointerType()) for a in args[:2]]
        one, other = (builder.load(p, typ=kind, align=1) for p in pointers)
        builder.store(builder.fadd(other, one), pointers[1], align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, dtype), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def compress(typingctx: Any, fields: Any, dtype: Any, lanes: Any) -> Any:
    """Store the lanes that a bit mask picks side by side.

    Contract: fields = (source, target, mask bits, count, address of the order), the
    order that of a `pick` record; lanes from `count` on are not read; a whole vector is
    written at the target.
    """
    signature = types.void(fields, dtype, lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        simd = Simd(builder, sig.args[1].literal_value, sig.args[2].literal_value)
        source, target, picks, count, order = (
            simd.integer(builder.extract_value(args[0], i)) for i in range(5)
        )
        inside = simd.mask(count)
        vec = simd.load(source, inside)
        if simd.lanes * simd.itemsize == 32 and jit.target().permutes:
            packed = _permute(simd, vec, order)
        else:
            packed = _compress(simd, vec, picks, inside)
        simd.store(Vec(simd, builder.bitcast(packed, simd.kind)), target)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def halve(typingctx: Any, fields: Any, dtype: Any, lanes: Any) -> Any:
    """Store every second element of a row at one place, and the others at another.

    Contract: fields = (source, target, other target, elements); whole vectors are
    written at both.
    """
    signature = types.void(fields, dtype, lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        simd = Simd(builder, sig.args[1].literal_value, sig.args[2].literal_value)
        source, even, odd, count = (
            simd.integer(builder.extract_value(args[0], i)) for i in range(4)
        )
        lanes, itemsize = simd.lanes, simd.itemsize

        def pair(at: Int, left: Int | None = None) -> None:
            masks = [None, None]
            if left is not None:
                masks = [simd.mask((left - v * lanes).maximum(0)) for v in range(2)]
            start = source + at * itemsize
            here, there = (
                simd.load(start + v * lanes * itemsize, masks[v]) for v in range(2)
            )
            for first, target in enumerate((even, odd)):
                pattern = range(first, 2 * lanes, 2)
                half = simd.shuffle(here, there, pattern)
                simd.store(half, target + at * (itemsize // 2))

        whole = count.divided(2 * lanes) * (2 * lanes)
        with simd.loop(simd.integer(0), whole, 2 * lanes) as at:
            pair(at)
        with simd.when(whole.compare("<", count)):
            pair(whole, count - whole)
        return context.get_dummy_value()

    return signature, codegen


def _permute(simd: Simd, vec: Vec, order: Int) -> Any:
    """Return the 4-byte parts of a vector in the order that lies at an address."""
    eight = ir.VectorType(ELEMENTS["f32"], 8)
    at = simd.builder.inttoptr(order.value, ir.PointerType())
    parts = simd.builder.load(at, typ=ir.VectorType(I32, 8), align=8)
    arguments = [simd.builder.bitcast(vec.value, eight), parts]
    return simd.call("llvm.x86.avx2.permps", eight, arguments)


def _compress(simd: Simd, vec: Vec, picks: Int, inside: Any) -> Any:
    """Return the lanes of a vector that are inside and in a bit mask."""
    builder = simd.builder
    narrow = builder.trunc(picks.value, ir.IntType(simd.lanes))
    picked = builder.and_(builder.bitcast(narrow, inside.type), inside)
    # As integers: LLVM ends the process over a compress of floats that it has
    # to expand, which it must on every CPU but those with AVX-512.
    bits = 8 * simd.itemsize
    kind = ir.VectorType(ir.IntType(bits), simd.lanes)
    name = f"llvm.experimental.vector.compress.v{simd.lanes}i{bits}"
    none = ir.Constant(kind, [0] * simd.lanes)
    return simd.call(name, kind, [builder.bitcast(vec.value, kind), picked, none])


@jit.helper
def pack_block(source, steps, target, pitch, sizes, dtype, lanes, itemsize):  # type: ignore[no-untyped-def]
    """Copy (rows, pixels, channels) to a dense block of pixels by channels.

    Contract: steps = bytes per (row, pixel, channel) of the source, `pitch` bytes from
    one target pixel to the next, channels at most `lanes`.
    """
    row_step, pixel_step, channel_step = steps
    rows, pixels, channels = sizes
    if row_step == pixels * pixel_step:
        pixels, rows = rows * pixels, 1
    for row in range(rows):
        start = source + row * row_step
        if pixel_step == itemsize:
            for p in range(0, pixels, lanes):
                count = min(lanes, pixels - p)
                transpose(
                    (
                        start + p * itemsize,
                        channel_step,
                        channels,
                        target + p * pitch,
                        pitch,
                        count,
                    ),
                    dtype,
                    lanes,
                )
        elif channel_step == itemsize:
            fields = (start, pixel_step, pixels, target, pitch, channels)
            copy_rows(fields, dtype, lanes)
        else:
            for p in range(pixels):
                for c in range(channels):
                    copy_element(
                        start + p * pixel_step + c * channel_step,
                        target + p * pitch + c * itemsize,
                        dtype,
                    )
        target += pixels * pitch


@jit.helper
def unpack_block(source, pitch, target, steps, sizes, dtype, lanes, itemsize):  # type: ignore[no-untyped-def]
    """Copy a dense block of pixels by channels to (rows, pixels, channels)."""
    row_step, pixel_step, channel_step = steps
    rows, pixels, channels = sizes
    if row_step == pixels * pixel_step:
        pixels, rows = rows * pixels, 1
    for row in range(rows):
        start = target + row * row_step
        if pixel_step == itemsize:
            for p in range(0, pixels, lanes):
                count = min(lanes, pixels - p)
                transpose(
                    (
                        source + p * pitch,
                        pitch,
                        count,
                        start + p * itemsize,
                        channel_step,
                        channels,
                    ),
                    dtype,
                    lanes,
                )
        else:
            for p in range(pixels):
                for c in range(channels):
                    copy_element(
                        source + p * pitch + c * itemsize,
                        start + p * pixel_step + c * channel_step,
                        dtype,
                    )
        source += pixels * pitch
