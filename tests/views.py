"""Arrays of every kind that hold the same values."""

import numpy as np

from numbadw.memory import LINE


class Plain(np.ndarray):
    """A subclass that adds nothing."""


def surrounded(x):
    """Return x as a slice of a larger array that is NaN everywhere else."""
    big = np.full(tuple(2 * size + 5 for size in x.shape), np.nan, x.dtype)
    view = big[tuple(slice(2, 2 + size) for size in x.shape)]
    view[...] = x
    return view


def every_other(x):
    """Return x in every second place of every axis, backwards; NaN in between."""
    big = np.full(tuple(2 * size + 1 for size in x.shape), np.nan, x.dtype)
    view = big[tuple(slice(2 * size - 1, None, -2) for size in x.shape)]
    view[...] = x
    return view


def misaligned(x, offset=1):
    """Return x at an odd address."""
    raw = np.empty(x.nbytes + LINE, np.uint8)
    view = raw[offset : offset + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def packed_record(x):
    """Return x as the field of a packed structure: byte steps of itemsize + 1."""
    records = np.zeros(x.shape, np.dtype([("pad", "u1"), ("x", x.dtype)]))
    records["x"] = x
    return records["x"]


def read_only(x):
    """Return a copy that may not be written."""
    x = x.copy()
    x.flags.writeable = False
    return x


VIEWS = {
    "dense": lambda x: x,
    "slice": surrounded,
    "every_other": every_other,
    "negative": lambda x: np.ascontiguousarray(x[:, ::-1, ::-1])[:, ::-1, ::-1],
    "channels_reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "transposed": lambda x: x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3),
    "batch_last": lambda x: x.transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2),
    "fortran": np.asfortranarray,
    "read_only": read_only,
    "byte_swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "misaligned": misaligned,
    "packed_record": packed_record,
    "subclass": lambda x: x.view(Plain),
}
