"""Numbers at the edge: subnormal ones, zeros with a sign, NaN through activations."""

import numpy as np
import pytest
from cases import Case, assert_close, lanes
from gradient_cases import assert_gradients_close, draw

import numbadw as ndw
from numbadw.activations import ACTIVATIONS

# One of every way that the numbers take through the tiles.
PATHS = {
    "direct": Case(6, 9, 2 * lanes() + 3),
    "few channels": Case(6, 40, 3),
    "planes": Case(6, 70, 3, first=True),
    "packed": Case(6, 9, lanes() + 3, first=True),
    "stride 2": Case(9, 14, lanes() + 3, strides=(2, 2)),
    "5x5": Case(6, 9, lanes() + 3, kernel=(5, 5)),
    "multiplier": Case(6, 9, lanes() + 3, 2),
    "float64": Case(6, 9, lanes() + 3, dtype="float64"),
}
SOME = ("few channels", "packed", "5x5", "float64")
ACTIVATED = [("direct", name) for name in ACTIVATIONS]
ACTIVATED += [(path, name) for path in SOME for name in ("relu6", "gelu")]


@pytest.mark.parametrize("path", PATHS)
def test_subnormal_numbers_are_not_flushed(path, rng):
    # Each of them is a whole number of smallest ones, and sums of those are exact.
    case = PATHS[path]
    x, k, _, g = draw(case, rng)
    tiny = np.finfo(x.dtype).smallest_subnormal
    least = np.finfo(x.dtype).tiny
    x, g = (rng.integers(-99, 100, a.shape).astype(a.dtype) * tiny for a in (x, g))
    k = rng.integers(-9, 10, k.shape).astype(k.dtype)
    result = ndw.depthwise_conv2d(x, k, **case.options)
    right = ndw.depthwise_conv2d(x, k, backend="reference", **case.options)
    np.testing.assert_array_equal(result, right)
    assert np.count_nonzero(result) > result.size / 2
    assert abs(result).max() < least
    whole = rng.integers(-2, 3, x.shape).astype(x.dtype)
    for inputs, grad, smalls in ((x, np.sign(g), (1,)), (whole, g, (0, 1, 2))):
        results, rights = (
            ndw.depthwise_conv2d_grad(inputs, k, grad, backend=backend, **case.options)
            for backend in ("cpu", "reference")
        )
        for small in smalls:
            np.testing.assert_array_equal(results[small], rights[small])
            assert 0 < abs(results[small]).max() < least


@pytest.mark.parametrize("path", PATHS)
def test_zeros_of_either_sign_are_zeros(path, rng):
    case = PATHS[path]
    x, k, b, g = draw(case, rng)
    for array in (x, k, b, g):
        array[rng.random(array.shape) < 0.5] = -0.0
        array[rng.random(array.shape) < 0.3] = 0.0
    for inputs in (x, np.full_like(x, -0.0)):
        result = ndw.depthwise_conv2d(inputs, k, b, **case.options)
        assert_close(result, inputs, k, b, **case.options)
        results = ndw.depthwise_conv2d_grad(inputs, k, g, **case.options)
        assert_gradients_close(results, inputs, k, g, **case.options)
    zeros = ndw.depthwise_conv2d(np.full_like(x, -0.0), k, **case.options)
    assert (zeros == 0).all()


@pytest.mark.parametrize(("path", "name"), ACTIVATED)
def test_values_that_are_not_finite_go_through_activations(path, name, rng):
    case = PATHS[path]._replace(n=2)
    x, k, b, _ = draw(case, rng)
    clean = ndw.depthwise_conv2d(x, k, b, activation=name, **case.options)
    for bad in (np.nan, np.inf, -np.inf):
        poisoned = x.copy()
        poisoned[tuple(rng.integers(0, x.shape))] = bad
        options = {**case.options, "activation": name}
        result = ndw.depthwise_conv2d(poisoned, k, b, **options)
        assert_close(result, poisoned, k, b, **options)
        marks = np.where(np.isfinite(poisoned), 0, 1.0)
        ones = np.ones(k.shape)
        hit = ndw.depthwise_conv2d(marks, ones, backend="reference", **case.options)
        np.testing.assert_array_equal(result[hit == 0], clean[hit == 0])
        if np.isnan(bad):
            np.testing.assert_array_equal(np.isnan(result), hit != 0)
