"""Thread bodies of the input gradient where strides or the multiplier exceed 1.

Every pixel gathers the outputs that read it, so nothing is added twice and no order
depends on time.  Letters are the forward pass's: x (h, w) is what is written, o (oh,
ow) the gradient that is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32

from numbadw.cuda import rows, tiles
from numbadw.cuda.emit import Target
from numbadw.cuda.spec import Spec


def make_input_grad_tile(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the body of a kernel whose size and strides are built in, multiplier 1.

    One row of tw pixels; the tile begins at a pixel that tap 0 of an output reads.
    """
    gathertile = tiles.make_gathertile(target, spec)
    finish = tiles.make_finish(target, spec)
    udiv, place = rows.make_udiv(target), rows.make_place(target)
    V, TW, SW, FIRST = spec.v, spec.tw, spec.sw, spec.first
    STEP = spec.tw // spec.sw

    def body(x, w, b, o, g, part, p, slope):  # type: ignore
        lane, row, image = place()
        high = udiv(lane, p.fast)
        low = int32(lane - int32(high * p.fast))
        if high >= p.slow:
            return
        strip = low if FIRST else high
        c = int32((high if FIRST else low) * V)
        ih = int32(row + p.y0)
        skipped = udiv(p.pl, int32(SW))
        phase = int32(p.pl - int32(skipped * SW))
        iw = int32(int32(strip * TW) - phase)
        sums = gathertile(
            x + image * p.x_image + c * p.x_channel,
            p.x_row,
            p.x_column,
            w + c * p.w_channel,
            p.w_row,
            p.w_column,
            int32(ih + p.pt),
            int32(int32(strip * STEP) + skipped),
            p.oh,
            p.ow,
        )
        target_row = o + image * p.o_image + c * p.o_channel + ih * p.o_row
        finish(
            sums,
            b,
            target_row,
            p.o_row,
            p.o_column,
            int32(1),
            iw,
            p.w,
            slope,
            g,
            p.g_row,
            p.g_column,
        )

    return body


def make_input_grad_any(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the body for any kernel size, stride, dilation and multiplier."""
    tap = tiles.make_tap(target, spec)
    finish = tiles.make_finish(target, spec)
    udiv, place = rows.make_udiv(target), rows.make_place(target)
    zeros = rows.make_zeros(target, spec.kind, spec.v)
    add = rows.make_add(target, spec.kind, spec.v)
    V, FIRST = spec.v, spec.first

    def body(x, w, b, o, g, part, p, slope):  # type: ignore
        lane, row, image = place()
        high = udiv(lane, p.fast)
        low = int32(lane - int32(high * p.fast))
        if high >= p.slow:
            return
        iw = low if FIRST else high
        c = int32((high if FIRST else low) * V)
        ih = int32(row + p.y0)
        first = int32(c * p.m)
        base = x + image * p.x_image + first * p.x_channel
        weights = w + first * p.w_channel
        sums = zeros()
        up = int32(ih + p.pt)
        for _ in range(p.kh):
            oh = udiv(up, p.sh) if up >= 0 else int32(-1)
            if 0 <= oh < p.oh and int32(oh * p.sh) == up:
                left, at, own = int32(iw + p.pl), weights, zeros()
                for _ in range(p.kw):
                    ow = udiv(left, p.sw) if left >= 0 else int32(-1)
                    if 0 <= ow < p.ow and int32(ow * p.sw) == left:
                        line, tapped = base + oh * p.x_row, at
                        for _ in range(p.m):
                            own = tap(own, line, p.x_column, ow, int32(1), p.ow, tapped)
                            line += p.x_channel
                            tapped += p.w_channel
                    left = int32(left - p.dw)
                    at += p.w_column
                sums = add(sums, own)
            up = int32(up - p.dh)
            weights += p.w_row
        finish(
            sums,
            b,
            o + image * p.o_image + c * p.o_channel + ih * p.o_row,
            p.o_row,
            p.o_column,
            int32(1),
            iw,
            p.w,
            slope,
            g,
            p.g_row,
            p.g_column,
        )

    return body
