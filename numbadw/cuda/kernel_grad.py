"""Kernels of the gradients at kernel and bias: sums in a fixed order.

    a thread    walks tiles (or columns of rows) and keeps the sums of all its taps
    a block     adds its threads' sums up in shared memory, in the order of threads
    the grid    leaves part[group][block][sum][column], a column being a lane of a block
    sum_parts   adds the groups up in order, tree-wise by eights

No atomics.  How many groups there are follows from the shapes alone, so every run on
every device gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32, int64

from numbadw.cuda import rows, tiles
from numbadw.cuda.emit import ITEMSIZE, Target
from numbadw.cuda.spec import Spec

# Columns of a kernel from which on most tiles of a 56-pixel row touch its padding.
WIDE_FROM = 9
PLACE = ("thread", "block", "row", "side")


def sum_count(spec: Spec) -> int:
    """Count the sums that a thread keeps."""
    if spec.family == "kernel_grad_tile":
        return (spec.kh * spec.kw + 1) * spec.v
    return spec.tw + 1


def is_wide(spec: Spec) -> bool:
    """Tell whether most tiles of small images lie at their sides."""
    return spec.kw > WIDE_FROM


def part_kind(spec: Spec) -> str:
    """Return the kind of the sums."""
    return "f64" if spec.kind == "f64" else "f32"


def _block_words(spec: Spec, target: Target) -> tuple[Any, ...]:
    """Make what a block needs to add its threads' sums up."""
    kind, count = part_kind(spec), sum_count(spec)
    return (
        rows.make_place(target, PLACE),
        rows.make_stash(target, kind, spec.threads, count),
        rows.make_barrier(target),
        rows.make_add_up(target, kind, spec.threads, spec.across, count),
    )


