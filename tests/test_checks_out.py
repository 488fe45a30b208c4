"""Every rule of `checks.out_array`, above all the two about overlaps."""

import itertools

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from numbadw import checks, overlap

SHAPE = (2, 3, 4, 5)
F32 = np.dtype(np.float32)


class Plain(np.ndarray):
    """A subclass, through which the result may be written."""


def raises(error, message):
    return pytest.raises(error, match=message)


@pytest.mark.parametrize("case", ["dense", "sliced", "transposed", "reversed", "empty"])
def test_any_strides_serve(case):
    big = np.zeros((4, 6, 8, 10), F32)
    out = {
        "dense": big,
        "sliced": big[::2, 1:4, ::3, ::-2],
        "transposed": big.transpose(3, 0, 2, 1),
        "reversed": big[::-1, ::-1],
        "empty": big[:0],
    }[case]
    assert checks.out_array(out, out.shape, F32) is out


def test_subclass_gives_a_view_of_the_same_memory():
    out = np.zeros(SHAPE, F32).view(Plain)
    result = checks.out_array(out, SHAPE, F32)
    assert type(result) is np.ndarray
    assert np.shares_memory(result, out)


def test_type_dtype_and_shape_errors():
    with raises(TypeError, "out must be a NumPy array, got an object of type list"):
        checks.out_array([0.0], SHAPE, F32)
    with raises(TypeError, "out must be an array without a mask"):
        checks.out_array(np.ma.zeros(SHAPE, F32), SHAPE, F32)
    with raises(TypeError, "out must have dtype float32 in native .* dtype float64"):
        checks.out_array(np.zeros(SHAPE), SHAPE, F32)
    with raises(TypeError, "out must have dtype float32 in native byte order, got"):
        checks.out_array(np.zeros(SHAPE, F32.newbyteorder()), SHAPE, F32)
    for wrong in ((2, 3, 4), (2, 3, 4, 1), (1, 3, 4, 5), (2, 3, 5, 4)):
        with raises(ValueError, r"out must have shape \(2, 3, 4, 5\), got"):
            checks.out_array(np.zeros(wrong, F32), SHAPE, F32)


def test_read_only():
    out = np.zeros(SHAPE, F32)
    out.flags.writeable = False
    with raises(ValueError, "out must be writable, got a read-only"):
        checks.out_array(out, SHAPE, F32)


def test_overlap_with_an_argument_is_named():
    pool = np.zeros(400, F32)
    out = pool[:120].reshape(SHAPE)
    inputs, kernel, bias = pool[120:240], pool[240:300], pool[119:124]
    checks.out_array(out, SHAPE, F32, inputs=inputs, kernel=kernel, bias=None)
    with raises(ValueError, "out must not overlap bias: out is an ndarray of dtype"):
        checks.out_array(out, SHAPE, F32, inputs=inputs, kernel=kernel, bias=bias)
    with raises(ValueError, "out must not overlap inputs"):
        checks.out_array(out, SHAPE, F32, inputs=out)


def test_interleaved_arrays_do_not_overlap():
    both = np.zeros((*SHAPE, 2), F32)
    checks.out_array(both[..., 0], SHAPE, F32, inputs=both[..., 1])
    with raises(ValueError, "out must not overlap inputs"):
        checks.out_array(both[..., 0], SHAPE, F32, inputs=both[:1])


def test_undecided_overlap_counts_as_overlap(monkeypatch):
    monkeypatch.setattr(overlap, "WORK", 1)
    pool = np.zeros(40_000, np.uint8)
    out = as_strided(pool, (3, 5, 7, 9), (1105, 663, 595, 455))
    other = as_strided(pool[1:], (5, 3, 9, 7), (1309, 1001, 385, 221))
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(out, other, max_work=1)
    assert overlap.with_another(out, other)


def test_broadcast_out_is_refused():
    out = np.zeros((2, 1, 4, 5), F32)
    out = as_strided(out, SHAPE, (80, 0, 20, 4))
    with raises(ValueError, "every element in memory of its own, .*strides"):
        checks.out_array(out, SHAPE, F32)


@pytest.mark.parametrize(
    "strides", list(itertools.product((-6, 1, 4, 6, 7, 9), repeat=3))
)
def test_own_overlap_is_exact(strides):
    # Byte strides on 2-byte elements: compared with the addresses themselves.
    shape, itemsize = (2, 3, 2), 2
    pool = np.zeros(200, np.uint8)[80:82].view(np.int16)
    array = as_strided(pool, shape, strides)
    touched = [
        sum(i * s for i, s in zip(index, strides, strict=True)) + byte
        for index in np.ndindex(shape)
        for byte in range(itemsize)
    ]
    expected = len(set(touched)) < len(touched)
    assert overlap.with_itself(array) is expected
