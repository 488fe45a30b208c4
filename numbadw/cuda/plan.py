"""From a problem to launches: which kernels, on which grid, with which numbers.

A plan is a list of launches.  Each names its arrays, so a call only has to fill in
addresses.  Nothing here needs a device: tests run the same launches on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from numbadw.cuda import table
from numbadw.cuda.emit import ITEMSIZE, WIDEST
from numbadw.cuda.spec import Sizes, Spec
from numbadw.cuda.table import THREADS, Tile
from numbadw.geometry import Geometry

# Blocks along the second and third axis of a grid.
GRID = 65535
LIMIT = 2**31 - 2**16
Strides = tuple[int, ...]


class Launch(NamedTuple):
    """One kernel: its grid in blocks, its numbers, and its arrays by name and offset.

    `arrays` are the six of `spec.argument_types`, (name, bytes) each; an empty name is
    address 0.
    """

    spec: Spec
    grid: tuple[int, int, int]
    sizes: Sizes
    arrays: tuple[tuple[str, int], ...]


class Images(NamedTuple):
    """Where the elements of a batch of images lie: byte strides by axis."""

    image: int
    row: int
    column: int
    channel: int

    @classmethod
    def of(cls, strides: Strides, channels_first: bool) -> Images:
        """Take an array's strides in its own order of axes."""
        n, a, b, c = strides
        return cls(n, b, c, a) if channels_first else cls(n, a, b, c)


NOWHERE = Images(0, 0, 0, 0)


class Problem(NamedTuple):
    """A geometry, the element kind, and the largest power of two dividing addresses."""

    geometry: Geometry
    kind: str
    align: int

    @property
    def itemsize(self) -> int:
        """Return the bytes of an element."""
        return ITEMSIZE[self.kind]


def built_in(spec: Spec, g: Geometry) -> Spec:
    """Build kernel size and strides in."""
    return spec._replace(kh=g.kh, kw=g.kw, sh=g.sh, sw=g.sw)


def dense(shape: tuple[int, ...], itemsize: int) -> Strides:
    """Return the strides of a C-ordered array."""
    return tuple(itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))


def forward(
    problem: Problem,
    x: Strides,
    o: Strides,
    activation: str,
    grad: Strides | None = None,
    names: tuple[str, str, str] = ("x", "b", "o"),
) -> list[Launch]:
    """Plan the forward pass; with `grad`, grad times the activation's derivative."""
    g = problem.geometry
    first = g.channels_first
    images = Images.of(x, first), Images.of(o, first)
    other = NOWHERE if grad is None else Images.of(grad, first)
    weights = dense(g.kernel_shape, problem.itemsize)
    sizes = sizes_of(g, *images, other, (weights[0], weights[1], problem.itemsize))
    base = Spec("", problem.kind, problem.kind, activation=activation)
    base = base._replace(derive=grad is not None)
    extra = "g" if grad is not None else ""
    source, bias, target = names
    arrays = ((source, 0), ("w", 0), (bias, 0), (target, 0), (extra, 0), ("", 0))
    return _convolve(problem, base, sizes, arrays, (*images, other))


