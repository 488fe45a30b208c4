"""Thread bodies of the CUDA kernels compiled for the CPU and run over whole grids.

The bodies and their words are those that a GPU runs, the plans too; one thread runs
after the other, a block's threads once before and once after its barrier.
"""

import functools

import numpy as np
from numba import njit
from numba.core import types

from numbadw.cuda import emit, kernels, plan
from numbadw.cuda.spec import NARROW, Sizes, Spec, argument_types

# The threads' hardware: see `emit.SCENE`; shared memory behind it.
SCENE = np.zeros(16 + 2**15, np.int32)
KINDS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}


@functools.cache
def driver(spec: Spec):
    """Compile a kernel's body and the loops that stand for its grid.

    With `backwards`, blocks and threads run from the last to the first: what depended
    on their order, as a race does, would show.
    """
    target = emit.cpu_target(SCENE.ctypes.data)
    body = njit(kernels.make_body(spec, target))
    threads, blockwise = spec.threads, spec.family in kernels.BLOCKWISE

    def run(scene, backwards, gx, gy, gz, x, w, b, o, g, part, p, slope):  # noqa: PLR0913
        for image in range(gz):
            scene[2] = image
            for row in range(gy):
                scene[1] = row
                for turn in range(gx):
                    block = gx - 1 - turn if backwards else turn
                    scene[4] = block
                    for side in range(-1, 2, 2) if blockwise else range(1):
                        scene[5] = side
                        for number in range(threads):
                            thread = threads - 1 - number if backwards else number
                            scene[3] = thread
                            scene[0] = block * threads + thread
                            body(x, w, b, o, g, part, p, slope)

    int64, grid = types.int64, (types.int32[::1], *(types.int64,) * 4)
    assert kernels.shared_bytes(spec) <= SCENE.nbytes - emit.SHARED_AT
    assert argument_types(spec)[0] == int64
    return njit((*grid, *argument_types(spec)))(run)


def typed(sizes):
    """Give the numbers as NumPy scalars of a kernel's own types."""
    narrow = [np.int32(number) for number in sizes[:NARROW]]
    wide = [np.int64(number) for number in sizes[NARROW:]]
    return Sizes(*narrow, *wide)


def launch(step: plan.Launch, arrays, slope=0.0, backwards=False):
    """Run one launch on NumPy arrays by name; a missing array is address 0."""
    addresses = [
        arrays[name].ctypes.data + offset if arrays.get(name) is not None else 0
        for name, offset in step.arrays
    ]
    slope = np.float64(slope) if step.spec.kind == "f64" else np.float32(slope)
    driver(step.spec)(
        SCENE, int(backwards), *step.grid, *addresses, typed(step.sizes), slope
    )


def run(launches, arrays, slope=0.0, backwards=False):
    """Run launches in order."""
    for step in launches:
        launch(step, arrays, slope, backwards)


def alignment(arrays):
    """Give the largest power of two, up to 16, that divides all addresses."""
    together = 16
    for array in arrays:
        together |= array.ctypes.data
    return together & -together


def to_bf16(array):
    """Round float32 numbers to bfloat16: their bits, and what they stand for."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    top = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return top, from_bf16(top)


def from_bf16(bits):
    """Widen bfloat16 bits to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
