"""The words that thread bodies are made of: unrolled LLVM code on addresses and rows.

Numba has no 128-bit access, does not unroll loops over local arrays into registers and
computes indices in 64 bits.  The words here do: each is an intrinsic whose code
generator knows tile and element type when it is made, so a body is a few lines of
index arithmetic round them.  The same generators serve two targets: Numba's CUDA
compiler, and Numba's own, which runs whole grids of thread bodies on the CPU in tests.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from numbadw.cuda.emit import (
    I32,
    I64,
    ITEMSIZE,
    SCENE,
    SHARED_AT,
    SREG,
    WIDEST,
    Code,
    Target,
    sum_type,
)


def make_word(
    target: Target, arguments: Sequence[Any], result: Any, emit: Callable[..., Any]
) -> Any:
    """Make an intrinsic of fixed argument types.

    `emit(builder, *values)` returns the result: a value, a list for a tuple, or None.
    """

    def word(typingctx: Any, *given: Any) -> Any:
        signature = result(*arguments)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            flat: list[Any] = []
            for kind, arg in zip(arguments, args, strict=True):
                tuples = isinstance(kind, types.BaseTuple)
                count = kind.count if tuples else 0
                items = [builder.extract_value(arg, i) for i in range(count)]
                flat.append(items if tuples else arg)
            made = emit(builder, *flat)
            if made is None:
                return context.get_dummy_value()
            if isinstance(made, list):
                return context.make_tuple(builder, result, made)
            return made

        return signature, codegen

    names = ["typingctx", *(f"a{i}" for i in range(len(arguments)))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    word.__signature__ = signature  # type: ignore[attr-defined]
    return target.intrinsic(word)


def make_udiv(target: Target) -> Any:
    """Make `udiv(a, b)`: the quotient of two int32 that are not negative."""

    def emit(builder: Any, a: Any, b: Any) -> Any:
        return builder.udiv(a, b)

    return make_word(target, (types.int32, types.int32), types.int32, emit)


def _ask(builder: Any, target: Target, what: str) -> Any:
    """Emit the value of one of `SCENE`."""
    code = Code(builder, target, False)
    if not target.cuda:
        at = I64(target.scene + 4 * SCENE.index(what))
        return builder.load(builder.inttoptr(at, I32.as_pointer()))

    def sreg(name: str) -> Any:
        return code.call(SREG + name, I32)

    if what == "lane":
        first = builder.mul(sreg("ctaid.x"), sreg("ntid.x"))
        return builder.add(first, sreg("tid.x"))
    registers = {"row": "ctaid.y", "image": "ctaid.z", "block": "ctaid.x"}
    if what == "side":
        return I32(0)
    return sreg(registers.get(what, "tid.x"))


def make_place(target: Target, names: Sequence[str] = SCENE[:3]) -> Any:
    """Make `place()`: where this thread is, as a tuple of int32."""

    def emit(builder: Any) -> list[Any]:
        return [_ask(builder, target, name) for name in names]

    return make_word(target, (), types.UniTuple(types.int32, len(names)), emit)


def make_barrier(target: Target) -> Any:
    """Make `barrier()`: no thread of the block goes on before all have come."""

    def emit(builder: Any) -> None:
        if target.cuda:
            void = ir.VoidType()
            Code(builder, target, False).call("llvm.nvvm.barrier0", void)

    return make_word(target, (), types.void, emit)


def _shared(builder: Any, target: Target, index: Any, kind: str, count: int) -> Any:
    """Emit the pointer to an element of the block's shared array."""
    double = kind == "f64"
    word = Code(builder, target, double).type
    if not target.cuda:
        first = I64(target.scene + SHARED_AT)
        base = builder.inttoptr(first, word.as_pointer())
        return builder.gep(base, [builder.sext(index, I64)])
    module, name = builder.module, "numbadw_shared"
    array = module.globals.get(name)
    if array is None:
        array = ir.GlobalVariable(module, ir.ArrayType(word, count), name, 3)
        array.linkage, array.align = "internal", WIDEST
        array.initializer = ir.Constant(array.value_type, ir.Undefined)
    return builder.gep(array, [I32(0), index])


