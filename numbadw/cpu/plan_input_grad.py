"""The planner of the input gradient: the way back through a convolution.

The gradient at the inputs is itself a convolution of the gradient at the outputs:

stride 1, one output a channel   -> the forward planner, kernel flipped: any feed
strides up to 3, small kernels   -> transposed tiles (transposed.py), direct feed
any other stride                 -> one forward tile for each phase of the outputs

With several outputs a channel the tiles compute as many lanes and sum neighbours.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from numbadw import jit
from numbadw.cpu import plan_forward, plan_tiles
from numbadw.cpu.label import ABSENT, MASKED, Tile, usual_tail
from numbadw.cpu.plan import (
    BLOCK_TAPS,
    CHAIN_TAPS,
    ROWS_COLUMNS,
    Plan,
    Table,
    split_back,
)
from numbadw.cpu.request import Request
from numbadw.cpu.transposed import rows_together
from numbadw.geometry import Geometry

# Strides beyond this leave a transposed tile too little to share.
MOST_STRIDE = 3


def make_request(
    g: Geometry,
    dtype: np.dtype[np.floating],
    g_strides: tuple[int, ...],
    x_strides: tuple[int, ...],
    large: bool = False,
    far: bool = False,
) -> Request:
    """Return the way back as a problem of its own: gradients in, gradients out."""
    common = (np.gcd(g.sh, g.dh), np.gcd(g.sw, g.dw))
    up = (g.sh // common[0], g.sw // common[1])
    small = g.kw <= ROWS_COLUMNS and g.kh * g.kw <= CHAIN_TAPS
    transposed = max(up) > 1 and max(up) <= MOST_STRIDE and small
    rows = split_back(g.h, g.oh, g.sh, g.dh, g.pt, g.kh, transposed)
    columns = split_back(g.w, g.ow, g.sw, g.dw, g.pl, g.kw, transposed)
    mirror = dataclasses.replace(
        g,
        h=g.oh,
        w=g.ow,
        c=g.out_channels,
        m=1,
        sh=1,
        sw=1,
        pt=(g.kh - 1) * g.dh - g.pt,
        pl=(g.kw - 1) * g.dw - g.pl,
        oh=g.h,
        ow=g.w,
    )
    axes = rows, columns
    given = mirror, dtype, g_strides, x_strides, "linear", 0.0, axes, g.m
    return Request(*given, large, far)


def takes_any_strides(g: Geometry) -> bool:
    """Tell whether the forward planner serves: stride 1, one output a channel."""
    return g.m == 1 and g.sh == g.sw == 1


def make_plan(r: Request, g: Geometry) -> Plan:
    """Plan the gradient at the inputs of a convolution of geometry `g`.

    Contract: in both arrays channels are neighbours, unless `takes_any_strides`.
    """
    if takes_any_strides(g):
        return plan_forward.make_plan(r)
    if r.rows.transposed:
        tiles = choose_transposed(r)
        strips = transposed_strips(r, tiles)
        together = rows_together(r.rows.stride)
        return plan_forward.plan_direct(r, tiles, strips, together)
    phases = r.rows.tap_step, r.columns.tap_step
    tiles = plan_tiles.choose_tiles(r, wide=phases != (-1, -1))
    return plan_forward.plan_direct(r, tiles)


def choose_transposed(r: Request) -> tuple[Tile, ...]:
    """Return the four transposed tiles (two widths, each without and with guards)."""
    g, many = r.g, jit.target().registers >= 32
    sh, sw = r.rows.stride, r.columns.stride
    block = g.kh * g.kw <= BLOCK_TAPS
    if block:
        room = ((21 if many else 8) // rows_together(sh)) // sw
        widths = max(1, room), max(1, room // 2)
    else:
        room = (14 if many else 8) // sw
        widths = room, max(1, room // 2)
    form, kh = ("tblock", g.kh) if block else ("trows", 0)
    shape = r.dtype, r.lanes, kh, g.kw, sh if block else 0, sw
    tail = usual_tail(jit.target().vector_bytes)
    if tail == MASKED and r.g.m == r.fold == 1 and r.channels >= r.lanes and block:
        tail = ABSENT
    return tuple(
        Tile(form, *shape, width * sw, 1, guarded, tail, "linear", plan_tiles.fold(r))
        for width in widths
        for guarded in (False, True)
    )


def transposed_strips(r: Request, tiles: tuple[Tile, ...]) -> Table:
    """Return the column strips of every phase, counted in groups of `sw` outputs."""
    axis, sw = r.columns, r.columns.stride
    groups = tiles[0].width // sw, tiles[2].width // sw
    reach = -(-r.g.kw // sw)
    table: Table = []
    for phase in axis.phases:
        count = -(-phase.outputs // sw)
        for first, index in plan_forward.place(r, count, groups):
            columns = min(groups[index] * sw, phase.outputs - first * sw)
            begin = max(0, phase.top - first * sw)
            span = groups[index] - 1 + reach
            low = min(max(phase.low - first, 0), span)
            high = max(low, min(phase.high - first, span))
            whole = columns == groups[index] * sw and not begin
            guarded = low > 0 or high < span or not whole
            table.append(
                (
                    2 * index + guarded,
                    (phase.start + first * axis.in_step) * r.x.w,
                    (phase.out + first * sw * axis.out_step) * r.o.w,
                    r.tap_offset(phase),
                    phase.taps,
                    low,
                    high,
                    begin,
                    columns,
                )
            )
    return table
