"""Arrays that start on a cache line, which NumPy's own allocator does not give."""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64
# Below this a vector that straddles two lines costs less than aligning (0.5 us).
SMALL_BYTES = 16 * 1024
_DATA = object.__basicsize__  # the data pointer follows the object header
_pointer_at = ctypes.c_void_p.from_address


# Memory of results that their owners have dropped serves again: new pages from the
# system cost more than a convolution (1.8 MB: 90 us, the 3x3 gradients that fill them
# 130). So many buffers and bytes are kept, of at least the size malloc maps anew.
KEPT_BUFFERS = 8
KEPT_BYTES = 64 * 1024 * 1024
LEAST_KEPT = 128 * 1024
# The buffers, and what their memory was last lent as: an object that whatever sees this
# memory, a view of a view or an exported buffer, keeps alive. So no references are
# counted, which would not tell the same on every Python.
_kept: deque[tuple[npt.NDArray[np.uint8], weakref.ref[Any]]] = deque()


def _too_many(more: int) -> bool:
    """Tell whether a new buffer of so many bytes goes beyond what is kept."""
    sizes = [len(buffer) for buffer, _ in tuple(_kept)]  # in one step, as threads share
    return len(sizes) >= KEPT_BUFFERS or sum(sizes) + more > KEPT_BYTES


def _buffer(size: int) -> npt.NDArray[np.uint8]:
    """Return a buffer of at least `size` bytes that nobody refers to.

    Every buffer is out of the deque while it is looked at, so no two threads take one.
    """
    for _ in range(len(_kept)):
        try:
            buffer, lent = _kept.popleft()
        except IndexError:  # another thread was faster
            break
        if size <= len(buffer) <= 2 * size and lent() is None:
            return buffer
        _kept.append((buffer, lent))
    while _kept and _too_many(size):
        with contextlib.suppress(IndexError):
            _kept.popleft()
    return np.empty(size, np.uint8)


def _lend(buffer: npt.NDArray[np.uint8], start: int, size: int) -> Any:
    """Return an object that is so many bytes of a buffer, and keep the buffer."""
    lent = (ctypes.c_char * size).from_buffer(buffer.data, start)
    _kept.append((buffer, weakref.ref(lent)))
    return lent


def aligned_empty(
    shape: tuple[int, ...], dtype: npt.DTypeLike, *, small: int = 0, offset: int = 0
) -> npt.NDArray[Any]:
    """Return an uninitialised C-ordered array whose data starts on a cache line.

    Arrays of fewer than `small` bytes come as NumPy allocates them.  `offset` moves the
    start so many bytes past the line: 16 is what NumPy itself gives on 64-bit Linux.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < small:
        return np.empty(shape, dtype)
    room = size + LINE + offset
    lasting = LEAST_KEPT <= room <= KEPT_BYTES
    buffer = _buffer(room) if lasting else np.empty(room, np.uint8)
    start = -address(buffer) % LINE + offset
    array: npt.NDArray[Any]
    if lasting:
        array = np.ndarray(shape, dtype, _lend(buffer, start, size))
    else:
        array = np.ndarray(shape, dtype, buffer, start)
    return array


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
    return _pointer_at(id(array) + _DATA).value or 0


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
