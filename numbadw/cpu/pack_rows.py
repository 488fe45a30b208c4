"""Copies of the flat feed: rows whose columns a stride apart become neighbours.

A packed row holds one segment per column phase: columns p, p + stride, ...  Where rows
are dense and the CPU can put the lanes of a vector in any order, vectors of a segment
are picked from the few that they lie scattered over; what lies where repeats after a
whole number of pixels, so the orders are a table (plan_flat.py):

    for column phase, vector until the orders repeat:   # one order: registers
        for row:
            for every such vector of the segment:
                for vector it is scattered over:        # unrolled, if 2 to 4
                    load, permute, blend
                store

The rows of one channel with a stride of 2 are halved in one pass.  Everything else goes
element by element.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numbadw import jit
from numbadw.cpu.pack import copy_element
from numbadw.cpu.records import entry, get, index
from numbadw.cpu.simd import BYTES, I32, Int, Simd, Vec

ORDER = 8 * index("pick.order")
# Vectors that the lanes of one are scattered over where the stride is 2 or 3.
USUAL = (2, 3, 4)


@jit.helper
def pack_rows(x, plan, kh, low, high, target, dtype, width, itemsize):  # type: ignore[no-untyped-def]
    """Copy input rows, and of these the phases, that any tap reads.

    Of single channels with stride 2 both phases.
    """
    stride, step = get(plan, "plan.sh"), get(plan, "plan.x_row")
    together = max(1, high - low) if kh >= stride else 1
    for row in range(low, high, together):
        if row % stride >= kh:
            continue
        source, start = x + row * get(plan, "plan.x_h"), target + (row - low) * step
        if get(plan, "plan.picks"):
            _pick_rows(source, plan, start, together, dtype, width, itemsize)
        else:
            for i in range(together):
                here = source + i * get(plan, "plan.x_h")
                _copy_row(here, plan, start + i * step, dtype, itemsize)


@jit.helper
def _pick_rows(source, plan, start, rows, dtype, width, itemsize):  # type: ignore[no-untyped-def]
    """Copy so many dense rows by whole vectors."""
    columns, channels = get(plan, "plan.w"), get(plan, "plan.c")
    stride, segment = get(plan, "plan.sw"), get(plan, "plan.segment")
    s_row, t_row = get(plan, "plan.x_h"), get(plan, "plan.x_row")
    period = get(plan, "plan.picks")
    if channels == 1 and stride == 2:
        for _ in range(rows):
            halve((source, start, start + segment, columns), dtype, width)
            source += s_row
            start += t_row
        return
    t_step = period * width * itemsize
    for phase in range(stride):
        if not get(plan, "plan.phases") >> phase & 1:
            continue
        elements = (columns - phase + stride - 1) // stride * channels
        vectors = (elements + width - 1) // width
        for turn in range(min(period, vectors)):
            here = entry(plan, "plan.picks_at", "pick", turn)
            first = phase * channels * itemsize + get(here, "pick.start")
            fields = (
                source + first,
                start + phase * segment + turn * width * itemsize,
                t_step * stride,
                t_step,
                (vectors - turn + period - 1) // period,
                rows,
                s_row,
                t_row,
                (columns * channels * itemsize - first) // 4,
                get(here, "pick.sources"),
                here + ORDER,
            )
            pick(fields, dtype, width)


@jit.helper
def _copy_row(source, plan, start, dtype, itemsize):  # type: ignore[no-untyped-def]
    """Copy one row element by element."""
    stride, channels = get(plan, "plan.sw"), get(plan, "plan.c")
    for phase in range(stride):
        if not get(plan, "plan.phases") >> phase & 1:
            continue
        at = start + phase * get(plan, "plan.segment")
        for column in range(phase, get(plan, "plan.w"), stride):
            pixel = source + column * get(plan, "plan.x_w")
            for c in range(channels):
                copy_element(pixel + c * get(plan, "plan.x_c"), at, dtype)
                at += itemsize


@jit.helper
def unpack_rows(source, plan, begin, end, o, dtype, itemsize):  # type: ignore[no-untyped-def]
    """Copy dense rows of results to wherever the caller's array has them."""
    columns, channels = get(plan, "plan.ow"), get(plan, "plan.period")
    for row in range(begin, end):
        at = source + (row - begin) * get(plan, "plan.o_row")
        start = o + row * get(plan, "plan.o_h")
        for column in range(columns):
            pixel = start + column * get(plan, "plan.o_w")
            for c in range(channels):
                copy_element(at, pixel + c * get(plan, "plan.o_c"), dtype)
                at += itemsize


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pick(typingctx: Any, fields: Any, dtype: Any, lanes: Any) -> Any:
    """Store vectors whose lanes lie scattered over a few neighbouring ones, all alike.

    Contract: fields = (source, target, bytes from one vector's source to the next's,
    and from target to target, vectors of a row, rows, bytes from one row's source to
    the next's, and from target to target, 4-byte parts left of a row from the source
    on, vectors that one is scattered over, address of their order), the last two those
    of a `pick` record; of a row no more parts are read than are left.
    """
    signature = types.void(fields, dtype, lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        size = sig.args[2].literal_value * BYTES[sig.args[1].literal_value]
        simd = Simd(builder, "f32", size // BYTES["f32"])
        if jit.target().permutes:
            _Pick(simd, *(builder.extract_value(args[0], i) for i in range(11))).emit()
        return context.get_dummy_value()

    return signature, codegen


class _Pick:
    """The loops of `pick`."""

    def __init__(self, simd: Simd, *fields: Any) -> None:
        self.simd = simd
        integers = map(simd.integer, fields)
        self.source, self.target, self.s_step, self.t_step, *others = integers
        self.count, self.rows, self.s_row, self.t_row, *rest = others
        self.left, self.many, order = rest
        self.kind = ir.VectorType(I32, simd.lanes)
        at = simd.builder.inttoptr(order.value, ir.PointerType())
        self.places = simd.builder.load(at, typ=self.kind, align=8)

    def emit(self) -> None:
        """Emit a loop for each usual number of vectors, and one for all that is left.

        That one knows no number, and masks what it loads.
        """
        simd, zero = self.simd, self.simd.integer(0)
        room = self.left - self.many * simd.lanes
        fit = room.maximum(0).divided(self.s_step.divided(4)) + 1
        whole = fit.minimum(self.count)
        first = simd.variable(zero)
        for many in USUAL:
            right = self.many.compare("==", many)
            with simd.when(simd.builder.and_(right, room.compare(">=", 0))):
                numbers = [simd.integer(i) for i in range(many)]
                picks = [(i, self._here(i)) for i in numbers]
                with simd.loop(zero, self.rows) as row, simd.loop(zero, whole) as v:
                    result = simd.vec(0.0)
                    for i, here in picks:
                        result = simd.where(here, self._vector(row, v, i), result)
                    self._store(result, row, v)
                first.set(whole)
        start = first.get(simd.builder)
        with simd.loop(zero, self.rows) as row, simd.loop(start, self.count) as v:
            cell = simd.variable(simd.vec(0.0))
            left = self.left - v * self.s_step.divided(4)
            with simd.loop(zero, self.many) as number:
                mask = simd.mask((left - number * simd.lanes).maximum(0))
                vec = self._vector(row, v, number, mask)
                cell.set(simd.where(self._here(number), vec, cell.get(simd.builder)))
            self._store(cell.get(simd.builder), row, v)

    def _here(self, i: Int) -> Any:
        """Return the mask of the lanes that lie in vector `i`."""
        simd, builder = self.simd, self.simd.builder
        first = simd.splat(builder.trunc((i * simd.lanes).value, I32))
        lanes = ir.Constant(self.kind, [simd.lanes] * simd.lanes)
        return builder.icmp_unsigned("<", builder.sub(self.places, first), lanes)

    def _vector(self, row: Int, v: Int, i: Int, mask: Any = None) -> Vec:
        """Load vector `i` of those for one result, and put its lanes in order."""
        simd = self.simd
        at = self.source + row * self.s_row + v * self.s_step
        vec = simd.load(at + i * (simd.lanes * simd.itemsize), mask)
        name = "avx512.permvar.sf.512" if simd.lanes == 16 else "avx2.permps"
        # Places beyond a vector count from its start again.
        values = [vec.value, self.places]
        return Vec(simd, simd.call(f"llvm.x86.{name}", simd.kind, values))

    def _store(self, vec: Vec, row: Int, v: Int) -> None:
        self.simd.store(vec, self.target + row * self.t_row + v * self.t_step)


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
