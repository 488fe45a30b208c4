"""Numbers: the tile of every kernel size, stride, layout and element kind.

Registers decide.  `blocks` is how many blocks of 128 threads a multiprocessor must
hold: 65,536 registers / (128 * blocks) is what a thread may use, and the tile is the
largest that does not spill there (`python -m numbadw.cuda.static` shows it).
"""

from __future__ import annotations

from typing import NamedTuple

THREADS = 128
# Blocks that fill the largest device several times; a fixed number, so that sums never
# depend on the device.
FILL = 1024
# Threads below which smaller tiles spread the work better.
SMALL_GRID = 100_000
# Kernels with more taps would be too much code for one row of the tile.
WIDEST_KERNEL = 31
MOST_TAPS = 1000


class Tile(NamedTuple):
    """Rows and columns of outputs, and the blocks a multiprocessor must hold."""

    th: int
    tw: int
    blocks: int


def forward_tile(
    kh: int, kw: int, sw: int, v: int, kind: str, small: bool = False
) -> Tile | None:
    """Return the channels-last tile of v channels, or None where there is none."""
    side = max(kh, kw)
    if kind == "f64" or side > WIDEST_KERNEL or kh * kw > MOST_TAPS:
        return None
    if side > 7:
        return Tile(2, 16, 3 if side < 16 else 2) if sw == 1 and v <= 2 else None
    if v == 8:
        return Tile(4, 2, 4) if side <= 3 and sw == 1 else None
    if sw > 1:
        return Tile(1, 4, 6 if side <= 3 else 4)
    if side <= 3:
        return Tile(2, 2, 8) if small else Tile(2, 4, 5)
    return Tile(2, 4, 5) if side <= 5 else Tile(2, 8, 3)


def row_tile(kh: int, kw: int, sw: int, kind: str) -> Tile | None:
    """Return the channels-first tile, whose threads hold columns of one channel."""
    side = max(kh, kw)
    if kind == "f64" or side > WIDEST_KERNEL or kh * kw > MOST_TAPS:
        return None
    if sw > 1:
        return Tile(1, 8, 5) if side <= 7 else None
    if side <= 3:
        return Tile(2, 8, 8)
    return Tile(2, 8, 6) if side <= 5 else Tile(4, 16, 4 if side <= 7 else 3)


def column_tile(kh: int, kw: int, kind: str) -> Tile | None:
    """Return the channels-first tile for rows that vectors do not fit."""
    if kind == "f64" or max(kh, kw) > 7:
        return None
    return Tile(4, 1, 6)


def input_grad_tile(kh: int, kw: int, sh: int, sw: int, kind: str) -> Tile | None:
    """Return the tile of a strided input gradient."""
    if kind == "f64" or max(kh, kw) > 7 or max(sh, sw) > 4 or sw == 3:
        return None
    return Tile(1, 8, 4)


def kernel_grad_tile(kh: int, kw: int, kind: str) -> tuple[int, int, Tile] | None:
    """Return kernel rows and channels of a thread, at most, and its tile."""
    taps = kh * kw
    if kind == "f64" or kw > WIDEST_KERNEL:
        return None
    if taps > 49:
        return 1, 2, Tile(1, 8, 3)
    if taps <= 9:
        return kh, 4, Tile(2, 4, 4)
    return (kh, 2, Tile(2, 8, 3)) if taps <= 25 else (kh, 1, Tile(2, 8, 3))
