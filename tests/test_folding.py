"""Folded kernels against the convolution followed by the normalisation itself."""

import numpy as np
import pytest

import numbadw as ndw

CHANNELS, MULTIPLIER, FILTERS = 5, 3, 7


def norm(rng, channels, dtype):
    """Draw gamma, beta, mean and variance."""
    gamma, beta, mean = rng.standard_normal((3, channels)).astype(dtype)
    return gamma, beta, mean, rng.random(channels).astype(dtype) + 0.1


def normalised(y, gamma, beta, mean, variance, epsilon):
    y = y.astype(np.float64)
    return (y - mean) / np.sqrt(variance + epsilon) * gamma + beta


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
@pytest.mark.parametrize("size", [(3, 2), (1, 1)])
def test_depthwise_2d(dtype, with_bias, epsilon, size, rng):
    x = rng.standard_normal((2, 6, 7, CHANNELS)).astype(dtype)
    kernel = rng.standard_normal((*size, CHANNELS, MULTIPLIER)).astype(dtype)
    bias = rng.standard_normal(CHANNELS * MULTIPLIER).astype(dtype)
    bias = bias if with_bias else None
    parts = norm(rng, CHANNELS * MULTIPLIER, dtype)
    expected = normalised(ndw.depthwise_conv2d(x, kernel, bias), *parts, epsilon)
    folded = ndw.fold_batch_norm(kernel, bias, *parts, epsilon)
    assert [array.dtype for array in folded] == [np.dtype(dtype)] * 2
    result = ndw.depthwise_conv2d(x, *folded)
    np.testing.assert_allclose(
        result, expected, rtol=0, atol=200 * np.finfo(dtype).eps * abs(expected).max()
    )


def test_depthwise_1d(rng):
    x = rng.standard_normal((2, 9, CHANNELS))
    kernel = rng.standard_normal((4, CHANNELS, MULTIPLIER))
    parts = norm(rng, CHANNELS * MULTIPLIER, "float64")
    expected = normalised(ndw.depthwise_conv1d(x, kernel), *parts, 1e-3)
    result = ndw.depthwise_conv1d(x, *ndw.fold_batch_norm(kernel, None, *parts))
    np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, CHANNELS, FILTERS), (CHANNELS, FILTERS)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_pointwise(shape, with_bias, rng):
    x = rng.standard_normal((2, 3, 4, CHANNELS))
    kernel = rng.standard_normal(shape)
    bias = rng.standard_normal(FILTERS) if with_bias else None
    parts = norm(rng, FILTERS, "float64")
    y = x @ kernel.reshape(CHANNELS, FILTERS) + (0 if bias is None else bias)
    expected = normalised(y, *parts, 1e-3)
    folded, offset = ndw.fold_batch_norm(kernel, bias, *parts)
    assert folded.shape == shape
    result = x @ folded.reshape(CHANNELS, FILTERS) + offset
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_one_channel_reads_the_same_both_ways(rng):
    kernel = rng.standard_normal((1, 1, 1, 4))
    gamma, beta, mean, variance = norm(rng, 4, "float64")
    folded, offset = ndw.fold_batch_norm(kernel, None, gamma, beta, mean, variance)
    scale = gamma / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(folded[0, 0, 0], kernel[0, 0, 0] * scale)
    np.testing.assert_allclose(offset, beta - mean * scale)


def test_without_gamma_and_beta(rng):
    kernel = rng.standard_normal((3, 3, CHANNELS, 1))
    ones = np.ones(CHANNELS)
    _, _, mean, variance = norm(rng, CHANNELS, "float64")
    plain = ndw.fold_batch_norm(kernel, None, None, None, mean, variance)
    full = ndw.fold_batch_norm(kernel, None, ones, 0 * ones, mean, variance)
    for got, expected in zip(plain, full, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_arguments_stay_as_they_are(rng):
    kernel = rng.standard_normal((3, 3, CHANNELS, 1))
    arrays = kernel, np.ones(CHANNELS), *norm(rng, CHANNELS, "float64")
    copies = [array.copy() for array in arrays]
    ndw.fold_batch_norm(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


KERNEL, VECTOR = np.ones((3, 3, 2, 1)), np.ones(2)


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (0, [[1.0]], TypeError, "kernel must be a NumPy array of real numbers"),
        (0, KERNEL.astype(int), TypeError, "kernel must hold floating numbers"),
        (0, np.ones(2), ValueError, r"kernel must have shape .* got \(2,\)"),
        (0, np.ones((3, 3, 0, 1)), ValueError, "every size >= 1"),
        (1, np.ones(3), ValueError, r"bias must have shape \(2,\).* got \(3,\)"),
        (2, np.ones(1), ValueError, r"gamma must have shape \(2,\)"),
        (3, VECTOR > 0, TypeError, "beta must be a NumPy array of real numbers"),
        (4, np.ones(3), ValueError, r"mean must have shape \(2,\), .* got \(3,\)"),
        (4, None, TypeError, "mean must be a NumPy array"),
        (5, None, TypeError, "variance must be a NumPy array"),
        (5, -VECTOR, ValueError, r"variance \+ epsilon must be positive"),
        (5, VECTOR * np.nan, ValueError, r"variance \+ epsilon must be positive"),
        (6, "small", TypeError, "epsilon must be a number, got 'small'"),
        (6, True, TypeError, "epsilon must be a number"),
    ],
)
def test_refused(place, value, error, message):
    arguments = [KERNEL, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, 1e-3]
    arguments[place] = value
    with pytest.raises(error, match=message):
        ndw.fold_batch_norm(*arguments)
