"""Gradients against the float64 answer: data, and the one tolerance.

A result that is a sum of products a * b may be 4 eps sqrt(terms) sum(|a| |b|) off.  An
activation multiplies one of the factors by a derivative that is itself a little off:
that error goes through the same sums.
"""

import math

import numpy as np
from cases import reference

import numbadw as ndw
from numbadw import activations

NAMES = ("inputs_grad", "kernel_grad", "bias_grad")


def draw(case, rng):
    """Draw inputs, kernel, bias and the gradient at the result."""
    shape = case.geometry.output_shape
    return *case.arrays(rng), rng.standard_normal(shape).astype(case.dtype)


def exact(x, w, g, bias=None, **options):
    """Give the float64 gradients at inputs, kernel and bias."""
    x, w, g = (np.asarray(array, np.float64) for array in (x, w, g))
    bias = None if bias is None else np.asarray(bias, np.float64)
    return ndw.depthwise_conv2d_grad(x, w, g, bias=bias, backend="reference", **options)


def assert_gradients_close(results, x, w, g, bias=None, activation=None, **options):
    """Compare with the float64 answer: NaN and inf in place, the rest in the bound.

    `results` are the gradients at inputs, kernel and bias; None is passed over.
    """
    expected = exact(x, w, g, bias, activation=activation, **options)
    dtype = next(result.dtype for result in results if result is not None)
    bounds = _bounds(x, w, g, bias, activation, float(np.finfo(dtype).eps), options)
    for name, result, right, bound in zip(
        NAMES, results, expected, bounds, strict=True
    ):
        if result is not None:
            assert result.shape == right.shape, (name, options)
            assert result.dtype == dtype, (name, options)
            _assert_within(result, right, bound, f"{name}, {options}")


def _bounds(x, w, g, bias, activation, eps, options):
    x, w, g = (
        np.where(np.isfinite(array), array, 0).astype(np.float64) for array in (x, w, g)
    )
    taps = w.shape[0] * w.shape[1]
    terms = g.size // (w.shape[2] * w.shape[3])
    sizes, rest = np.abs(g), (0.0, 0.0, 0.0)
    if activation is not None:
        slope, off = _derivative(x, w, bias, activation, eps, taps, options)
        rest = exact(np.abs(x), np.abs(w), sizes * off, **options)
        sizes = np.abs(g * slope)
    sums = exact(np.abs(x), np.abs(w), sizes, **options)
    tiny = terms * np.finfo(np.float32).tiny
    return [
        4 * eps * math.sqrt(count) * total + more + tiny
        for count, total, more in zip(
            (taps * w.shape[3], terms, terms), sums, rest, strict=True
        )
    ]


def _derivative(x, w, bias, activation, eps, taps, options):
    """Give the derivative before the activation, and how far off it may be."""
    name, parameter = activations.resolve(activation)
    bias = np.zeros(w.shape[2] * w.shape[3]) if bias is None else bias
    bias = np.where(np.isfinite(bias), bias, 0)
    z = reference(x, w, bias, **options)
    near = 4 * eps * math.sqrt(taps) * reference(np.abs(x), np.abs(w), **options)
    near += eps * reference(np.abs(x), np.abs(w), np.abs(bias), **options)
    middle, *ends = (
        activations.apply_derivative(at, name, parameter)
        for at in (z, z - near, z + near)
    )
    wrong = np.maximum(*(np.abs(end - middle) for end in ends))
    return middle, wrong + 16 * eps * max(1, abs(parameter))


def _assert_within(result, expected, bound, what):
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected), what)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result[~finite], expected[~finite], what)
    error = np.abs(np.where(finite, result, 0) - np.where(finite, expected, 0))
    bad = finite & ~(error <= bound)
    if bad.any():
        at = np.unravel_index(np.argmax(np.where(bad, error, -1)), bad.shape)
        msg = (
            f"{bad.sum()} of {bad.size} are off; at {tuple(map(int, at))} got "
            f"{result[at]}, expected {expected[at]} within {bound[at]}; {what}"
        )
        raise AssertionError(msg)


def check_gradients(case, rng, activation=None, backend="cpu"):
    """Run the three functions on a case and compare; return the three gradients."""
    x, w, b, g = draw(case, rng)
    options = {**case.options, "backend": backend}
    both = ndw.depthwise_conv2d_grad(x, w, g, bias=b, activation=activation, **options)
    try:
        assert_gradients_close(both, x, w, g, b, activation, **case.options)
        if activation is None:
            x_grad = ndw.depthwise_conv2d_input_grad(g, w, x.shape, **options)
            w_grad = ndw.depthwise_conv2d_kernel_grad(x, g, w.shape, **options)
            alone = x_grad, w_grad, None
            assert_gradients_close(alone, x, w, g, **case.options)
    except AssertionError as error:
        raise AssertionError(f"{case.label}: {error}") from error
    return both