def make_kernel_grad_tile(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the body of a kernel whose size and strides are built in.

    A lane is a vector of output channels and as many rows of the kernel as are built
    in, all or one; the tiles of all images are dealt out to the workers, the threads of
    a lane in all groups, in turn.  Wide kernels have tiles at the image's sides, too:
    column by column would be most of their work.
    """
    corrtile = tiles.make_corrtile(target, spec, spec.tw, False)
    side_tile = tiles.make_corrtile(target, spec, spec.tw, True)
    edge = tiles.make_corrtile(target, spec, 1, True)
    place, stash, barrier, add_up = _block_words(spec, target)
    udiv = rows.make_udiv(target)
    zeros = rows.make_zeros(target, spec.kind, sum_count(spec))
    V, TH, TW, SH, SW = spec.v, spec.th, spec.tw, spec.sh, spec.sw
    SPAN, SAME = (spec.tw - 1) * spec.sw + spec.kw, spec.v == spec.vx > 1
    KH, WIDE = spec.kh, is_wide(spec)
    ACROSS, DOWN = spec.across, spec.threads // spec.across
    BYTES = sum_count(spec) * spec.across * ITEMSIZE[part_kind(spec)]

    def body(x, w, b, o, g, part, p, slope):  # type: ignore
        thread, block, group, side = place()
        if side <= 0:
            sums = zeros()
            down = udiv(thread, int32(ACROSS))
            column = int32(thread - int32(down * ACROSS))
            lane, vectors = int32(int32(block * ACROSS) + column), udiv(p.c, int32(V))
            ki = udiv(lane, vectors)
            c = int32(int32(lane - int32(ki * vectors)) * V)
            xc = c if SAME else udiv(c, p.m)
            tile = int32(int32(group * DOWN) + down)
            while tile < p.slow and int32(ki * KH) < p.kh:
                line = udiv(tile, p.fast)
                ow = int32(int32(tile - int32(line * p.fast)) * TW)
                bands = udiv(int32(p.oh + TH - 1), int32(TH))
                image = udiv(line, bands)
                oh = int32(int32(line - int32(image * bands)) * TH)
                ih, iw = int32(int32(oh * SH) - p.pt), int32(int32(ow * SW) - p.pl)
                ih = int32(ih + ki)
                base = x + image * p.x_image + xc * p.x_channel
                grad = g + image * p.g_image + c * p.g_channel
                grad += oh * p.g_row + ow * p.g_column
                rest = int32(p.oh - oh)
                if rest >= TH and ow + TW <= p.ow and iw >= 0 and iw + SPAN <= p.w:
                    sums = corrtile(
                        sums,
                        base,
                        p.x_row,
                        p.x_column,
                        grad,
                        p.g_row,
                        p.g_column,
                        ih,
                        iw,
                        p.h,
                        p.w,
                        rest,
                    )
                elif WIDE and ow + TW <= p.ow:
                    sums = side_tile(
                        sums,
                        base,
                        p.x_row,
                        p.x_column,
                        grad,
                        p.g_row,
                        p.g_column,
                        ih,
                        iw,
                        p.h,
                        p.w,
                        rest,
                    )
                else:
                    last = min(int32(ow + TW), p.ow)
                    while ow < last:
                        sums = edge(
                            sums,
                            base,
                            p.x_row,
                            p.x_column,
                            grad,
                            p.g_row,
                            p.g_column,
                            ih,
                            iw,
                            p.h,
                            p.w,
                            rest,
                        )
                        ow, iw = int32(ow + 1), int32(iw + SW)
                        grad += p.g_column
                tile = int32(tile + int32(p.groups * DOWN))
            stash(thread, sums)
        barrier()
        if side >= 0:
            add_up(thread, part + (int64(group) * p.blocks + block) * BYTES)

    return body


def make_kernel_grad_any(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the body for any size: tw taps of one kernel row and channel a lane.

    Rows are dealt out to the groups, their columns to a block's threads.
    """
    corrtaps = tiles.make_corrtaps(target, spec)
    place, stash, barrier, add_up = _block_words(spec, target)
    udiv = rows.make_udiv(target)
    zeros = rows.make_zeros(target, spec.kind, sum_count(spec))
    TW, ACROSS, DOWN = spec.tw, spec.across, spec.threads // spec.across
    BYTES = sum_count(spec) * spec.across * ITEMSIZE[part_kind(spec)]

    def body(x, w, b, o, g, part, p, slope):  # type: ignore
        thread, block, group, side = place()
        if side <= 0:
            sums = zeros()
            down = udiv(thread, int32(ACROSS))
            column = int32(thread - int32(down * ACROSS))
            lane = int32(int32(block * ACROSS) + column)
            piece = udiv(lane, p.c)
            c = int32(lane - int32(piece * p.c))
            ki = udiv(piece, p.fast)
            kj = int32(int32(piece - int32(ki * p.fast)) * TW)
            base = x + udiv(c, p.m) * p.x_channel
            grad = g + c * p.g_channel
            line = group
            while line < p.slow and ki < p.kh:
                image = udiv(line, p.oh)
                oh = int32(line - int32(image * p.oh))
                ih = int32(int32(int32(oh * p.sh) - p.pt) + int32(ki * p.dh))
                taps = int32(p.kw - kj) if 0 <= ih < p.h else int32(0)
                row = base + image * p.x_image + ih * p.x_row
                pixel = grad + image * p.g_image + oh * p.g_row
                ow = down
                while ow < p.ow:
                    iw = int32(int32(int32(ow * p.sw) - p.pl) + int32(kj * p.dw))
                    at = pixel + ow * p.g_column
                    sums = corrtaps(sums, row, p.x_column, iw, p.dw, p.w, at, taps)
                    ow = int32(ow + DOWN)
                line = int32(line + p.groups)
            stash(thread, sums)
        barrier()
        if side >= 0:
            add_up(thread, part + (int64(group) * p.blocks + block) * BYTES)

    return body


def make_sum_parts(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the body that adds the groups' sums up: one tap and channel a thread.

    The spec tells how the parts lie: `kh` is 0 behind `kernel_grad_any`, whose lanes
    are (kernel row, tw taps, channel), where `kernel_grad_tile`'s are (kh kernel rows,
    v channels).  The tap after the last is the bias's.
    """
    kind = spec.kind
    load, store = rows.make_load(target, kind, 1), rows.make_store(target, spec.okind)
    zeros = rows.make_zeros(target, kind, 1)
    udiv, place = rows.make_udiv(target), rows.make_place(target)
    SIZE, OUT = ITEMSIZE[kind], ITEMSIZE[spec.okind]
    TILE, V, TW, ACROSS = spec.kh > 0, spec.v, spec.tw, spec.across
    TAPS = spec.kh * spec.kw
    COUNT = (TAPS + 1) * spec.v if spec.kh else spec.tw + 1

    def body(x, w, b, o, g, part, p, slope):  # type: ignore
        lane, _, _ = place()
        tap = udiv(lane, p.c)
        c = int32(lane - int32(tap * p.c))
        taps = int32(p.kh * p.kw)
        if tap > taps:
            return
        if TILE:
            column, own = udiv(c, int32(V)), int32(TAPS)
            i = int32(c - int32(column * V))
            if tap < taps:
                piece = udiv(tap, int32(TAPS))
                own = int32(tap - int32(piece * TAPS))
                column = int32(column + int32(piece * udiv(p.c, int32(V))))
            i = int32(i + int32(own * V))
        else:
            ki = udiv(tap, p.kw)
            kj = int32(tap - int32(ki * p.kw))
            piece = udiv(kj, int32(TW))
            i = int32(kj - int32(piece * TW))
            column = int32(int32(int32(int32(ki * p.fast) + piece) * p.c) + c)
            if tap == taps:
                column, i = c, int32(TW)
        block = udiv(column, int32(ACROSS))
        column = int32(column - int32(block * ACROSS))
        item = int64(block) * (COUNT * ACROSS) + int32(int32(i * ACROSS) + column)
        at = part + item * SIZE
        step = int64(p.blocks) * (COUNT * ACROSS * SIZE)
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zeros()[0]
        for k in range(0, p.groups, 8):
            s0 += load(at, True)[0]
            s1 += load(at + step, k + 1 < p.groups)[0]
            s2 += load(at + 2 * step, k + 2 < p.groups)[0]
            s3 += load(at + 3 * step, k + 3 < p.groups)[0]
            s4 += load(at + 4 * step, k + 4 < p.groups)[0]
            s5 += load(at + 5 * step, k + 5 < p.groups)[0]
            s6 += load(at + 6 * step, k + 6 < p.groups)[0]
            s7 += load(at + 7 * step, k + 7 < p.groups)[0]
            at += 8 * step
        total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
        if tap < taps:
            if w != 0:
                store(w + lane * OUT, total)
        elif b != 0:
            store(b + c * OUT, total)

    return body
