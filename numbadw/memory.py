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
_kept: deque[npt.NDArray[np.uint8]] = deque()


class _Loan(weakref.ref[Any]):
    """Tells when nothing refers to the memory of a buffer any more.

    Whatever sees that memory, a view of a view or an exported buffer, keeps the object
    that lends it alive: no references are counted, so it holds for every Python.
    """

    __slots__ = ("buffer",)
    buffer: npt.NDArray[np.uint8]


_loans: dict[int, _Loan] = {}


def _take_back(loan: _Loan) -> None:
    """Keep the buffer of a loan that has ended."""
    del _loans[id(loan)]
    _kept.append(loan.buffer)
    while _too_many():
        with contextlib.suppress(IndexError):
            _kept.popleft()


def _too_many() -> bool:
    kept = tuple(_kept)  # in one step, as other threads take and give
    return len(kept) > KEPT_BUFFERS or sum(map(len, kept)) > KEPT_BYTES


def _buffer(size: int) -> npt.NDArray[np.uint8]:
    """Return a buffer of at least `size` bytes: a kept one that fits, or a new one."""
    for _ in range(len(_kept)):
        try:
            buffer = _kept.pop()
        except IndexError:  # another thread was faster
            break
        if size <= buffer.nbytes <= 2 * size:
            return buffer
        _kept.appendleft(buffer)
    return np.empty(size, np.uint8)


def _lend(buffer: npt.NDArray[np.uint8], start: int, size: int) -> Any:
    """Return an object that is so many bytes of a buffer, until nobody refers to it."""
    lent = (ctypes.c_char * size).from_address(address(buffer) + start)
    loan = _Loan(lent, _take_back)
    loan.buffer = buffer
    _loans[id(loan)] = loan
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
