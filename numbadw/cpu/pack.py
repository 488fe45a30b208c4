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
from numbadw.cpu.simd import ELEMENTS, Simd, Vec


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
