"""A child process: 2,000 random geometries between pages that may not be touched.

    python guarded_random.py

As `guarded.py` and `guarded_gradients.py`, which choose their cases by the tiles; here
sizes and paddings are drawn, forward and gradients each, from few kernels.
"""

import contextlib
import faulthandler

import numpy as np
from cases import Case, assert_close, fits, lanes
from gradient_cases import assert_gradients_close, draw
from guarded import guarded, say
from guarded_gradients import compute

import numbadw as ndw
from numbadw.cpu import kernels

COUNT = 2000
MOST_KERNELS = 60


def signatures():
    """Return first, kernel, strides, multiplier, dtype and channels to draw from."""
    f32, f64 = lanes("float32"), lanes("float64")
    many = [f32 - 1, f32, f32 + 1, 2 * f32, 2 * f32 + 3]
    return [
        (False, (3, 3), (1, 1), 1, "float32", many),
        (False, (3, 3), (2, 2), 1, "float32", many),
        (False, (3, 3), (1, 1), 1, "float32", [1, 3]),
        (False, (5, 4), (1, 1), 1, "float64", [f64 + 1, 2 * f64]),
        (True, (3, 3), (1, 1), 1, "float32", [1, 3, f32, f32 + 1]),
        (True, (3, 3), (2, 2), 1, "float32", many),
    ]


def draw_case(rng):
    """Return a case of any signature whose kernel fits the padded image."""
    first, kernel, strides, m, dtype, channels = signatures()[rng.integers(6)]
    sizes = {
        "n": int(rng.integers(1, 4)),
        "h": int(rng.integers(1, 13)),
        "w": int(rng.integers(1, 9 if rng.integers(2) else 60)),
        "c": int(rng.choice(channels)),
    }
    pads = rng.integers(0, 5, (2, 2)) * rng.integers(0, 2, (2, 2))
    padding = ["same", "valid", tuple(map(tuple, pads.tolist()))][rng.integers(3)]
    case = Case(
        m=m,
        kernel=kernel,
        strides=strides,
        padding=padding,
        first=first,
        dtype=dtype,
        **sizes,
    )
    return case if fits(case) else draw_case(rng)


def run(case, end, rng):
    """Compute a case forward and back, with guards at one end of all arrays."""
    say(case.label)
    x, w, b, g = arrays = draw(case, rng)
    with contextlib.ExitStack() as stack:
        x_, w_, b_, o_ = (
            stack.enter_context(guarded(array, end)) for array in (x, w, b, g)
        )
        ndw.depthwise_conv2d(x_, w_, b_, out=o_, **case.options)
        assert_close(o_.copy(), x, w, b, **case.options)
        del x_, w_, b_, o_
    assert_gradients_close(compute(case, arrays, end), x, w, g, b, **case.options)


if __name__ == "__main__":
    faulthandler.enable()
    generator = np.random.default_rng(11)
    for number in range(COUNT):
        run(draw_case(generator), bool(number % 2), generator)
    if len(kernels.COMPILED) > MOST_KERNELS:
        raise SystemExit(f"{len(kernels.COMPILED)} kernels compiled")
    say("all guards held")
