"""Every compiled kernel of the CPU backend, compiled once and called by address."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numbadw import jit
from numbadw.cpu.copies import make_copy_in, make_copy_out
from numbadw.cpu.forward import make_direct, make_flat, make_packed
from numbadw.cpu.kernel_grad import make_add_parts, make_kernel_grad
from numbadw.cpu.kernel_grad_flat import make_flat_grad
from numbadw.cpu.label import Tile
from numbadw.cpu.pointwise import make_product
from numbadw.cpu.separable import make_separable

BUILDERS: dict[str, Callable[[list[Tile]], Callable[..., None]]] = {
    "direct": make_direct,
    "packed": make_packed,
    "flat": make_flat,
    "kernel_grad": make_kernel_grad,
    "kernel_grad_flat": make_flat_grad,
    "both_grad": make_kernel_grad,
    "add_parts": make_add_parts,
    "copy_in": make_copy_in,
    "copy_out": make_copy_out,
    "product": make_product,
    "separable": make_separable,
}

COMPILED: list[Any] = []  # keeps the machine code alive


@functools.cache
def kernel_address(feed: str, tiles: tuple[Tile, ...]) -> int:
    """Return the address of the compiled loops of a feed round its tiles."""
    widths = "x".join(str(tile.width) for tile in tiles[::2])
    label = f"{feed}_{tiles[0].label}_w{widths}"
    compiled = jit.compile_kernel(BUILDERS[feed](list(tiles)), label)
    COMPILED.append(compiled)
    return int(compiled.address)