def input_grad(
    problem: Problem, x_grad: Strides, grad: Strides, name: str = "g"
) -> list[Launch]:
    """Plan the gradient at the inputs; `name` is the array of the gradient."""
    g = problem.geometry
    written = Images.of(x_grad, g.channels_first)
    read = Images.of(grad, g.channels_first)
    w_row, w_column, _, _ = dense(g.kernel_shape, problem.itemsize)
    base = Spec("", problem.kind, problem.kind)
    if g.m == 1 and g.sh == g.sw == 1:
        # The forward pass over grad, with the kernel turned round.
        turned = replace(
            g,
            h=g.oh,
            w=g.ow,
            oh=g.h,
            ow=g.w,
            pt=(g.kh - 1) * g.dh - g.pt,
            pl=(g.kw - 1) * g.dw - g.pl,
        )
        steps = -w_row, -w_column, problem.itemsize
        sizes = sizes_of(turned, read, written, NOWHERE, steps)
        last = (g.kh - 1) * w_row + (g.kw - 1) * w_column
        arrays = ((name, 0), ("w", last), ("", 0), ("x_grad", 0), ("", 0), ("", 0))
        other = problem._replace(geometry=turned)
        return _convolve(other, base, sizes, arrays, (read, written, NOWHERE))
    arrays = ((name, 0), ("w", 0), ("", 0), ("x_grad", 0), ("", 0), ("", 0))
    steps = w_row, w_column, problem.itemsize
    sizes = sizes_of(g, read, written, NOWHERE, steps)
    tile = None
    if g.m == 1 and g.dh == g.dw == 1:
        tile = table.input_grad_tile(g.kh, g.kw, g.sh, g.sw, problem.kind)
    v = 1
    if g.m == 1:
        v = vector(problem, g.c, (read, written, NOWHERE), 16 // problem.itemsize)
    if tile is None:
        spec = base._replace(family="input_grad_any", v=v, vx=v, blocks=5)
        return _grid(spec, sizes, arrays, g.w, g.h, g.c, written)
    while v > 4:
        v //= 2
    spec = built_in(base, g)._replace(
        family="input_grad_tile",
        v=v,
        vx=v,
        tw=tile.tw,
        blocks=tile.blocks,
    )
    # Tiles begin where tap 0 of an output reads, so up to sw - 1 pixels to the left.
    return _grid(spec, sizes, arrays, g.w + g.pl % g.sw, g.h, g.c, written)


def _convolve(
    problem: Problem,
    base: Spec,
    sizes: Sizes,
    arrays: tuple[tuple[str, int], ...],
    images: tuple[Images, Images, Images],
) -> list[Launch]:
    """Plan a stride-by-stride pass over the images: a tile, or the general kernel."""
    g, (_, written, _) = problem.geometry, images
    channels = g.out_channels
    spec = None
    if g.dh == g.dw == 1 and max(g.sh, g.sw) <= 2:
        spec = _tile(problem, base, images)
    if spec is None:
        together = channels_together(problem, images)
        most = 16 // problem.itemsize if together else 1
        v = vector(problem, channels, images, min(4, most))
        spec = base._replace(
            family="forward_any",
            v=v,
            vx=max(1, v // g.m),
            tw=4 if together else 1,
            blocks=4,
        )
        return _grid(spec, sizes, arrays, g.ow, g.oh, channels, written)
    return _grid(spec, sizes, arrays, g.ow, g.oh, channels, written)


def _tile(
    problem: Problem, base: Spec, images: tuple[Images, Images, Images]
) -> Spec | None:
    """Choose the tile whose size and strides are built in, if there is one."""
    g, kind = problem.geometry, problem.kind
    base = built_in(base, g)._replace(family="forward_tile")
    if not channels_together(problem, images):
        chunk = _chunk(problem, images)
        tile = table.row_tile(g.kh, g.kw, g.sw, kind) if chunk > 1 else None
        if tile is None:
            chunk, tile = 1, table.column_tile(g.kh, g.kw, kind)
        return None if tile is None else _sized(base, tile, 1, 1, chunk, g)
    most = 2 if max(g.kh, g.kw) > 7 else WIDEST // problem.itemsize
    v = vector(problem, g.out_channels, images, most)
    tile = None
    while v and tile is None:
        lanes = g.n * g.oh * g.ow * g.out_channels // (8 * v)
        small = lanes < table.SMALL_GRID
        tile = table.forward_tile(g.kh, g.kw, g.sw, v, kind, small)
        v = v if tile else v // 2
    return None if tile is None else _sized(base, tile, v, max(1, v // g.m), 1, g)


def _sized(base: Spec, tile: Tile, v: int, vx: int, chunk: int, g: Geometry) -> Spec:
    shift = -g.pl % chunk
    return base._replace(
        v=v,
        vx=vx,
        th=tile.th,
        tw=tile.tw,
        blocks=tile.blocks,
        chunk=chunk,
        shift=shift,
    )


def _grid(
    spec: Spec,
    sizes: Sizes,
    arrays: tuple[tuple[str, int], ...],
    width: int,
    height: int,
    channels: int,
    written: Images,
) -> list[Launch]:
    """Lay threads over what is written; a grid that is too large goes in pieces."""
    first = abs(written.column) < abs(written.channel)
    strips, vectors = -(-width // spec.tw), channels // spec.v
    fast, slow = (strips, vectors) if first else (vectors, strips)
    spec = spec._replace(first=first)
    if fast * slow >= LIMIT:
        msg = f"rows of {width} pixels and {channels} channels are too long for CUDA"
        raise ValueError(msg)
    across, rows = -(-fast * slow // THREADS), -(-height // spec.th)
    steps = sizes.x_image, 0, 0, sizes.o_image, sizes.g_image, 0
    launches = []
    for y0 in range(0, rows, GRID):
        for z0 in range(0, sizes.n, GRID):
            grid = across, min(GRID, rows - y0), min(GRID, sizes.n - z0)
            moved = tuple(
                (name, offset + z0 * step)
                for (name, offset), step in zip(arrays, steps, strict=True)
            )
            own = sizes._replace(fast=fast, slow=slow, y0=y0)
            launches.append(Launch(spec, grid, own, moved))
    return launches


def vector(
    problem: Problem, channels: int, images: tuple[Images, ...], most: int
) -> int:
    """Give the channels that one access may hold: a power of two up to `most`."""
    g, item = problem.geometry, problem.itemsize
    used = [image for image in images if image != NOWHERE]
    if any(image.channel != item for image in used):
        return 1
    steps = [step for image in used for step in image[:3]]
    v = most
    while v > 1:
        lined_up = problem.align % (v * item) == 0 and channels % v == 0
        whole = v % g.m == 0 or g.m % v == 0
        # With a multiplier the inputs are read in vectors of v / m channels.
        if lined_up and whole and all(step % (v * item) == 0 for step in steps[3:]):
            narrow = max(1, v // g.m) * item
            if all(step % narrow == 0 for step in steps[:3]):
                return v
        v //= 2
    return 1


def channels_together(problem: Problem, images: tuple[Images, ...]) -> bool:
    """Tell whether a pixel's channels are neighbours in all images, as a tile wants.

    The strides tell, not the layout's name: PyTorch's channels_last tensors count as
    channels first.
    """
    used = [image for image in images if image != NOWHERE]
    return all(image.channel == problem.itemsize for image in used)


def _chunk(problem: Problem, images: tuple[Images, Images, Images]) -> int:
    """Give the columns that one access along a row may hold, 1 or 16 bytes' worth."""
    g, item = problem.geometry, problem.itemsize
    used = [image for image in images if image != NOWHERE]
    for chunk in (WIDEST // item, 4):
        size = chunk * item
        fits = all(
            image.column == item
            and not any(step % size for step in (image.image, image.row, image.channel))
            for image in used
        )
        lined_up = problem.align % size == 0 and g.w % chunk == g.ow % chunk == 0
        if fits and lined_up:
            return chunk
    return 1


def check_sizes(g: Geometry, *more: int) -> None:
    """Refuse what int32 indices cannot tell apart."""
    ends = (
        g.h + g.pt + g.pb,
        g.w + g.pl + g.pr,
        (g.oh + 64) * g.sh,
        (g.ow + 64) * g.sw,
        g.kh * g.dh,
        g.kw * g.dw,
        g.out_channels,
        g.n * g.oh,
        *more,
    )
    if max(ends) >= LIMIT:
        raise ValueError(f"sizes of 2**31 and more are too large for CUDA, got {g}")


def sizes_of(
    g: Geometry, x: Images, o: Images, grad: Images, w: tuple[int, int, int]
) -> Sizes:
    """Fill in the numbers that every kernel of a problem shares."""
    check_sizes(g)
    return Sizes(
        fast=1,
        slow=1,
        y0=0,
        n=g.n,
        h=g.h,
        w=g.w,
        oh=g.oh,
        ow=g.ow,
        c=g.c,
        m=g.m,
        kh=g.kh,
        kw=g.kw,
        sh=g.sh,
        sw=g.sw,
        dh=g.dh,
        dw=g.dw,
        pt=g.pt,
        pl=g.pl,
        groups=1,
        blocks=1,
        x_image=x.image,
        x_row=x.row,
        x_column=x.column,
        x_channel=x.channel,
        o_image=o.image,
        o_row=o.row,
        o_column=o.column,
        o_channel=o.channel,
        g_image=grad.image,
        g_row=grad.row,
        g_column=grad.column,
        g_channel=grad.channel,
        w_row=w[0],
        w_column=w[1],
        w_channel=w[2],
    )
