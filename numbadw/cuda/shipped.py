"""The kernels that ordinary layers get, for whatever wants to see each of them.

The planner itself is asked, over the sizes, layouts and element kinds of real networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from numbadw.activations import ACTIVATIONS
from numbadw.cuda import plan, plan_kernel_grad
from numbadw.cuda.emit import ITEMSIZE
from numbadw.cuda.kernel_grad import is_wide
from numbadw.cuda.spec import Spec
from numbadw.geometry import make_geometry

KINDS = ("f32", "f16", "bf16", "f64")
# Image sides and channels: vectors fit a large grid and a small one, or do not fit.
SHAPES = ((112, 96), (14, 96), (7, 5))


def launches(
    kind: str,
    side: int,
    stride: int,
    dilation: int,
    m: int,
    first: bool,
    shape: tuple[int, int],
    activation: str = "linear",
) -> Iterator[plan.Launch]:
    """Give the launches of all passes over a batch of 32 images."""
    size, c = shape
    x = (32, c, size, size) if first else (32, size, size, c)
    geometry = make_geometry(
        x, (side, side, c, m), (stride,) * 2, "same", (dilation,) * 2, first
    )
    problem = plan.Problem(geometry, kind, 16)
    o, x_strides = (
        plan.dense(sizes, ITEMSIZE[kind]) for sizes in (geometry.output_shape, x)
    )
    yield from plan.forward(problem, x_strides, o, activation)
    if activation != "linear":
        yield from plan.forward(problem, x_strides, o, activation, o)
    yield from plan.input_grad(problem, x_strides, o)
    yield from plan_kernel_grad.kernel_grad(problem, x_strides, o)[0]


def specs() -> list[Spec]:
    """List every kernel of these layers once, in a fixed order."""
    found: dict[Spec, None] = {}
    problems = [
        *itertools.product(KINDS, (3, 5, 7), (1, 2), (False, True), SHAPES[:1]),
        *itertools.product(["f32"], (3, 5, 7), (1, 2), (False, True), SHAPES[1:]),
        *itertools.product(["f32"], (13, 31), [1], (False, True), SHAPES[:1]),
    ]
    for kind, side, stride, first, shape in problems:
        for step in launches(kind, side, stride, 1, 1, first, shape):
            found[step.spec] = None
    for m, first in itertools.product((2, 3, 8), (False, True)):
        for step in launches("f32", 3, 1, 1, m, first, SHAPES[0]):
            found[step.spec] = None
    for kind, first in itertools.product(KINDS, (False, True)):
        for step in launches(kind, 3, 1, 2, 1, first, SHAPES[0]):
            found[step.spec] = None
    for name in ACTIVATIONS:
        for step in launches("f32", 3, 1, 1, 1, False, SHAPES[0], name):
            found[step.spec] = None
    return list(found)


def families() -> list[Spec]:
    """List one kernel of every family, and of tiles one of each form."""
    found: dict[tuple[str, bool, bool, bool], Spec] = {}
    for spec in specs():
        half = spec.family == "forward_tile" and spec.kind == "bf16"
        if half or spec.kind == "f32":
            wide = spec.family == "kernel_grad_tile" and is_wide(spec)
            found.setdefault((spec.family, spec.chunk > 1, half, wide), spec)
    return list(found.values())
