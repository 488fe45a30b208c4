"""A child process: pointwise and separable arrays between pages not to be touched.

    python guarded_pointwise.py

As `guarded.py`, for the tile of matrix products: sizes beside every height and width of
it, both layouts; the gradients' results, which are made inside, are not guarded.
"""

import contextlib
import faulthandler
import itertools

import numpy as np
from guarded import guarded, say

import numbadw as ndw
from numbadw import jit
from numbadw.cpu import separable
from numbadw.cpu.plan_pointwise import HEIGHTS
from numbadw.cpu.pointwise import DEPTH

LANES = jit.target().vector_bytes // 4
TILES = HEIGHTS[32 if jit.target().registers >= 32 else 16]


def shapes():
    """Yield (n, h, w, c, f) beside the sizes of every tile."""
    for width, height in TILES.items():
        for pixels, f in itertools.product((-1, 0, 1), (-1, 0, 1)):
            yield 2, 1, height + pixels, 3, width * LANES + f
    yield from ((2, 3, 5, c, 9) for c in (1, LANES + 1, DEPTH - 1, DEPTH + 1))
    yield 2, 7, 7, 65, 2 * max(TILES) * LANES + 1
    yield from ((1, 1, 1, 5, p * 2 * LANES + f) for p in (3, 5) for f in (-1, 0, 1))


def compare(results, rights):
    """Stop where a result is far from the float64 one."""
    for result, right in zip(results, rights, strict=True):
        room = 1e-4 * max(1.0, abs(right).max())
        if not np.allclose(result, right, rtol=0, atol=room):
            raise SystemExit("wrong result")


def run(shape, first, end, rng):
    """Compute forward and back with guards at one end of all arrays."""
    n, h, w, c, f = shape
    say(f"{'nchw' if first else 'nhwc'} {shape} {'end' if end else 'begin'}")
    sizes = [(n, h, w, c), (n, h, w, f)]
    if first:
        sizes = [(n, c, h, w), (n, f, h, w)]
    arrays = [
        rng.standard_normal(size).astype("f4")
        for size in (sizes[0], (c, f), (f,), sizes[1])
    ]
    options = {"data_format": "channels_first" if first else "channels_last"}
    wide = [array.astype("f8") for array in arrays]
    with contextlib.ExitStack() as stack:
        x, k, b, g = (stack.enter_context(guarded(array, end)) for array in arrays)
        out = stack.enter_context(guarded(arrays[3], end))
        ndw.pointwise_conv2d(x, k, b, out=out, **options)
        right = ndw.pointwise_conv2d(*wide[:3], backend="reference", **options)
        compare([out.copy()], [right])
        out[...] = np.nan
        ndw.prepare_pointwise_conv2d(k, b, **options)(x, out)
        compare([out.copy()], [right])
        options["activation"] = "silu"
        results = ndw.pointwise_conv2d_grad(x, k, g, bias=b, **options)
        rights = ndw.pointwise_conv2d_grad(
            *wide[:2], wide[3], bias=wide[2], backend="reference", **options
        )
        compare(results, rights)
        del x, k, b, g, out


def run_separable(end, rng):
    """Compute by bands of rows, the last one smaller."""
    say(f"nhwc separable {'end' if end else 'begin'}")
    separable.LEAST_BYTES = 0  # bands though it is small
    shapes = (2, 51, 80, 33), (3, 3, 33, 1), (33, 17), (17,), (2, 51, 80, 17)
    arrays = [rng.standard_normal(shape).astype("f4") for shape in shapes]
    with contextlib.ExitStack() as stack:
        x, dk, pk, b, out = (stack.enter_context(guarded(a, end)) for a in arrays)
        ndw.separable_conv2d(x, dk, pk, b, padding="same", out=out)
        wide = [array.astype("f8") for array in arrays[:4]]
        right = ndw.separable_conv2d(*wide, padding="same", backend="reference")
        compare([out.copy()], [right])
        del x, dk, pk, b, out


if __name__ == "__main__":
    faulthandler.enable()
    generator = np.random.default_rng(5)
    for shape, first, end in itertools.product(shapes(), (False, True), (False, True)):
        run(shape, first, end, generator)
    for end in (False, True):
        run_separable(end, generator)
    say("all guards held")