def make_stash(target: Target, kind: str, threads: int, n: int) -> Any:
    """Make `stash(thread, sums)`: shared[i * threads + thread] = sums[i]."""

    def emit(builder: Any, thread: Any, sums: list[Any]) -> None:
        for i, value in enumerate(sums):
            at = builder.add(thread, I32(i * threads))
            place = _shared(builder, target, at, kind, n * threads)
            builder.store(value, place)

    row = types.UniTuple(sum_type(kind), n)
    return make_word(target, (types.int32, row), types.void, emit)


def make_add_up(target: Target, kind: str, threads: int, across: int, n: int) -> Any:
    """Make `add_up(thread, begin)`: the block's sums, in the order of its threads.

    Contract: `stash` has left n sums of every thread; the threads of one column
    (thread % across) belong together.  Sum i of column c goes to element
    i * across + c from the address `begin` on; every thread of the block takes part.
    """
    items = n * across

    def emit(builder: Any, thread: Any, begin: Any) -> None:
        code = Code(builder, target, kind == "f64")

        def fetch(first: Any, k: Any) -> Any:
            at = builder.add(first, builder.mul(k, I32(across)))
            return builder.load(_shared(builder, target, at, kind, n * threads))

        with code.loop(-(-items // threads)) as turn:
            item = builder.add(thread, builder.mul(turn, I32(threads)))
            with builder.if_then(code.within(item, I32(items))):
                i = builder.udiv(item, I32(across))
                column = builder.urem(item, I32(across))
                first = builder.add(builder.mul(i, I32(threads)), column)
                total = code.cell(fetch(first, I32(0)))
                with code.loop(threads // across - 1) as k:
                    more = fetch(first, code.plus(k, 1))
                    builder.store(builder.fadd(builder.load(total), more), total)
                at = code.offset(begin, item, I64(ITEMSIZE[kind]))
                code.store(at, kind, [builder.load(total)])

    return make_word(target, (types.int32, types.int64), types.void, emit)


def make_load(target: Target, kind: str, v: int) -> Any:
    """Make `load(address, ok)`: v neighbours as a tuple, 0 unless ok."""

    def emit(builder: Any, address: Any, ok: Any) -> list[Any]:
        code = Code(builder, target, kind == "f64")
        cells = [code.cell() for _ in range(v)]
        with builder.if_then(ok):
            for cell, value in zip(cells, code.load(address, kind, v), strict=True):
                builder.store(value, cell)
        return [builder.load(cell) for cell in cells]

    row = types.UniTuple(sum_type(kind), v)
    return make_word(target, (types.int64, types.boolean), row, emit)


def make_store(target: Target, kind: str) -> Any:
    """Make `store(address, value)` of one element."""

    def emit(builder: Any, address: Any, value: Any) -> None:
        Code(builder, target, kind == "f64").store(address, kind, [value])

    return make_word(target, (types.int64, sum_type(kind)), types.void, emit)


def make_zeros(target: Target, kind: str, n: int) -> Any:
    """Make `zeros()`: a row of n zeros."""

    def emit(builder: Any) -> list[Any]:
        return [Code(builder, target, kind == "f64").zero] * n

    return make_word(target, (), types.UniTuple(sum_type(kind), n), emit)


def make_add(target: Target, kind: str, n: int) -> Any:
    """Make `add(a, b)`: the sum of two rows of n."""

    def emit(builder: Any, a: list[Any], b: list[Any]) -> list[Any]:
        return list(map(builder.fadd, a, b))

    row = types.UniTuple(sum_type(kind), n)
    return make_word(target, (row, row), row, emit)
