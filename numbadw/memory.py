"""Arrays that start where the caches like it, which NumPy's own allocator ignores.

On a cache line, and out of step with each other.  A cache finds a line by some bits of
its address, its set, and a set holds a dozen lines.  With 512 channels of float32 the
pixels of an image are 2 KiB apart: the same channels of all pixels, of all taps and of
all results lie in two sets each.  Where inputs, weights and results begin at the same
place within a page, as large arrays do that come from the system, these are the same
two sets, and what a tile needs next is thrown out before.  So results begin half of
2 KiB past their inputs, and weights that are ours a quarter past a multiple.  One Zen 5
core, from in step to out of step: 14x14x512 3x3 21.7 -> 14.5 us, 7x7x1024 3x3
17.3 -> 10.2 us, 14x14x512 5x5 59 -> 37 us.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64
# Bytes within which arrays are kept out of step, and where in them weights begin.
STEP = 2048
WEIGHTS_AT = STEP // 4
# Below this a vector that straddles two lines costs less than aligning (0.5 us).
SMALL_BYTES = 16 * 1024
DATA = object.__basicsize__  # the data pointer follows the object header
_pointer_at = ctypes.c_void_p.from_address
Maker = Callable[[npt.NDArray[Any] | None], npt.NDArray[Any]]


# Memory of results that their owners have dropped serves again: new pages from the
# system cost more than a convolution (1.8 MB: 90 us, the 3x3 gradients that fill them
# 130). So many buffers and bytes are kept, of at least the size malloc maps anew.
KEPT_BUFFERS = 8
KEPT_BYTES = 64 * 1024 * 1024
LEAST_KEPT = 128 * 1024
# The buffers, where they begin, and what their memory was last lent as: an object that
# whatever sees this memory, a view of a view or an exported buffer, keeps alive. So no
# references are counted, which would not tell the same on every Python.
_Kept = tuple[npt.NDArray[np.uint8], int, weakref.ref[Any]]
_kept: deque[_Kept] = deque()


def _too_many(more: int) -> bool:
    """Tell whether a new buffer of so many bytes goes beyond what is kept."""
    sizes = [len(kept[0]) for kept in tuple(_kept)]  # in one step, as threads share
    return len(sizes) >= KEPT_BUFFERS or sum(sizes) + more > KEPT_BYTES


def _buffer(size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Return a buffer of at least `size` bytes that nobody refers to, and its address.

    Every buffer is out of the deque while it is looked at, so no two threads take one.
    """
    for _ in range(len(_kept)):
        try:
            kept = _kept.popleft()
        except IndexError:  # another thread was faster
            break
        buffer, start, lent = kept
        if size <= len(buffer) <= 2 * size and lent() is None:
            return buffer, start
        _kept.append(kept)
    while _kept and _too_many(size):
        with contextlib.suppress(IndexError):
            _kept.popleft()
    buffer = np.empty(size, np.uint8)
    return buffer, address(buffer)


def aligned_empty(
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    small: int = 0,
    beside: npt.NDArray[Any] | None = None,
    multiple: int = LINE,
    offset: int = 0,
) -> npt.NDArray[Any]:
    """Return an uninitialised C-ordered array whose data starts on a cache line.

    Arrays of fewer than `small` bytes come as NumPy allocates them.  With `beside` the
    data starts out of step with that array's; else `offset` bytes past a multiple of
    `multiple`: 16 past a line is what NumPy itself gives on 64-bit Linux.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < small:
        return np.empty(shape, dtype)
    if beside is not None:
        multiple = STEP
        offset = (address(beside) + STEP // 2 + LINE - 1 & -LINE) % STEP
    array: npt.NDArray[Any]
    room = size + multiple + offset
    if not LEAST_KEPT <= room <= KEPT_BYTES:
        buffer = np.empty(room, np.uint8)
        array = np.ndarray(shape, dtype, buffer, -address(buffer) % multiple + offset)
        return array
    buffer, start = _buffer(room)
    place = start + -start % multiple + offset
    # An object by address takes a quarter of the time of one that exports the buffer.
    lent: Any = (ctypes.c_char * size).from_address(place)
    lent.buffer = buffer
    _kept.append((buffer, start, weakref.ref(lent)))
    array = np.ndarray(shape, dtype, lent)
    return array


def maker(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Maker:
    """Return what makes results of a kind, out of step with an array if there is one.

    What the kind alone decides is decided here, which saves 0.3 us a result.
    """
    if math.prod(shape) * dtype.itemsize < SMALL_BYTES:
        return lambda beside: np.empty(shape, dtype)
    return lambda beside: aligned_empty(shape, dtype, beside=beside)


def require(shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    """Raise a MemoryError where an array does not fit, before anything plans for it."""
    # NumPy refuses shapes that are too large but for a size of 0, too.
    size = math.prod(max(1, size) for size in shape) * np.dtype(dtype).itemsize
    if size > sys.maxsize // 2:
        raise MemoryError(f"an array of shape {shape} and dtype {dtype} fits nowhere")
    if size > KEPT_BYTES:
        np.empty(size, np.uint8)


def address(array: npt.NDArray[Any]) -> int:
    """Return the address of an array's first element (`array.ctypes` takes 0.7 us)."""
    return _pointer_at(id(array) + DATA).value or 0


def weights_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an uninitialised array for weights, out of step with large arrays."""
    return aligned_empty(shape, dtype, multiple=STEP, offset=WEIGHTS_AT)


def weights_copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a C-ordered copy of weights, out of step with large arrays."""
    copy = weights_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def aligned_copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a C-ordered copy whose data starts on a cache line."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of a C-ordered array."""
    strides = []
    for size in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(1, size)
    return tuple(reversed(strides))
