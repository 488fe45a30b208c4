"""One forward problem as the planners see it: geometry, and where the bytes lie."""

from __future__ import annotations

import copy
import math
import struct
from typing import Any

import numpy as np

from numbadw import jit
from numbadw.cpu.caches import LINE, caches
from numbadw.cpu.plan import (
    Axis,
    Phase,
    Steps,
    Table,
    extent,
    row_blocks,
    split_axis,
)
from numbadw.cpu.records import EIGHTHS
from numbadw.geometry import Geometry

# Beyond half the last cache storing past it wins (1x224x224x64 3x3 on one core: 784 ->
# 598 us), up to a quarter it loses (4x112x112x32: 223 -> 284 us); and so does asking
# for rows ahead (batch 16 of 14x14x576 3x3 stride 2: 107 us without, 143 with).  Of
# results larger than their inputs a part does: two cores that share a way to memory
# store no faster past the caches than one (batch 16 of 56x56x144 stride 2, gradient at
# the inputs: 670 us all past them, 540 five eighths).
LARGE_SHARE = 2
# Work items a plan aims at, so that threads share them evenly; a fixed number, so
# that plans never depend on the number of threads.
ITEMS = 16


class Request:
    """One forward problem: geometry, element size, and where the bytes lie."""

    def __init__(
        self,
        geometry: Geometry,
        dtype: np.dtype[Any],
        x_strides: tuple[int, ...],
        o_strides: tuple[int, ...],
        activation: str,
        parameter: float,
        axes: tuple[Axis, Axis] | None = None,
        fold: int = 1,
        large: bool = False,
        far: bool = False,
    ) -> None:
        """Take the problem; `axes` and `fold` are those of an input gradient.

        `large` says that it is part of one whose inputs and results the caches do not
        hold, so that it stores past them; `far` that they do not hold its inputs.
        """
        g = geometry
        self.g = g
        itemsize = dtype.itemsize
        self.itemsize = itemsize
        self.dtype = "f32" if itemsize == 4 else "f64"
        self.lanes = jit.target().vector_bytes // itemsize
        self.activation = activation
        self.x = Steps.of(x_strides, g.channels_first)
        self.o = Steps.of(o_strides, g.channels_first)
        self.rows, self.columns = axes or (
            split_axis(g.h, g.oh, g.sh, g.dh, g.pt, g.kh),
            split_axis(g.w, g.ow, g.sw, g.dw, g.pl, g.kw),
        )
        self.channels = g.c * g.m
        self.w_col = self.channels * itemsize  # bytes of a kernel column, of a row
        self.w_row = g.kw * self.w_col
        self.fold = fold
        self.x_bytes = math.prod(g.input_shape) * itemsize
        self.moved = self.x_bytes + math.prod(g.output_shape) // fold * itemsize
        self.inside = large  # a larger problem's, which needs the caches itself
        self.large = large or self.moved > caches().last // LARGE_SHARE
        self.far = far or self.large
        o_low, o_high = extent(g.output_shape, o_strides, itemsize)
        x_low, x_high = extent(g.input_shape, x_strides, itemsize)
        (bits,) = struct.unpack("q", struct.pack("d", parameter))
        self.fields = {
            "o_low": o_low,
            "o_high": o_high,
            "x_low": x_low,
            "x_high": x_high,
            "w_bytes": g.kh * g.kw * self.channels * itemsize,
            "b_bytes": self.channels * itemsize,
            "x_n": self.x.n,
            "x_h": self.x.h * self.rows.in_step,
            "x_w": self.x.w,
            "x_c": self.x.c,
            "o_n": self.o.n,
            "o_h": self.o.h * self.rows.out_step,
            "o_w": self.o.w,
            "o_c": self.o.c,
            "w_row": self.rows.tap_step * self.w_row,
            "w_col": self.columns.tap_step * self.w_col,
            "sh": self.rows.stride,
            "w": g.w,
            "ow": g.ow,
            "c": g.c,
            "parameter": bits,
            "dtype": id(np.dtype(dtype.type)),  # the one that never dies
        }
        self.sizes: Table = [g.input_shape, x_strides, g.output_shape, o_strides]

    def dense(self, steps: Steps, channels: int) -> bool:
        """Tell whether pixels and channels follow each other without a gap."""
        near = channels == 1 or steps.c == self.itemsize
        return near and steps.w == channels * self.itemsize

    def streams(self, *steps: int) -> int:
        """Return how many eighths to store past the caches: too large for them.

        `steps` are the bytes between vectors of the result, in every direction; they
        must be whole lines.  Of a result larger than its inputs, and than anything else
        of the call, so much stays as half the last cache holds beside the inputs; feeds
        other than the direct one store all past the caches.
        """
        if not self.large or any(step % LINE for step in steps):
            return 0
        results = self.moved - self.x_bytes
        if self.inside or results <= self.x_bytes:
            return EIGHTHS
        beyond = self.moved - caches().last // LARGE_SHARE
        return max(1, min(EIGHTHS, -(-EIGHTHS * beyond // results)))

    def row_table(self, blocks: int, multiple: int = 1) -> Table:
        """Return the row blocks of every phase, about `blocks` in all."""
        table: Table = []
        each = -(-blocks // max(1, len(self.rows.phases)))
        for phase in self.rows.phases:
            for first, last in row_blocks(phase.outputs, each, multiple):
                table.append(
                    (
                        phase.start * self.x.h,
                        phase.out * self.o.h,
                        phase.tap * self.w_row,
                        phase.taps,
                        phase.low,
                        phase.high,
                        first,
                        last,
                        max(first, phase.top),
                        0,
                    )
                )
        return table

    def tap_offset(self, phase: Phase) -> int:
        """Return the bytes from a kernel row's start to a column phase's first tap."""
        return phase.tap * self.w_col

    def turned(self) -> Request:
        """Return the same problem with its rows as columns, as swaths see it."""
        turned = copy.copy(self)
        turned.rows, turned.columns = self.columns, self.rows
        turned.w_row, turned.w_col = self.w_col, self.w_row
        turned.x = self.x._replace(h=self.x.w, w=self.x.h)
        turned.o = self.o._replace(h=self.o.w, w=self.o.h)
        turned.fields = self.fields | {
            "x_h": turned.x.h * turned.rows.in_step,
            "x_w": turned.x.w,
            "o_h": turned.o.h * turned.rows.out_step,
            "o_w": turned.o.w,
            "w_row": turned.rows.tap_step * turned.w_row,
            "w_col": turned.columns.tap_step * turned.w_col,
            "sh": turned.rows.stride,
        }
        return turned
