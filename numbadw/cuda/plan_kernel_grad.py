"""The launches of the gradients at kernel and bias: tiles, blocks and groups."""

from __future__ import annotations

from numbadw.cuda import table
from numbadw.cuda.emit import ITEMSIZE
from numbadw.cuda.plan import (
    GRID,
    NOWHERE,
    Images,
    Launch,
    Problem,
    Strides,
    built_in,
    channels_together,
    check_sizes,
    sizes_of,
    vector,
)
from numbadw.cuda.spec import Sizes, Spec
from numbadw.cuda.table import THREADS


def kernel_grad(
    problem: Problem, x: Strides, grad: Strides, name: str = "g"
) -> tuple[list[Launch], int]:
    """Plan the gradients at kernel and bias; give the bytes of the parts, too."""
    g = problem.geometry
    channels = g.out_channels
    images = Images.of(x, g.channels_first), Images.of(grad, g.channels_first)
    sizes = sizes_of(g, images[0], NOWHERE, images[1], (0, 0, 0))._replace(c=channels)
    own = "f64" if problem.kind == "f64" else "f32"
    base = Spec("", problem.kind, problem.kind)
    chosen = table.kernel_grad_tile(g.kh, g.kw, problem.kind)
    if chosen is None or max(g.sh, g.sw) > 2 or max(g.dh, g.dw) > 1:
        spec, sizes, lanes, work = _kernel_grad_any(problem, base, sizes, images)
    else:
        rows, most, tile = chosen
        v = vector(problem, channels, (images[0], images[1], NOWHERE), most)
        together = channels_together(problem, images)
        count = g.kh // rows * (channels // v)
        across = min(32, _power(count)) if together else 1
        spec = built_in(base, g)._replace(
            family="kernel_grad_tile",
            kh=rows,
            v=v,
            vx=max(1, v // g.m),
            th=tile.th,
            tw=tile.tw,
            blocks=tile.blocks,
            across=across,
        )
        strips = -(-g.ow // tile.tw)
        tiles = g.n * -(-g.oh // tile.th) * strips
        sizes = sizes._replace(fast=strips, slow=tiles)
        lanes, work = count, -(-tiles // (8 * (THREADS // across)))
    blocks = -(-lanes // spec.across)
    groups = min(GRID, max(1, min(work, -(-table.FILL // blocks)), -(-work // 512)))
    sizes = sizes._replace(groups=groups, blocks=blocks)
    arrays = (("x", 0), ("", 0), ("", 0), ("", 0), (name, 0), ("part", 0))
    sums = (spec.kh * spec.kw + 1) * spec.v if spec.kh else spec.tw + 1
    adding = Spec(
        "sum_parts",
        own,
        problem.kind,
        kh=spec.kh,
        kw=spec.kw,
        v=spec.v,
        vx=spec.v,
        tw=spec.tw,
        across=spec.across,
        blocks=4,
    )
    results = (("", 0), ("w_grad", 0), ("b_grad", 0), ("", 0), ("", 0), ("part", 0))
    items = -(-(g.kh * g.kw + 1) * channels // THREADS)
    check_sizes(g, items * THREADS)
    return [
        Launch(spec, (blocks, groups, 1), sizes, arrays),
        Launch(adding, (items, 1, 1), sizes, results),
    ], groups * blocks * sums * spec.across * ITEMSIZE[own]


def _kernel_grad_any(
    problem: Problem, base: Spec, sizes: Sizes, images: tuple[Images, Images]
) -> tuple[Spec, Sizes, int, int]:
    """Give spec, sizes, lanes and rows of work of the kernel for any size."""
    g = problem.geometry
    together = channels_together(problem, images)
    down = 4 if together else min(THREADS, max(4, _power(g.ow)))
    tw = min(4, g.kw)
    spec = base._replace(
        family="kernel_grad_any", tw=tw, across=THREADS // down, blocks=6
    )
    chunks = -(-g.kw // tw)
    lines = g.n * g.oh
    sizes = sizes._replace(fast=chunks, slow=lines)
    return spec, sizes, g.kh * chunks * g.out_channels, -(-lines // 4)


def _power(number: int) -> int:
    """Give the smallest power of two that is not below a number."""
    return 1 << max(0, number - 1).bit_length()
