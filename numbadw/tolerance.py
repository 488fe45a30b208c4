"""The right results of a call, and how far off computed ones may be.

The right results are the float64 reference's.  A result that is a sum of products
a * b may be 4 eps sqrt(terms) sum(|a| |b|) off, one rounding more for a bias.  An
activation stretches that by its slope and is itself accurate to some roundings of its
result; in a gradient it multiplies one of the factors by a derivative that is a little
off, and that error goes through the same sums.

The tests and `python -m numbadw selftest` measure by these bounds, nothing else.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numbadw import activations
from numbadw.functional import depthwise_conv2d
from numbadw.gradients import depthwise_conv2d_grad

Array = npt.NDArray[Any]

# |f(a) - f(b)| <= slope * |a - b|; 1 or the parameter where not named.
SLOPES = {"selu": 1.76, "silu": 1.1, "hard_silu": 1.5, "gelu": 1.13}
# The same of the derivatives, between the places where they jump.
CURVATURE = 2.0
# Roundings of an activation's result, or of its derivative.
ROUNDINGS = 16


class Answer(NamedTuple):
    """A right result and the error that each of its elements may have, in float64."""

    expected: Array
    bound: Array

    def fault(self, result: Array) -> str:
        """Tell what is wrong with a result; nothing where it is right.

        NaN and infinities must be where they belong, the rest within the bound.
        """
        expected, bound = self
        if result.shape != expected.shape:
            return f"the shape is {result.shape}, expected {expected.shape}"
        finite = np.isfinite(expected)
        with np.errstate(invalid="ignore"):
            error = np.abs(np.subtract(result, expected, dtype=np.float64))
        same = (result == expected) | (np.isnan(result) & np.isnan(expected))
        right = np.where(finite, error <= bound, same)
        if right.all():
            return ""
        excess = np.where(right, -1, np.where(finite, error, np.inf))
        excess[np.isnan(excess)] = np.inf
        at = tuple(map(int, np.unravel_index(np.argmax(excess), right.shape)))
        return (
            f"{(~right).sum()} of {right.size} results are off; at {at} got "
            f"{result[at]}, expected {expected[at]} within {bound[at]:.3g}"
        )


def forward(
    inputs: Any,
    kernel: Any,
    bias: Any = None,
    *,
    activation: Any = None,
    dtype: npt.DTypeLike | None = None,
    **options: Any,
) -> Answer:
    """Give the answer of `depthwise_conv2d`.

    `dtype` is the result's where that is not the inputs'.
    """
    x, w, b = _double(inputs), _double(kernel), _double(bias)
    expected = _convolve(x, w, b, activation=activation, **options)
    name, parameter = activations.resolve(activation)
    limits = np.finfo(dtype or inputs.dtype)
    bound = _sum_bound(x, w, b, limits, options)
    if name != "linear":
        bound *= max(1.0, abs(parameter), SLOPES.get(name, 1.0))
        with np.errstate(invalid="ignore"):
            bound += ROUNDINGS * float(limits.eps) * np.abs(expected)
        bound += float(limits.tiny)
    return Answer(expected, bound)


def gradients(
    inputs: Any,
    kernel: Any,
    grad: Any,
    bias: Any = None,
    *,
    activation: Any = None,
    dtype: npt.DTypeLike | None = None,
    **options: Any,
) -> tuple[Answer, Answer, Answer]:
    """Give the answers of `depthwise_conv2d_grad`: at inputs, kernel and bias.

    `dtype` is the results' where that is not the inputs'.
    """
    x, w, g, b = map(_double, (inputs, kernel, grad, bias))
    expected = _differentiate(x, w, g, bias=b, activation=activation, **options)
    limits = np.finfo(dtype or inputs.dtype)
    eps = float(limits.eps)
    x, w, g = (_finite(array) for array in (x, w, g))
    sizes = np.abs(g)
    rest: tuple[Any, Any, Any] = (0.0, 0.0, 0.0)
    name, parameter = activations.resolve(activation)
    if name != "linear":
        slope, off = _derivative(x, w, _finite(b), name, parameter, limits, options)
        rest = _differentiate(np.abs(x), np.abs(w), sizes * off, **options)
        sizes = np.abs(g * slope)
    sums = _differentiate(np.abs(x), np.abs(w), sizes, **options)
    kh, kw, c, m = w.shape
    terms = g.size // (c * m)
    answers = []
    for right, count, total, more in zip(
        expected, (kh * kw * m, terms, terms), sums, rest, strict=True
    ):
        bound = 4 * eps * math.sqrt(count) * total + more
        answers.append(Answer(right, bound + count * float(limits.tiny)))
    return answers[0], answers[1], answers[2]


def _derivative(
    x: Array,
    w: Array,
    b: Array | None,
    name: str,
    parameter: float,
    limits: Any,
    options: Any,
) -> tuple[Array, Array]:
    """Give the derivative before the activation, and how far off it may be."""
    z = _convolve(x, w, b, **options)
    near = _sum_bound(x, w, b, limits, options)
    middle, *ends = (
        activations.apply_derivative(at, name, parameter)
        for at in (z, z - near, z + near)
    )
    wrong = np.maximum(*(np.abs(end - middle) for end in ends))
    # A derivative that jumps between may be larger at the jump than at either end.
    wrong += CURVATURE * max(1.0, abs(parameter)) * near
    return middle, wrong + ROUNDINGS * float(limits.eps) * max(1.0, abs(parameter))


def _sum_bound(x: Array, w: Array, b: Array | None, limits: Any, options: Any) -> Array:
    """Bound the error of the sums: NaN and infinities are left out of it."""
    taps, eps = w.shape[0] * w.shape[1], float(limits.eps)
    sums = _convolve(np.abs(_finite(x)), np.abs(_finite(w)), **options)
    bound = 4 * eps * math.sqrt(taps) * sums
    if b is not None:
        size = np.abs(_finite(b))
        first = str(options.get("data_format", "")).lower() == "channels_first"
        bound += eps * (sums + (size[:, None, None] if first else size))
    # A rounding of a number below the normal ones is not relative to it.
    return np.asarray(bound + taps * float(limits.smallest_subnormal))


def _convolve(x: Array, w: Array, b: Array | None = None, **options: Any) -> Array:
    return depthwise_conv2d(x, w, b, **{**options, "backend": "reference"})


def _differentiate(
    x: Array, w: Array, g: Array, **options: Any
) -> tuple[Array, Array, Array]:
    return depthwise_conv2d_grad(x, w, g, **{**options, "backend": "reference"})


def _double(array: Any) -> Any:
    return None if array is None else np.asarray(array, np.float64)


def _finite(array: Any) -> Any:
    """Give an array with 0 for NaN and infinities."""
    return None if array is None else np.where(np.isfinite(array), array, 0.0)
