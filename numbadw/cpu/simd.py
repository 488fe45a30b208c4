"""A dozen vector words for writing LLVM code that reads like arithmetic.

A `Simd` is bound to one IR builder, one element type and one lane count.  Its words
return `Vec` and `Int` values with overloaded operators, so an emitter is written as
`acc.set(simd.fma(x, w, acc.get()))` and addresses as `row + j * pixel`.  LLVM lowers
the same words to AVX-512, AVX2, SSE or NEON; only the lane count differs.

Masked words take a mask made by `Simd.mask`: lanes that are off read as zero and are
never written, and no byte behind them is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

I1 = ir.IntType(1)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
ELEMENTS = {"f32": ir.FloatType(), "f64": ir.DoubleType()}
BYTES = {"f32": 4, "f64": 8}
# Contraction and the sign of zero are free; NaN and infinities keep their meaning and
# no sum is reordered, so results have the same bits in every tile.
FLAGS = ("contract", "nsz")


class Int:
    """A 64-bit integer in the emitted code; every count and address is one."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = ir.Constant(I64, value) if isinstance(value, int) else value

    def _new(self, operation: Callable[..., Any], other: Int | int) -> Int:
        return Int(self.builder, operation(self.value, Int(self.builder, other).value))

    def __add__(self, other: Int | int) -> Int:
        other = other.value if isinstance(other, Int) else other
        return self._new(self.builder.add, other)

    def __sub__(self, other: Int | int) -> Int:
        other = other.value if isinstance(other, Int) else other
        return self._new(self.builder.sub, other)

    def __mul__(self, other: Int | int) -> Int:
        other = other.value if isinstance(other, Int) else other
        return self._new(self.builder.mul, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def divided(self, other: Int | int) -> Int:
        """Return the quotient, rounded down; neither may be negative."""
        other = other.value if isinstance(other, Int) else other
        return self._new(self.builder.udiv, other)

    def compare(self, relation: str, other: Int | int) -> Any:
        """Return the i1 value of a signed comparison such as `"<"`."""
        other = other.value if isinstance(other, Int) else other
        return self.builder.icmp_signed(
            relation, self.value, Int(self.builder, other).value
        )

    def within(self, low: Int, high: Int) -> Any:
        """Return the i1 value of `low <= self < high`, for `low <= high`."""
        return self.builder.icmp_unsigned("<", (self - low).value, (high - low).value)

    def minimum(self, other: Int | int) -> Int:
        """Return the smaller of two integers."""
        other = other if isinstance(other, Int) else Int(self.builder, other)
        chosen = self.builder.select(self.compare("<", other), self.value, other.value)
        return Int(self.builder, chosen)

    def maximum(self, other: Int | int) -> Int:
        """Return the larger of two integers."""
        other = other if isinstance(other, Int) else Int(self.builder, other)
        chosen = self.builder.select(self.compare(">", other), self.value, other.value)
        return Int(self.builder, chosen)


class Vec:
    """A vector in the emitted code; Python numbers mix in as constants."""

    __slots__ = ("simd", "value")

    def __init__(self, simd: Simd, value: Any) -> None:
        self.simd = simd
        self.value = value

    def _arithmetic(self, name: str, left: Any, right: Any) -> Vec:
        simd = self.simd
        left, right = simd.vec(left), simd.vec(right)
        operation = getattr(simd.builder, name)
        return Vec(simd, operation(left.value, right.value, flags=FLAGS))

    def __add__(self, other: Vec | float) -> Vec:
        return self._arithmetic("fadd", self, other)

    def __sub__(self, other: Vec | float) -> Vec:
        return self._arithmetic("fsub", self, other)

    def __rsub__(self, other: Vec | float) -> Vec:
        return self._arithmetic("fsub", other, self)

    def __mul__(self, other: Vec | float) -> Vec:
        return self._arithmetic("fmul", self, other)

    def __truediv__(self, other: Vec | float) -> Vec:
        return self._arithmetic("fdiv", self, other)

    def __rtruediv__(self, other: Vec | float) -> Vec:
        return self._arithmetic("fdiv", other, self)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Vec:
        return Vec(self.simd, self.simd.builder.fneg(self.value))

    def __abs__(self) -> Vec:
        return self.simd.intrinsic("fabs", self)

    def _compare(self, relation: str, other: Vec | float) -> Any:
        other = self.simd.vec(other)
        return self.simd.builder.fcmp_ordered(relation, self.value, other.value)

    def __lt__(self, other: Vec | float) -> Any:
        return self._compare("<", other)

    def __le__(self, other: Vec | float) -> Any:
        return self._compare("<=", other)

    def __gt__(self, other: Vec | float) -> Any:
        return self._compare(">", other)

    def __ge__(self, other: Vec | float) -> Any:
        return self._compare(">=", other)


class Cell:
    """A variable of the emitted code; LLVM turns every cell into a register."""

    __slots__ = ("builder", "slot", "wrap")

    def __init__(self, builder: Any, kind: Any, wrap: Callable[[Any], Any]) -> None:
        self.builder = builder
        self.slot = cgutils.alloca_once(builder, kind)
        self.wrap = wrap

    def get(self, builder: Any) -> Any:
        """Return the present value."""
        return self.wrap(builder.load(self.slot))

    def set(self, value: Int | Vec) -> None:
        """Give the variable a new value."""
        builder = value.builder if isinstance(value, Int) else value.simd.builder
        builder.store(value.value, self.slot)


class Simd:
    """The vector words for one builder, element type (`f32`, `f64`) and lane count."""

    def __init__(self, builder: Any, dtype: str, lanes: int) -> None:
        self.builder = builder
        self.dtype = dtype
        self.lanes = lanes
        self.element = ELEMENTS[dtype]
        self.itemsize = BYTES[dtype]
        self.kind = ir.VectorType(self.element, lanes)
        self.suffix = f"v{lanes}{dtype}"

    def integer(self, value: Any) -> Int:
        """Wrap an i64 value or a Python integer."""
        return Int(self.builder, value)

    def vec(self, value: Any) -> Vec:
        """Wrap a vector; a Python number becomes the same constant in every lane."""
        if isinstance(value, Vec):
            return value
        return Vec(self, ir.Constant(self.kind, [float(value)] * self.lanes))

    def variable(self, initial: Vec | Int | None = None) -> Cell:
        """Return a new variable, a vector one unless `initial` is an integer."""
        if isinstance(initial, Int):
            cell = Cell(self.builder, I64, self.integer)
        else:
            cell = Cell(self.builder, self.kind, lambda value: Vec(self, value))
        if initial is not None:
            cell.set(initial)
        return cell

    def array(self, count: int) -> Int:
        """Return the address of room for so many vectors on the stack."""
        kind = ir.ArrayType(self.kind, count)
        slot = cgutils.alloca_once(self.builder, kind)
        return self.integer(self.builder.ptrtoint(slot, I64))

    def call(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        """Call an LLVM intrinsic by its full name."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def intrinsic(self, name: str, *arguments: Vec) -> Vec:
        """Apply the LLVM intrinsic `llvm.<name>` lane by lane."""
        values = [argument.value for argument in arguments]
        return Vec(self, self.call(f"llvm.{name}.{self.suffix}", self.kind, values))

    def fma(self, a: Vec, b: Vec, c: Vec) -> Vec:
        """Return `a * b + c`, fused where the CPU can (never a library call)."""
        return self.intrinsic("fmuladd", a, b, c)

    def where(self, condition: Any, a: Any, b: Any) -> Vec:
        """Return `a` in the lanes where `condition` holds, else `b`."""
        a, b = self.vec(a), self.vec(b)
        return Vec(self, self.builder.select(condition, a.value, b.value))

    def maximum(self, a: Vec, b: Vec | float) -> Vec:
        """Return the larger of `a` and `b`, NaN where either is NaN."""
        larger = self.where(a < b, b, a)  # one instruction; NaN in `a` stays
        return self.where(b <= b, larger, b) if isinstance(b, Vec) else larger

    def minimum(self, a: Vec, b: Vec | float) -> Vec:
        """Return the smaller of `a` and `b`, NaN where either is NaN."""
        smaller = self.where(a > b, b, a)
        return self.where(b <= b, smaller, b) if isinstance(b, Vec) else smaller

    def mask(self, count: Int) -> Any:
        """Return the mask whose first `count` lanes are on."""
        iota = ir.Constant(ir.VectorType(I32, self.lanes), list(range(self.lanes)))
        narrow = self.builder.trunc(count.value, I32)
        return self.builder.icmp_signed("<", iota, self.splat(narrow))

    def splat(self, scalar: Any) -> Any:
        """Return a vector value with a scalar of any type in every lane."""
        empty = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(empty, scalar, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, empty, zeros)

    def _pointer(self, address: Int) -> Any:
        return self.builder.inttoptr(address.value, ir.PointerType())

    def load(self, address: Int, mask: Any = None) -> Vec:
        """Load the lanes from consecutive elements at any byte address."""
        if mask is None:
            return Vec(
                self, self.builder.load(self._pointer(address), typ=self.kind, align=1)
            )
        arguments = [
            self._pointer(address),
            ir.Constant(I32, 1),
            mask,
            self.vec(0.0).value,
        ]
        name = f"llvm.masked.load.{self.suffix}.p0"
        return Vec(self, self.call(name, self.kind, arguments))

    def load_splat(self, address: Int) -> Vec:
        """Load one element into every lane."""
        scalar = self.builder.load(self._pointer(address), typ=self.element, align=1)
        return Vec(self, self.splat(scalar))

    def store(self, vec: Vec, address: Int, mask: Any = None) -> None:
        """Store the lanes to consecutive elements at any byte address."""
        pointer = self._pointer(address)
        if mask is None:
            self.builder.store(vec.value, pointer, align=1)
            return
        arguments = [vec.value, pointer, ir.Constant(I32, 1), mask]
        name = f"llvm.masked.store.{self.suffix}.p0"
        self.call(name, ir.VoidType(), arguments)

    def stream(self, vec: Vec, address: Int) -> None:
        """Store past the caches; the address must be aligned to the whole vector."""
        size = self.lanes * self.itemsize
        store = self.builder.store(vec.value, self._pointer(address), align=size)
        one = self.builder.module.add_metadata([ir.Constant(I32, 1)])
        store.set_metadata("nontemporal", one)

    def load_int(self, address: Int) -> Int:
        """Load an int64."""
        return self.integer(self.builder.load(self._pointer(address), typ=I64, align=1))

    def opaque(self, value: Int) -> Int:
        """Return the same integer, of which LLVM knows nothing.

        Addresses that all depend on a loop's counter become a register each that counts
        along, dozens of them; behind an opaque one they are steps from that.
        """
        kind = ir.FunctionType(I64, [I64])
        return self.integer(self.builder.asm(kind, "", "=r,0", [value.value], False))

    def walk(
        self, start: Int, step: Int, places: Sequence[int]
    ) -> Callable[[int], Int]:
        """Return the address of each of some ascending places, `step` bytes apart.

        About every fourth is a register of its own, made from the one before; the
        others are reached from it by the CPU's addressing.  Left to itself LLVM keeps
        every multiple of the step from the outermost loop on: on the stack, if many.
        """
        near, anchor = 0, start
        known: dict[int, tuple[Int, int]] = {}
        for place in places:
            if not known or place > near + 3:
                anchor, near = self.opaque(anchor + step * (place - near)), place
            known[place] = anchor, place - near
        return lambda place: known[place][0] + step * known[place][1]

    def load_parameter(self, address: Int) -> Vec:
        """Load one float64 into every lane, in the lanes' own type."""
        double = ir.DoubleType()
        value = self.builder.load(self._pointer(address), typ=double, align=8)
        if self.dtype == "f32":
            value = self.builder.fptrunc(value, self.element)
        return Vec(self, self.splat(value))

    def prefetch(self, address: Int, locality: int = 3) -> None:
        """Ask for the cache line at an address, which need not exist."""
        flags = [ir.Constant(I32, 0), ir.Constant(I32, locality), ir.Constant(I32, 1)]
        arguments = [self._pointer(address), *flags]
        self.call("llvm.prefetch.p0", ir.VoidType(), arguments)

    def repeat(self, vec: Vec, times: int) -> Vec:
        """Return the first lanes of `vec`, each repeated `times` times."""
        pattern = [lane // times for lane in range(self.lanes)]
        return self.shuffle(vec, vec, pattern)

    def shuffle(self, a: Vec, b: Vec, pattern: Sequence[int]) -> Vec:
        """Return lanes picked from `a` (0 ...) and `b` (lanes ...) by `pattern`."""
        lanes = ir.Constant(ir.VectorType(I32, len(pattern)), list(pattern))
        return Vec(self, self.builder.shuffle_vector(a.value, b.value, lanes))

    def pick(self, mask: Any, pattern: Sequence[int]) -> Any:
        """Return a mask whose lanes are those of `mask` by `pattern`."""
        lanes = ir.Constant(ir.VectorType(I32, len(pattern)), list(pattern))
        return self.builder.shuffle_vector(mask, mask, lanes)

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """Emit the body under a run-time condition."""
        with self.builder.if_then(condition):
            yield

    @contextmanager
    def loop(self, first: Int, last: Int, step: int = 1) -> Iterator[Int]:
        """Emit `for i in range(first, last, step)` and yield `i`."""
        counter = self.variable(first)
        head = self.builder.append_basic_block("loop.head")
        body = self.builder.append_basic_block("loop.body")
        done = self.builder.append_basic_block("loop.done")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        present = counter.get(self.builder)
        self.builder.cbranch(present.compare("<", last), body, done)
        self.builder.position_at_end(body)
        yield present
        counter.set(present + step)
        self.builder.branch(head)
        self.builder.position_at_end(done)

    @contextmanager
    def repeat_while(self, condition: Callable[[], Any]) -> Iterator[None]:
        """Emit `while condition(): body`."""
        head = self.builder.append_basic_block("while.head")
        body = self.builder.append_basic_block("while.body")
        done = self.builder.append_basic_block("while.done")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(condition(), body, done)
        self.builder.position_at_end(body)
        yield
        self.builder.branch(head)
        self.builder.position_at_end(done)
