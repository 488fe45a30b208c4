"""The integers a kernel reads: one plan and its tables, fields named here only.

A plan is one int64 array: the `plan` record, then tables of `rows`, `strip` and `lane`
records.  Every size counts elements or entries, every step and offset bytes.
Compiled code reads a field by its literal name, as in `get(address, "strip.x")`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

EIGHTHS = 8  # what `plan.stream` counts of

RECORDS: dict[str, tuple[str, ...]] = {
    "call": (
        "kernel",  # its address and its plan's
        "plan",
        "carrier",  # what spreads it over threads (launch.py), into how many pieces,
        "pieces",
        "threads",  # and over how many
        "taken",  # address of the word that tells whether the threads are taken
    ),
    "plan": (
        "o_low",  # extent of the result round its data pointer, in bytes
        "o_high",
        "x_low",  # extent of the inputs
        "x_high",
        "items",  # number of work items
        "sizes_at",  # shape and strides of the inputs, then of the result
        "dtype",  # address of their dtype object
        "w_bytes",  # extent of the kernel and the bias
        "b_bytes",
        "rows",  # number of row blocks, strips, lane vectors and their groups
        "strips",
        "lanes",
        "groups",
        "group",  # lane vectors in a group
        "run",  # groups that a tile takes together, if they are in one piece
        "n_span",  # items from one image, row block, strip, group to the next
        "row_span",
        "strip_span",
        "group_span",
        "whole",  # lane records at the start of their table that are whole
        "rows_at",  # byte offsets of the tables
        "strips_at",
        "lanes_at",
        "taps_at",
        "products_at",
        "bands_at",
        "x_n",  # byte steps in the inputs: image, row, column, channel
        "x_h",
        "x_w",
        "x_c",
        "o_n",  # and in the result
        "o_h",
        "o_w",
        "o_c",
        "x_row",  # byte steps of the tile (row and column of one phase)
        "x_pix",
        "w_row",  # byte steps of a kernel row and column; negative where flipped
        "w_col",
        "o_row",
        "o_pix",
        "sh",  # row stride within a phase
        "stream",  # not 0: store past the caches where the result is aligned (direct
        # feed: so many row blocks of every EIGHTHS)
        "ahead",  # output rows ahead of the work to ask for inputs, 0: none (swaths: 1)
        "parameter",  # the activation's parameter, a float64's bits
        "w",  # input columns
        "ow",  # output columns
        "c",  # input channels
        "m",  # outputs per input channel (direct, flat) or input lane (packed)
        "sw",  # flat feed: column stride, bytes of a packed row's segment,
        "segment",
        "phases",  # bit set of the column phases that any tap reads
        "picks_at",  # where the vectors of a phase lie in a dense row, 0: unknown
        "picks",  # vectors after which this repeats
        "vectors",  # weight vectors a tap: 1, or the strip's width where phased
        "period",  # channels after which the weights repeat, lanes in use
        "used",
        "scratch_x",  # bytes of scratch for packed inputs and for staged results
        "scratch_o",  # (kernel gradient: for the sums of a chain of columns)
        "splits",  # kernel gradient: parts that the outputs are cut into, and into
        "units",  # how many (image, row block, strip) in all,
        "part",  # bytes from one part's sums to the next's
        "length",  # and bytes of them to add up
        "clear",  # 1: all parts but the first become 0 when they are added
        "planes",  # flat feed: planes per image (channels first), else 1
    ),
    "rows": (
        "x",  # offset of input row 0 of the phase (maybe virtual) and output row 0
        "o",
        "w",  # offset of the first kernel row, and how many there are
        "kh",
        "low",  # input rows of the phase that exist: low <= row < high
        "high",
        "first",  # output rows of the block: first <= row < last
        "last",
        "top",  # first output row to store (transposed tiles; else `first`; both.py has
        # its own meaning for this and `strip.begin`)
        "strip",  # first strip of the block (direct feed)
    ),
    "strip": (
        "kind",  # which of the plan's tiles: an odd one where guards are needed
        "x",
        "o",
        "w",  # offset of the first kernel column, and how many there are
        "kw",
        "low",
        "high",
        "begin",  # output columns to store: begin <= column < columns; a run of flat
        # strips: how many, of `columns` lanes in all to the end of the row
        "columns",
    ),
    "lane": ("x", "w", "o", "count", "adds"),
    "product": (
        "swap",  # 1: A is the second operand of the call, B the first
        "rows",  # of C; A's rows
        "columns",  # of C; B's columns
        "k",  # terms of a sum, in each of so many batches
        "batches",
        "chunk",  # rows that stay in L2, how many such chunks
        "chunks",
        "panels",  # panels of C's columns
        "units",  # work items of a chunk and panel, and rows of one
        "unit",
        "images",  # rows of an image: index // images counts a step, % the other
        "staged",  # 1: columns of C are no neighbours
        "a_n",  # byte steps of A: image, row of an image, row of A, term
        "a_h",
        "a_row",
        "a_k",
        "b_n",  # of B: image, row of an image, term, column
        "b_h",
        "b_k",
        "b_column",
        "b_panel",  # from one packed panel of B to the next, 0: B has whole rows
        "c_n",  # of C: image, row of an image, row of C, column
        "c_h",
        "c_row",
        "c_column",
        "g_n",  # of the gradient that a derivative is multiplied with
        "g_h",
        "g_row",
        "bias_row",  # of the bias along the rows, 0: it lies along the columns
        "adds",  # 1: to what C holds
    ),
    "program": (
        "taken",  # as in a call
        "clears",  # how many of each follow
        "steps",
        "pair_kernel",  # address of the kernel of joined steps (pairs.py)
    ),
    "clear": ("base", "skip", "bytes"),  # what becomes 0 before the steps
    "step": (
        "kernel",  # its address, its plan's, and how many shares it is worth
        "plan",
        "shares",
        "joined",  # 1: runs together with the next, whose shares are both's
        "x",  # number of an array of the call and bytes from its start, five times
        "x_skip",
        "w",
        "w_skip",
        "b",
        "b_skip",
        "o",
        "o_skip",
        "g",
        "g_skip",
    ),
    "band": (
        "x",  # offset of its input rows and of its output rows
        "o",
        "first",  # address of the kernel that writes to scratch, of its plan, its items
        "first_plan",
        "first_items",
        "second",  # and of the kernel that reads from it
        "second_plan",
        "second_items",
    ),
    "sizes": ("n", "h", "w", "c"),  # shape or strides, in the caller's order
    "tap": ("x", "first", "count"),  # flat feed, one a kernel column
    "pick": (
        "start",  # bytes from a phase's first element to a vector's, and how many
        "sources",  # vectors from there on hold its elements
        "order",  # where its 4-byte parts lie in them, as int32, as many as it has
        *(f"order_{part}" for part in range(2, 16, 2)),
    ),
}


def size(record: str) -> int:
    """Return the bytes of one record."""
    return 8 * len(RECORDS[record])


def index(field: str) -> int:
    """Return the position of a `"record.field"` in its record."""
    record, name = field.split(".")
    return RECORDS[record].index(name)


I64 = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def word(typingctx: Any, address: Any) -> Any:
    """Return the int64 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.PointerType())
        return builder.load(pointer, typ=I64, align=1)

    return types.int64(types.int64), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def equal(typingctx: Any, left: Any, right: Any, count: Any) -> Any:
    """Tell whether so many int64 at two addresses are the same."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        many = signature.args[2].literal_value
        kind = ir.VectorType(I64, many)
        pointers = [builder.inttoptr(at, ir.PointerType()) for at in args[:2]]
        values = [builder.load(at, typ=kind, align=1) for at in pointers]
        differ = builder.icmp_unsigned("!=", *values)
        bits = builder.bitcast(differ, ir.IntType(many))
        return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0))

    return types.boolean(types.int64, types.int64, count), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def get(typingctx: Any, address: Any, field: Any) -> Any:
    """Return a field of the record at an address: `get(strip, "strip.low")`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        offset = 8 * index(signature.args[1].literal_value)
        at = builder.add(args[0], ir.Constant(I64, offset))
        return builder.load(builder.inttoptr(at, ir.PointerType()), typ=I64, align=1)

    return types.int64(types.int64, field), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def entry(typingctx: Any, plan: Any, table: Any, record: Any, number: Any) -> Any:
    """Return the address of a table's entry: `entry(p, "plan.rows_at", "rows", i)`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        offset = 8 * index(signature.args[1].literal_value)
        at = builder.add(args[0], ir.Constant(I64, offset))
        start = builder.load(builder.inttoptr(at, ir.PointerType()), typ=I64, align=1)
        step = ir.Constant(I64, size(signature.args[2].literal_value))
        skip = builder.mul(args[3], step)
        return builder.add(args[0], builder.add(start, skip))

    return types.int64(types.int64, table, record, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not exist, into L2."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType()] + [ir.IntType(32)] * 3)
        name = "llvm.prefetch.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        flags = [ir.Constant(ir.IntType(32), flag) for flag in (0, 2, 1)]
        builder.call(function, [builder.inttoptr(args[0], ir.PointerType()), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
