"""A child process: the gradients, every array between pages that may not be touched.

    python guarded_gradients.py [few]

As `guarded.py`, for the way back.  Results and scratch that the functions allocate lie
between such pages too, and hold NaN before they are written.  `few` leaves out what
only repeats the tiles of others with other numbers.
"""

import contextlib
import faulthandler
import itertools
import math
import sys
from unittest import mock

import numpy as np
from cases import FORMS, Case, fits, forget, lanes
from gradient_cases import assert_gradients_close, draw
from guarded import guarded, say
from views import VIEWS

import numbadw as ndw
from numbadw import gradients
from numbadw.cpu import backward, plan_both, plan_kernel_grad, plan_tiles, request
from numbadw.cpu.caches import Caches
from numbadw.cpu.plan import extent
from numbadw.memory import LINE


@contextlib.contextmanager
def fenced(array, end):
    """Give a copy with the strides of `array`: its outermost bytes meet the guards."""
    low, high = extent(array.shape, array.strides, array.itemsize)
    with guarded(np.full(high - low, 255, np.uint8), end) as room:
        copy = np.ndarray(array.shape, array.dtype, room, -low, array.strides)
        copy[...] = array
        yield copy
        del copy, room


def compute(case, arrays, end, activation=None, make=VIEWS["dense"]):
    """Give the gradients at inputs, kernel and bias, with guards at one end.

    The first two come from the functions of their own, too.  `make` turns an array
    into the view that is passed.
    """
    x, w, b, g = arrays
    with contextlib.ExitStack() as stack:

        def guard(array):
            return stack.enter_context(fenced(make(array), end))

        def allocate(shape, dtype, **place):
            """Give memory as `aligned_empty` does: the end is at most a line off."""
            dtype = np.dtype(dtype)
            count = math.prod(shape)
            room = -(-count * dtype.itemsize // LINE) * LINE // dtype.itemsize
            # Bytes of 255 are NaN as numbers of either size.
            array = np.full(room, np.nan if dtype.kind == "f" else 255, dtype)
            memory = stack.enter_context(guarded(array, end))
            return memory[:count].reshape(shape)

        def maker(shape, dtype):
            return lambda beside: allocate(shape, dtype)

        # What makes the results of known calls gives other memory, or none any more.
        gradients._calls.clear()
        stack.callback(gradients._calls.clear)
        for module, name, word in (
            (gradients, "maker", maker),
            (backward, "aligned_empty", allocate),
        ):
            stack.enter_context(mock.patch.object(module, name, word))
        x_, w_, g_ = map(guard, (x, w, g))
        b_ = stack.enter_context(guarded(b, end))
        results = ndw.depthwise_conv2d_grad(
            x_, w_, g_, bias=b_, activation=activation, **case.options
        )
        copies = [result.copy() for result in results]
        if activation is None:
            x_out, w_out = (guard(np.full_like(array, np.nan)) for array in (x, w))
            ndw.depthwise_conv2d_input_grad(g_, w_, x.shape, out=x_out, **case.options)
            ndw.depthwise_conv2d_kernel_grad(x_, g_, w.shape, out=w_out, **case.options)
            alone = x_out.copy(), w_out.copy(), None
            assert_gradients_close(alone, x, w, g, **case.options)
            del x_out, w_out
        del x_, w_, b_, g_, results
    return copies


def run(case, rng, activation=None, view="dense"):
    """Compute a case with guards at either end of all arrays."""
    x, w, b, g = arrays = draw(case, rng)
    say(f"{case.label} {activation or ''} {view}")
    begin, end = (
        compute(case, arrays, end, activation, VIEWS[view]) for end in (False, True)
    )
    assert_gradients_close(begin, x, w, g, b, activation, **case.options)
    for one, other in zip(begin, end, strict=True):
        np.testing.assert_array_equal(one, other)


def signatures(few):
    """Yield layout, kernel, strides, dilation, multiplier, dtype and channels.

    Together they take every tile, feed and order of copies of the way back.
    """
    f32, f64 = lanes("float32"), lanes("float64")
    some, one = "float32", (1, 1)
    around = f32 - 1, f32, f32 + 1
    yield False, (3, 3), one, one, 1, some, (*around, 3 * f32)
    yield False, (3, 3), (2, 2), one, 1, some, around
    yield False, (5, 5), (2, 2), one, 1, some, around
    yield False, (3, 3), one, one, 2, some, (f32 // 2, *around)
    yield False, (3, 3), (2, 2), one, 3, some, (f32 // 3, f32 + 1)
    # Few channels, all together in the row; packed, copied, or one plane at a time.
    yield False, (3, 3), one, one, 1, some, (1, 3)
    yield True, (3, 3), one, one, 1, some, (1, *around)
    if few:
        return
    yield False, (3, 3), (3, 3), one, 1, some, around
    yield False, (5, 5), one, one, 1, some, around
    yield False, (1, 1), (2, 2), one, 1, some, around
    yield False, FORMS["wide"][0], one, one, 1, some, around
    yield False, (2, 3), (4, 4), one, 1, some, around
    yield False, (3, 3), (2, 2), (3, 2), 1, some, around
    yield False, (3, 3), one, one, 8, some, (1, 3, f32 // 8 + 1)
    yield False, (3, 3), one, one, f32 + 1, some, (1, 3)
    yield False, (5, 5), (2, 2), one, 1, some, (1, 3)
    yield True, (3, 3), (2, 2), one, 1, some, (3, f32 + 1)
    yield False, (3, 3), one, one, 1, "float64", (f64 - 1, f64, f64 + 1)
    yield False, (3, 3), (2, 2), one, 2, "float64", (f64 + 1,)


def widths(case):
    """Return input widths at which inputs or outputs meet the tiles, and +-1."""
    tiles = {tile for plan in case.gradient_plans() for tile in plan.tiles}
    near = {tile.width + d for tile in tiles for d in (-1, 0, 1)} - {0}
    taps = (case.kernel[1] - 1) * case.dilation[1] + 1
    outputs = {(ow - 1) * case.strides[1] + taps for ow in near}
    return sorted({1, 2} | near | outputs)


PADDINGS = (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 2), (3, 0)), ((4, 1), (0, 6)))


def problems(few):
    """Yield cases of every signature, whole and with tails in both directions."""
    pads = itertools.cycle(PADDINGS)
    heights = itertools.cycle((1, 2, 3, 5, 9))
    for first, kernel, strides, dilation, m, dtype, channels in signatures(few):
        for c in channels:
            base = Case(9, 30, c, m, kernel, strides, "same", dilation, first, dtype)
            for w in widths(base):
                h, padding = next(heights), next(pads)
                case = base._replace(h=h, w=w, padding=padding, n=1 + w % 2)
                if fits(case):
                    yield case


# One of each order of copies, for what sizes do not change.
KINDS = (
    Case(9, 15, lanes() + 1, n=3),
    Case(9, 15, lanes(), strides=(2, 2), n=3),
    Case(9, 35, 3, n=3),
    Case(9, 35, lanes() + 1, first=True, n=3),
)


def kinds(rng):
    """Run activations, views, and what larger problems take."""
    for case in KINDS:
        run(case, rng, "relu")
        for view in sorted(set(VIEWS) - {"read_only", "byte_swapped"}):
            run(case, rng, view=view)
        with contextlib.ExitStack() as stack:
            for module in (backward, request):
                tiny = mock.patch.object(module, "caches", return_value=Caches(1))
                stack.enter_context(tiny)
            stack.enter_context(mock.patch.object(backward, "BAND_BYTES", 1))
            forget()
            run(case, rng)
            run(case, rng, "relu", "every_other")
        forget()


def swaths(rng):
    """Run whole vectors planned as if they did not fit the caches."""
    vectors = 4 * lanes()
    with contextlib.ExitStack() as stack:
        for module in (plan_both, plan_tiles, plan_kernel_grad):
            tiny = mock.patch.object(module, "caches", return_value=Caches(second=0))
            stack.enter_context(tiny)
        forget()
        for strides in ((1, 1), (2, 2), (2, 1)):
            for h, w in ((3, 8), (14, 40), (28, 29), (59, 65)):
                case = Case(h, w, vectors, strides=strides, n=2)
                run(case, rng)
                run(case._replace(c=vectors + 1), rng, "relu")
    forget()


if __name__ == "__main__":
    faulthandler.enable()
    generator = np.random.default_rng(5)
    for problem in problems("few" in sys.argv):
        run(problem, generator)
    kinds(generator)
    swaths(generator)
    say("all guards held")
