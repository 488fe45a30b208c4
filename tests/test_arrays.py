"""Arrays of every kind as inputs, weights and out; what may reach which result."""

import numpy as np
import pytest
from cases import Case, assert_close, check, lanes
from numpy.lib.stride_tricks import as_strided
from views import VIEWS, every_other, surrounded

import numbadw as ndw
from numbadw.memory import LINE, SMALL_BYTES

FEW, MANY = 3, 19
DTYPES = ["float32", "float64"]


def same_values(view, x):
    """Make sure that a view was built right."""
    np.testing.assert_array_equal(np.asarray(view, x.dtype), x)
    return view


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("view", VIEWS)
def test_inputs_of_every_kind(view, first, backend, rng):
    for c, w, dtype in (
        (MANY, 9, "float32"),
        (FEW, 70, "float32"),
        (MANY, 70, "float64"),
    ):
        case = Case(6, w, c, first=first, n=2, dtype=dtype)
        x, k, b = case.arrays(rng)
        inputs = same_values(VIEWS[view](x), x)
        result = ndw.depthwise_conv2d(inputs, k, b, backend=backend, **case.options)
        assert type(result) is np.ndarray
        assert result.flags.c_contiguous
        assert result.dtype == np.dtype(dtype)
        assert_close(result, x, k, b, **case.options)


@pytest.mark.parametrize("view", [*VIEWS, "float16", "int16"])
def test_weights_of_every_kind(view, backend, rng):
    make = VIEWS.get(view, lambda array: (4 * array).astype(view))
    for c in (MANY, FEW):
        x, k, b = Case(6, 7, c, 2).arrays(rng)
        kernel = make(k.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)
        bias = make(np.stack([b] * 4)[:, None, None])[0, 0, 0]
        for _ in range(2):
            result = ndw.depthwise_conv2d(x, kernel, bias, backend=backend)
            assert_close(result, x, kernel, bias)


@pytest.mark.parametrize(
    "axes", [(0,), (1,), (2,), (3,), (1, 2), (0, 1, 2, 3)], ids=str
)
def test_broadcast_inputs(axes, backend, rng):
    for c in (MANY, FEW):
        shape = tuple(1 if a in axes else s for a, s in enumerate((2, 6, 40, c)))
        x = np.broadcast_to(rng.standard_normal(shape).astype("f4"), (2, 6, 40, c))
        k = rng.standard_normal((3, 3, c, 1)).astype("f4")
        assert_close(ndw.depthwise_conv2d(x, k, backend=backend), x, k)
        first = x.transpose(0, 3, 1, 2)
        result = ndw.depthwise_conv2d(
            first, k, data_format="channels_first", backend=backend
        )
        assert_close(result, first, k, data_format="channels_first")


def test_overlapping_windows_as_inputs(backend, rng):
    # Sliding windows of one signal: rows one element apart in memory.
    signal = rng.standard_normal(64 + MANY).astype("f4")
    x = as_strided(signal, (1, 20, 12, MANY), (0, 4, 8, 4), writeable=False)
    k = rng.standard_normal((3, 3, MANY, 1)).astype("f4")
    assert_close(ndw.depthwise_conv2d(x, k, backend=backend), x, k)


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", sorted(set(VIEWS) - {"read_only", "byte_swapped"}))
def test_out_of_every_kind(view, dtype, first, backend, rng):
    for c, w in ((MANY, 9), (FEW, 9), (MANY, 70)):
        case = Case(5, w, c, first=first, n=2, dtype=dtype)
        x, k, b = case.arrays(rng)
        nan = np.full(case.geometry.output_shape, np.nan, dtype)
        for _ in range(2):
            out = VIEWS[view](nan.copy())
            result = ndw.depthwise_conv2d(
                x, k, b, out=out, backend=backend, **case.options
            )
            assert result is out
            assert_close(np.asarray(result), x, k, b, **case.options)


@pytest.mark.parametrize("c", [MANY, FEW])
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_nothing_around_out_is_written(c, first, rng):
    for w in (7, 14, 70):
        case = Case(6, w, c, first=first, n=2)
        x, k, b = case.arrays(rng)
        shape = case.geometry.output_shape
        for make in (surrounded, every_other):
            out = make(np.zeros(shape, "f4"))
            base = out.base
            inside = np.isfinite(base)
            ndw.depthwise_conv2d(x, k, b, out=out, **case.options)
            np.testing.assert_array_equal(np.isfinite(base), inside)


