"""Words for compiled code that shares memory with other threads, and calls C.

All atomic operations are sequentially consistent but for `put`, a plain store on x86.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def fetch(typingctx: Any, at: Any) -> Any:
    """Return the int64 at an address, atomically."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.PointerType())
        return builder.load_atomic(pointer, "seq_cst", 8, typ=I64)

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def put(typingctx: Any, at: Any, value: Any) -> Any:
    """Store an int64, atomically, after all that was stored before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], I64.as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def update(typingctx: Any, operation: Any, at: Any, value: Any) -> Any:
    """Return the int64 at an address and `add` to it or `xchg` it, atomically."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], ir.PointerType())
        name = signature.args[0].literal_value
        return builder.atomic_rmw(name, pointer, args[2], "seq_cst")

    return types.int64(operation, types.int64, types.int64), codegen


# LLVM's names of the instruction, as Numba's compiler takes no assembly.
PAUSE = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [1]),
}


@intrinsic  # type: ignore[untyped-decorator]
def pause(typingctx: Any) -> Any:
    """Tell the core that this is a waiting loop."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name, values = PAUSE.get(platform.machine().lower(), (None, []))
        if name:
            arguments = [ir.Constant(I32, value) for value in values]
            kind = ir.FunctionType(ir.VoidType(), [I32] * len(values))
            word = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(word, arguments)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def write(typingctx: Any, at: Any, values: Any) -> Any:
    """Store a tuple of int64, one after the other."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for i in range(len(values)):
            address = builder.add(args[0], ir.Constant(I64, 8 * i))
            pointer = builder.inttoptr(address, ir.PointerType())
            builder.store(builder.extract_value(args[1], i), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, values), codegen


@intrinsic  # type: ignore[untyped-decorator]
def call_c(typingctx: Any, function: Any, arguments: Any) -> Any:
    """Call a C function of 64-bit integers or pointers by its address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = len(signature.args[1])
        kind = ir.FunctionType(I32, [I64] * count)
        values = [builder.extract_value(args[1], i) for i in range(count)]
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)

    return types.int32(types.int64, arguments), codegen
