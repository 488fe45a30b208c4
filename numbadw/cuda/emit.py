"""Scalar LLVM code for one element kind: loads, rows, loops, multiply-adds.

Addresses are int64, strides are int64 bytes, sizes and positions int32.  A row is a
flat list of scalars, column by column, `v` channels each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types

I1, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
# Bytes of the widest access.
WIDEST = 16
ITEMSIZE = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2}


class Target(NamedTuple):
    """Which compiler the words are for.

    `cc` is the compute capability times ten.  `scene` is the address of what stands for
    the hardware on the CPU, where one thread runs after the other: the int32 numbers
    of `SCENE`, then a block's shared memory from byte `SHARED_AT` on.
    """

    intrinsic: Callable[..., Any]
    cuda: bool
    cc: int = 0
    scene: int = 0


# What a thread can ask: its lane and place in the grid, its number in the block, the
# block's own, and on which side of the barrier it runs (0: both, as on a GPU).
SCENE = ("lane", "row", "image", "thread", "block", "side")
SHARED_AT = 64
SREG = "llvm.nvvm.read.ptx.sreg."


def cpu_target(scene: int) -> Target:
    """Return the target that runs thread bodies on the CPU."""
    from numba.extending import intrinsic

    return Target(intrinsic, False, scene=scene)


def cuda_target(cc: int) -> Target:
    """Return the target of a compute capability such as 90."""
    from numba.cuda.extending import intrinsic

    return Target(intrinsic, True, cc)


def sum_type(kind: str) -> Any:
    """Return Numba's type of the sums over elements of a kind."""
    return types.float64 if kind == "f64" else types.float32


