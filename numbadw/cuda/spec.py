"""What a compiled CUDA kernel depends on, and the numbers that it is given.

Nothing here or in the thread bodies needs CUDA: tests build the same bodies for the
CPU.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from numba.core import types

from numbadw.cuda.emit import sum_type

# The same for every kernel: six addresses (0: not given), the sizes, a parameter.
ADDRESSES = 6


class Spec(NamedTuple):
    """One compiled kernel: its family, its tile and whatever else shapes its code.

    Parameters
    ----------
    family : str
        A module's entry in `numbadw.cuda.kernels.FAMILIES`.
    kind, okind : {"f32", "f64", "f16", "bf16"}
        Elements of the images read and of those written (of grad in a kernel gradient).
    kh, kw, sh, sw : int
        Kernel size and strides that are built in; 0 where they are numbers.
    v, vx : int
        Channels of a thread in the output and in the input: vx = v / m, at least 1.
    th, tw : int
        Rows and columns of a thread's tile.
    chunk, shift : int
        Columns of one access along a row, and how far before the tile it begins.
    first : bool
        Neighbouring threads take neighbouring columns, not channels.
    activation : str
        Applied at the end, or its derivative times grad where `derive` says so.
    threads, blocks, across : int
        Threads of a block, blocks that must fit a multiprocessor, and channel lanes of
        a block that adds its threads' sums up.
    """

    family: str
    kind: str = "f32"
    okind: str = "f32"
    kh: int = 0
    kw: int = 0
    sh: int = 0
    sw: int = 0
    v: int = 1
    vx: int = 1
    th: int = 1
    tw: int = 1
    chunk: int = 1
    shift: int = 0
    first: bool = False
    activation: str = "linear"
    derive: bool = False
    threads: int = 128
    blocks: int = 1
    across: int = 0

    @property
    def label(self) -> str:
        """Name the kernel: symbol, cache file, test id."""
        s = self
        parts = [s.family, s.kind]
        parts += [s.okind] if s.okind != s.kind else []
        parts += [f"k{s.kh}x{s.kw}_s{s.sh}x{s.sw}"] if s.kh else []
        parts.append(f"v{s.v}t{s.th}x{s.tw}")
        parts += [f"x{s.vx}"] if s.vx != s.v else []
        parts += [f"c{s.chunk}p{s.shift}"] if s.chunk > 1 else []
        parts += ["cf"] if s.first else []
        parts += [f"a{s.across}"] if s.across else []
        parts += [s.activation] if s.activation != "linear" else []
        parts += ["grad"] if s.derive else []
        return "_".join(parts)


class Sizes(NamedTuple):
    """The numbers a kernel is given: int32 sizes, then int64 strides in bytes.

    `fast` and `slow` split a thread's lane: lane = high * fast + low, high < slow; y0
    is the first row of the grid's y; groups and blocks are the grid's of a kernel
    gradient.  x, o and g are the images read, written and the
    gradient that is read besides; w is the kernel, w_channel its step from one output
    channel to the next.
    """

    fast: int
    slow: int
    y0: int
    n: int
    h: int
    w: int
    oh: int
    ow: int
    c: int
    m: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    pt: int
    pl: int
    groups: int
    blocks: int
    x_image: int
    x_row: int
    x_column: int
    x_channel: int
    o_image: int
    o_row: int
    o_column: int
    o_channel: int
    g_image: int
    g_row: int
    g_column: int
    g_channel: int
    w_row: int
    w_column: int
    w_channel: int


NARROW = Sizes._fields.index("x_image")


def sizes_type() -> Any:
    """Return Numba's type of `Sizes`."""
    wide = len(Sizes._fields) - NARROW
    kinds = [types.int32] * NARROW + [types.int64] * wide
    return types.NamedTuple(kinds, Sizes)


def argument_types(spec: Spec) -> tuple[Any, ...]:
    """Return the types of a kernel's arguments: x, w, b, o, g, part, sizes, slope."""
    return (types.int64,) * ADDRESSES + (sizes_type(), sum_type(spec.kind))


def packed(spec: Spec, sizes: Sizes, slope: float) -> bytes:
    """Lay out a kernel's arguments, 8 bytes each, the addresses being 0 still.

    Each begins on the lowest byte of its 8: every machine with CUDA is little-endian.
    """
    real = "d" if spec.kind == "f64" else "f4x"
    numbers = [0] * ADDRESSES + list(sizes)
    return struct.pack(f"<{len(numbers)}q{real}", *numbers, slope)