def test_layouts_give_the_same_bits_as_views(rng):
    # The order of every sum is the same whichever feed carries it.
    for case in (Case(9, 11, MANY), Case(9, 11, MANY, kernel=(5, 5), n=2)):
        x, k, b = case.arrays(rng)
        plain = ndw.depthwise_conv2d(x, k, b, padding="same")
        for view in VIEWS.values():
            np.testing.assert_array_equal(
                ndw.depthwise_conv2d(view(x), k, b, padding="same"), plain
            )


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_exactly_their_windows(bad, first, rng):
    problems = [
        Case(5, 9, MANY), Case(5, 9, FEW), Case(5, 70, MANY),
        Case(6, 9, MANY, 1, (3, 3), (2, 2)), Case(6, 71, FEW, 1, (3, 3), (2, 2)),
        Case(5, 9, MANY, 1, (5, 5)), Case(5, 40, MANY, 1, (15, 15)),
        Case(7, 9, MANY, 1, (3, 3), (1, 1), "same", (2, 3)), Case(5, 9, MANY, 2),
        Case(5, 9, 1, 3), Case(5, 9, 2, 17),
    ]  # fmt: skip
    for case in (problem._replace(first=first) for problem in problems):
        x, k, _ = case.arrays(rng)
        for _ in range(4):
            poisoned = x.copy()
            poisoned[tuple(rng.integers(0, x.shape))] = bad
            assert_reaches_windows(case, poisoned, k)


def assert_reaches_windows(case, x, k):
    """Compare the results that are not finite with a convolution of ones."""
    result = ndw.depthwise_conv2d(x, k, **case.options)
    marks, ones = (~np.isfinite(x)).astype(float), np.ones(k.shape)
    hit = ndw.depthwise_conv2d(marks, ones, backend="reference", **case.options)
    np.testing.assert_array_equal(~np.isfinite(result), hit != 0, case.label)
    assert_close(result, x, k, **case.options)


@pytest.mark.parametrize("c", [FEW, MANY])
def test_infinite_weights_and_biases_stay_in_their_channel(c, rng):
    x, k, b = Case(6, 9, c).arrays(rng)
    k[1, 1, 1], b[2] = np.inf, np.nan
    result = ndw.depthwise_conv2d(x, k, b, padding="valid")
    finite = np.isfinite(result).all(axis=(0, 1, 2))
    np.testing.assert_array_equal(finite, ~np.isin(np.arange(c), (1, 2)))
    assert_close(result, x, k, b, padding="valid")


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("c", [1, FEW, MANY])
def test_empty_batches_and_images(c, first, backend, rng):
    empty = Case(5, 6, c, first=first, n=0)
    x, k, b = empty.arrays(rng)
    for out in (None, np.empty(empty.geometry.output_shape, "f4")):
        result = ndw.depthwise_conv2d(
            x, k, b, out=out, backend=backend, **empty.options
        )
        assert result.shape == empty.geometry.output_shape
    for h, w in ((0, 6), (5, 0), (0, 0)):
        check(Case(h, w, c, 1, (3, 3), (1, 1), 2, first=first, n=2), rng)


def test_large_results_start_on_a_cache_line(rng):
    for c in range(1, 40, 3):
        case = Case(64, 64, c)
        x, k, _ = case.arrays(rng)
        for _ in range(2):
            result = ndw.depthwise_conv2d(x, k)
            if result.nbytes >= SMALL_BYTES:
                assert result.ctypes.data % LINE == 0


def test_results_are_arrays_of_their_own(rng):
    x, k, _ = Case(6, 9, MANY).arrays(rng)
    first = ndw.depthwise_conv2d(x, k)
    again = ndw.depthwise_conv2d(x, k)
    assert not np.shares_memory(first, again)
    first[...] = 7
    assert_close(again, x, k)


@pytest.mark.parametrize("c", [FEW, MANY])
def test_changed_weights_count_at_the_next_call(c, rng):
    x, k, b = Case(6, 9, c).arrays(rng)
    for _ in range(3):
        assert_close(ndw.depthwise_conv2d(x, k, b), x, k, b)
        k += 1
        b -= 1
        x[...] = x[:, ::-1].copy()


def test_arguments_are_left_as_they_were(backend, rng):
    for case in (Case(6, 9, MANY, 2), Case(6, 70, FEW, first=True)):
        arrays = case.arrays(rng)
        copies = [array.copy() for array in arrays]
        ndw.depthwise_conv2d(*arrays, backend=backend, **case.options)
        for array, copy in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_lanes_over_a_gap_are_not_read_as_channels(rng):
    # Fewer channels than a vector, NaN right behind them in memory.
    for c in range(1, 2 * lanes() + 2):
        case = Case(4, 6, c)
        x, k, b = case.arrays(rng)
        for make in (surrounded, every_other):
            result = ndw.depthwise_conv2d(make(x), k, b, **case.options)
            assert_close(result, x, k, b, **case.options)