class Code:
    """Emit scalar code for one element kind of one target."""

    def __init__(self, builder: Any, target: Target, double: bool) -> None:
        self.builder = builder
        self.target = target
        self.type = ir.DoubleType() if double else ir.FloatType()
        self.zero = ir.Constant(self.type, 0.0)

    def call(self, name: str, result: Any, *args: Any) -> Any:
        """Call an external function or LLVM intrinsic by name."""
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [arg.type for arg in args])
            function = ir.Function(module, kind, name)
        return self.builder.call(function, args)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, fused on the GPU."""
        # fmuladd, where a CPU without the instruction would call libm for fma.
        word = "fma" if self.target.cuda else "fmuladd"
        suffix = "f64" if self.type == ir.DoubleType() else "f32"
        return self.call(f"llvm.{word}.{suffix}", self.type, a, b, c)

    def cell(self, value: Any = None) -> Any:
        """Make a variable that LLVM turns into a register, 0 at first."""
        value = self.zero if value is None else value
        with self.builder.goto_entry_block():
            place = self.builder.alloca(value.type)
        self.builder.store(value, place)
        return place

    def offset(self, address: Any, index: Any, step: Any) -> Any:
        """Return address + index * step, where index is an int32."""
        wide = self.builder.sext(index, I64)
        return self.builder.add(address, self.builder.mul(wide, step))

    def within(self, index: Any, limit: Any) -> Any:
        """Tell whether 0 <= index < limit."""
        return self.builder.icmp_unsigned("<", index, limit)

    def plus(self, index: Any, more: int) -> Any:
        """Add a constant to an int32."""
        return self.builder.add(index, I32(more)) if more else index

    @contextmanager
    def loop(self, count: int) -> Iterator[Any]:
        """Emit a loop of `count` turns that stays a loop; yields the int32 index."""
        builder = self.builder
        index = self.cell(I32(0))
        body = builder.append_basic_block("turn")
        done = builder.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        at = builder.load(index)
        yield at
        following = builder.add(at, I32(1))
        builder.store(following, index)
        more = builder.icmp_signed("<", following, I32(count))
        branch = builder.cbranch(more, body, done)
        module = builder.module
        keep = module.add_metadata(["llvm.loop.unroll.disable"])
        branch.set_metadata("llvm.loop", _distinct(module, keep))
        builder.position_at_end(done)

    def load(self, address: Any, kind: str, n: int) -> list[Any]:
        """Load n neighbours that are aligned as a whole, widened to the sums' type."""
        values: list[Any] = []
        most = WIDEST // ITEMSIZE[kind]
        for first in range(0, n, most):
            at = self.builder.add(address, I64(first * ITEMSIZE[kind]))
            values += self._load(at if first else address, kind, min(most, n - first))
        return values

    def _load(self, address: Any, kind: str, n: int) -> list[Any]:
        # Vectors of 16-bit elements would be taken apart: they travel as 32-bit words.
        pairs = ITEMSIZE[kind] == 2 and n > 1
        word, count = (I32, n // 2) if pairs else (self._memory(kind), n)
        loaded = self.builder.load(
            self._pointer(address, word, count), align=n * ITEMSIZE[kind]
        )
        loaded.set_metadata("invariant.load", self.builder.module.add_metadata([]))
        values = self._split(loaded, count)
        if pairs:
            return [half for value in values for half in self._halves(value, kind)]
        return [self._widen(value, kind) for value in values]

    def _halves(self, word: Any, kind: str) -> tuple[Any, Any]:
        """Widen both elements of a 32-bit word."""
        builder = self.builder
        if kind == "bf16":
            low, high = builder.shl(word, I32(16)), builder.and_(word, I32(0xFFFF0000))
            return builder.bitcast(low, self.type), builder.bitcast(high, self.type)
        parts = (
            builder.trunc(word, I16),
            builder.trunc(builder.lshr(word, I32(16)), I16),
        )
        low, high = (
            builder.fpext(builder.bitcast(part, ir.HalfType()), self.type)
            for part in parts
        )
        return low, high

    def store(self, address: Any, kind: str, values: Sequence[Any]) -> None:
        """Store neighbours, rounded to the kind."""
        most = WIDEST // ITEMSIZE[kind]
        for first in range(0, len(values), most):
            at = self.builder.add(address, I64(first * ITEMSIZE[kind]))
            piece = self._narrow(values[first : first + most], kind)
            pointer = self._pointer(at if first else address, piece.type, 1)
            size = len(values[first : first + most]) * ITEMSIZE[kind]
            self.builder.store(piece, pointer, align=size)

    def _memory(self, kind: str) -> Any:
        kinds = {"f32": ir.FloatType(), "f64": ir.DoubleType(), "f16": ir.HalfType()}
        return kinds.get(kind, I16)

    def _pointer(self, address: Any, word: Any, n: int) -> Any:
        whole = ir.VectorType(word, n) if n > 1 else word
        space = 1 if self.target.cuda else 0
        return self.builder.inttoptr(address, whole.as_pointer(space))

    def _split(self, value: Any, n: int) -> list[Any]:
        if n == 1:
            return [value]
        return [self.builder.extract_element(value, I32(i)) for i in range(n)]

    def _join(self, values: Sequence[Any]) -> Any:
        if len(values) == 1:
            return values[0]
        whole = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
        for i, value in enumerate(values):
            whole = self.builder.insert_element(whole, value, I32(i))
        return whole

    def _widen(self, value: Any, kind: str) -> Any:
        if kind == "f16":
            return self.builder.fpext(value, self.type)
        if kind == "bf16":
            bits = self.builder.shl(self.builder.zext(value, I32), I32(16))
            return self.builder.bitcast(bits, self.type)
        return value

    def _narrow(self, values: Sequence[Any], kind: str) -> Any:
        builder = self.builder
        if kind == "f16":
            half = ir.HalfType()
            return self._join([builder.fptrunc(value, half) for value in values])
        if kind != "bf16":
            return self._join(values)
        if len(values) % 2:
            return self._join([self._bf16(value) for value in values])
        pairs = zip(values[::2], values[1::2], strict=True)
        return self._join([self._bf16_pair(low, high) for low, high in pairs])

    def _bf16_pair(self, low: Any, high: Any) -> Any:
        """Round two numbers into one 32-bit word."""
        if self.target.cc < 80:
            upper = self.builder.zext(self._bf16(high), I32)
            lower = self.builder.zext(self._bf16(low), I32)
            return self.builder.or_(lower, self.builder.shl(upper, I32(16)))
        kind = ir.FunctionType(I32, [self.type, self.type])
        text = "cvt.rn.bf16x2.f32 $0, $1, $2;"
        return self.builder.asm(kind, text, "=r,f,f", [high, low], False)

    def _bf16(self, value: Any) -> Any:
        """Round to nearest even on the bits; NaN stays NaN."""
        builder = self.builder
        bits = builder.bitcast(value, I32)
        odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
        near = builder.add(builder.add(bits, I32(0x7FFF)), odd)
        nan = builder.fcmp_unordered("uno", value, value)
        top = builder.select(nan, I32(0x7FC0), builder.lshr(near, I32(16)))
        return builder.trunc(top, I16)

    def row(
        self,
        address: Any,
        step: Any,
        first: Any,
        limit: Any,
        n: int,
        form: tuple[str, int],
        guarded: bool,
        chunk: tuple[int, int] = (1, 0),
    ) -> list[Any]:
        """Load n columns of `form` (kind, v) from column `first` on, 0 outside.

        Contract: column i lies at address + i * step, within the row if 0 <= i < limit.
        Without `guarded` all columns are within.  `chunk` is (size, shift): columns
        come `size` at a time from `first - shift` on, which with limit is a multiple
        of size, and v is 1.
        """
        kind, v = form
        size, shift = chunk
        values: list[Any] = []
        for q in range(0, shift + n, size):
            column = self.plus(first, q - shift)
            count = v * size
            if not guarded:
                at = self.offset(address, first, step)
                more = self.builder.mul(step, I64(q - shift))
                values += self.load(self.builder.add(at, more), kind, count)
                continue
            cells = [self.cell() for _ in range(count)]
            with self.builder.if_then(self.within(column, limit)):
                at = self.offset(address, column, step)
                for cell, value in zip(cells, self.load(at, kind, count), strict=True):
                    self.builder.store(value, cell)
            values += [self.builder.load(cell) for cell in cells]
        return values[shift * v : (shift + n) * v]


def _distinct(module: Any, item: Any) -> Any:
    """Return a loop's metadata node, which names itself first."""
    node = ir.MDValue(module, [item], name=str(len(module.metadata)))
    node.operands = (node, item)
    return node
