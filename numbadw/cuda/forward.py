"""Thread bodies of the forward pass; with strides of 1 also of the input gradient.

    lanes of x, rows of y, images of z:       one thread = th x tw outputs, v channels
      sums = convtile(...)                    every input row of the tile once
      finish(sums)                            bias, activation, store

Neighbouring threads take neighbouring channel vectors (or columns, channels first), so
that their accesses join.  A flipped kernel is one with negative strides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32, int64

from numbadw.cuda import rows, tiles
from numbadw.cuda.emit import ITEMSIZE, Target
from numbadw.cuda.spec import Spec


def make_forward_tile(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the body of a kernel whose size and strides are built in."""
    convtile = tiles.make_convtile(target, spec)
    finish = tiles.make_finish(target, spec)
    udiv, place = rows.make_udiv(target), rows.make_place(target)
    V, TH, TW, SH, SW = spec.v, spec.th, spec.tw, spec.sh, spec.sw
    FIRST, SAME, ITEM = spec.first, spec.v == spec.vx > 1, ITEMSIZE[spec.kind]

    def body(x, w, b, o, g, part, p, slope):  # type: ignore
        lane, row, image = place()
        high = udiv(lane, p.fast)
        low = int32(lane - int32(high * p.fast))
        if high >= p.slow:
            return
        strip = low if FIRST else high
        c = int32((high if FIRST else low) * V)
        xc = c if SAME else udiv(c, p.m)
        ow, oh = int32(strip * TW), int32((row + p.y0) * TH)
        sums = convtile(
            x + image * p.x_image + xc * p.x_channel,
            p.x_row,
            p.x_column,
            w + c * p.w_channel,
            p.w_row,
            p.w_column,
            int32(int32(oh * SH) - p.pt),
            int32(int32(ow * SW) - p.pl),
            p.h,
            p.w,
        )
        finish(
            sums,
            b + int64(c * ITEM) if b != 0 else b,
            o + image * p.o_image + c * p.o_channel + oh * p.o_row,
            p.o_row,
            p.o_column,
            int32(p.oh - oh),
            ow,
            p.ow,
            slope,
            g + image * p.g_image + c * p.g_channel + oh * p.g_row,
            p.g_row,
            p.g_column,
        )

    return body


def make_forward_any(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the body for any kernel size, stride, dilation and multiplier.

    One output row of tw columns; the taps are loops, the weights come from the cache.
    """
    tap = tiles.make_tap(target, spec)
    finish = tiles.make_finish(target, spec)
    udiv, place = rows.make_udiv(target), rows.make_place(target)
    zeros = rows.make_zeros(target, spec.kind, spec.tw * spec.v)
    add = rows.make_add(target, spec.kind, spec.tw * spec.v)
    V, TW, FIRST, ITEM = spec.v, spec.tw, spec.first, ITEMSIZE[spec.kind]

    def body(x, w, b, o, g, part, p, slope):  # type: ignore
        lane, row, image = place()
        high = udiv(lane, p.fast)
        low = int32(lane - int32(high * p.fast))
        if high >= p.slow:
            return
        ow = int32((low if FIRST else high) * TW)
        c = int32((high if FIRST else low) * V)
        oh = int32(row + p.y0)
        base = x + image * p.x_image + udiv(c, p.m) * p.x_channel
        iw = int32(int32(ow * p.sw) - p.pl)
        ih = int32(int32(oh * p.sh) - p.pt)
        weights = w + c * p.w_channel
        sums = zeros()
        for _ in range(p.kh):
            if 0 <= ih < p.h:
                at, line, column = weights, base + ih * p.x_row, iw
                # A kernel row by itself: one long sum of many taps would drift.
                own = zeros()
                for _ in range(p.kw):
                    own = tap(own, line, p.x_column, column, p.sw, p.w, at)
                    at += p.w_column
                    column = int32(column + p.dw)
                sums = add(sums, own)
            ih = int32(ih + p.dh)
            weights += p.w_row
        finish(
            sums,
            b + int64(c * ITEM) if b != 0 else b,
            o + image * p.o_image + c * p.o_channel + oh * p.o_row,
            p.o_row,
            p.o_column,
            int32(1),
            ow,
            p.ow,
            slope,
            g + image * p.g_image + c * p.g_channel + oh * p.g_row,
            p.g_row,
            p.g_column,
        )

    return body
