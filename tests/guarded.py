"""A child process: every array between two pages that may not be touched.

    python guarded.py [inspect]

A read or write outside an array ends the process; the line printed last names the
case.  With `inspect` the last line is JSON: which vector registers and instructions
the code compiled here uses (an empty cache folder makes sure that all of it is).
"""

import contextlib
import ctypes
import faulthandler
import itertools
import json
import mmap
import re
import sys

import numpy as np
from cases import FORMS, Case, assert_close, lanes, widths

import numbadw as ndw
from numbadw import dispatch, functional, jit
from numbadw.cpu import kernels, plan_tiles
from numbadw.cpu.caches import Caches

PROT_NONE = 0
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def say(line):
    """Write a line that is out before anything can go wrong."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def guarded(array, end):
    """Give a copy that begins (or ends) at a page without access rights."""
    room = -(-array.nbytes // PAGE) * PAGE or PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    handle = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(handle)
    offset = PAGE + (room - array.nbytes if end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    for page in (start, start + PAGE + room):
        if libc.mprotect(page, PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    yield copy
    del copy, handle
    with contextlib.suppress(BufferError):  # a view that the caller kept
        memory.close()


def run(case, rng):
    """Compute a case with guards at either end of all four arrays."""
    x, w, b = case.arrays(rng)
    o = np.zeros(case.geometry.output_shape, case.dtype)
    say(case.label)
    for end in (False, True):
        with contextlib.ExitStack() as stack:
            x_, w_, b_, o_ = (
                stack.enter_context(guarded(array, end)) for array in (x, w, b, o)
            )
            ndw.depthwise_conv2d(x_, w_, b_, out=o_, **case.options)
            assert_close(o_.copy(), x, w, b, **case.options)
            del x_, w_, b_, o_


def problems():
    """Yield cases of every feed and form, whole and with tails in both directions."""
    f32, f64 = lanes("float32"), lanes("float64")
    shapes = [
        # first, kernel, strides, m, dtype, channels
        (False, (3, 3), (1, 1), 1, "float32", (f32 - 1, f32, f32 + 1, 3 * f32)),
        (False, (3, 3), (2, 2), 1, "float32", (f32, f32 + 1)),
        (False, (5, 5), (1, 1), 1, "float32", (f32, f32 + 1)),
        (False, FORMS["wide"][0], (1, 1), 1, "float32", (f32, f32 + 1)),
        (False, (3, 3), (1, 1), 2, "float32", (f32 // 2, f32 - 1)),
        (False, (3, 3), (1, 1), 3, "float32", (f32, f32 + 1)),
        (False, (3, 3), (1, 1), 4, "float32", (3,)),
        (False, (3, 3), (1, 1), f32 + 1, "float32", (1, 3)),
        (False, (3, 3), (1, 1), 1, "float64", (f64, f64 + 1)),
        # Few channels, all together in the row.
        (False, (5, 5), (1, 1), 1, "float32", (1, 3, f32 // 2)),
        (False, (3, 3), (2, 1), 2, "float32", (1, 2)),
        (False, (3, 3), (1, 2), 1, "float64", (1, 3)),
        (False, (2, 3), (2, 2), 2, "float32", (1, 3)),
        (False, (2, 4), (3, 3), 1, "float32", (1, 3, f32 // 2)),
        (False, (2, 3), (1, 5), 1, "float64", (3,)),
        # Packed, or one plane at a time where rows are long.
        (True, (3, 3), (1, 1), 1, "float32", (1, f32 - 1, f32 + 1)),
        (True, (3, 3), (2, 2), 2, "float32", (f32 + 1,)),
        (True, (3, 3), (2, 2), 1, "float64", (1, 2)),
    ]
    pads = itertools.cycle([((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 2), (3, 0))])
    for first, kernel, strides, m, dtype, channels in shapes:
        for c in channels:
            base = Case(9, 99, c, m, kernel, strides, "same", (1, 1), first, dtype)
            for ow in widths(base):
                w = (ow - 1) * strides[1] + kernel[1]
                case = base._replace(w=w, h=kernel[0] + ow % 5, padding=next(pads))
                yield case
            far = ((14, 9), (40, 25))
            yield base._replace(h=7, w=11, dilation=(2, 3), padding=far)


def strided():
    """Yield cases of stride 2, images planned as if they did not fit the caches."""
    plan_tiles.caches = lambda: Caches(second=0)
    functional._calls.clear()
    dispatch.bind_forward.cache_clear()
    for case in problems():
        if case.strides == (2, 2) and not case.first:
            yield case._replace(h=case.h + 8)


def views(rng):
    """Guard a large array of which a view is convolved: packed feed, odd strides."""
    big = rng.standard_normal((1, 12, 26, 2 * lanes() + 3)).astype("f4")
    for end in (False, True):
        with guarded(big, end) as whole:
            for turn in (
                lambda a: a[:, ::-1, ::-1, ::-1],
                lambda a: a[:, 1:, ::2, 1::2],
                lambda a: a.transpose(0, 2, 1, 3),
                lambda a: a.transpose(0, 3, 2, 1),
            ):
                x = turn(whole)
                w = rng.standard_normal((3, 3, x.shape[3], 1)).astype("f4")
                say(f"view {x.shape} {x.strides}")
                assert_close(ndw.depthwise_conv2d(x, w), turn(big), w)
            del x


def used():
    """Return what the code compiled here uses."""
    code = "".join(c._library.get_asm_str() for c in kernels.COMPILED)
    words = ("zmm", "ymm", "xmm", "vfmadd", "mulps")
    found = {word: len(re.findall(rf"\b{word}", code)) for word in words}
    return found | {"target": jit.target(), "kernels": len(kernels.COMPILED)}


if __name__ == "__main__":
    faulthandler.enable()
    generator = np.random.default_rng(5)
    for problem in problems():
        run(problem, generator)
    views(generator)
    for problem in strided():
        run(problem, generator)
    if "inspect" in sys.argv:
        say(json.dumps(used()))
    say("all guards held")
