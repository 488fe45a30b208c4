"""Sequences, pixels and separable convolutions: random calls and their answers.

All are told by answers for images (tolerance.py): a sequence is an image of one row,
a pixel's channels are the rows of an image of one column, and a separable convolution
is one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import numbadw
from numbadw import tolerance
from numbadw.selftest.draws import place

Array = npt.NDArray[Any]
Rng = np.random.Generator
# One compiled kernel of each kind is enough, as compiling takes most of the time:
# sizes, layouts, paddings and memory differ.
TAPS, SILU, RELU6 = 4, "silu", "relu6"
NAMES = (
    "the result",
    *(f"the gradient at the {name}" for name in ("inputs", "kernel", "bias")),
)


class Drawn(NamedTuple):
    """A call: what it is, its results by name, and the right ones."""

    text: str
    names: tuple[str, ...]
    compute: Callable[[], tuple[Array, ...]]
    answers: tuple[tolerance.Answer, ...]


def draw(family: str, seed: int, number: int) -> Drawn:
    """Draw one call of a family; it follows from the seed and its number alone."""
    names = list(FAMILIES)
    rng = np.random.default_rng([seed, 1_000_000 + names.index(family), number])
    return FAMILIES[family](rng)


def _sequence(rng: Rng) -> Drawn:
    """Draw a forward call on sequences, and its gradients."""
    n, length, c = (int(rng.integers(1, end)) for end in (4, 120, 70))
    before = int(rng.integers(TAPS))
    paddings: tuple[Any, ...] = ("causal", "same", (before, TAPS - 1 - before))
    padding, first = paddings[rng.integers(3)], bool(rng.integers(2))
    x, kernel, bias = _arrays(rng, (n, length, c), (TAPS, c, 1), (c,))
    given: dict[str, Any] = {
        "activation": SILU,
        "data_format": "channels_first" if first else "channels_last",
    }
    sides = (TAPS - 1, 0) if padding == "causal" else padding
    images: dict[str, Any] = {
        "padding": sides if sides == "same" else ((0, 0), sides),
        "activation": SILU,
    }
    right = tolerance.forward(x[:, None], kernel[None], bias, **images)
    grad = rng.standard_normal(right.expected.shape).astype(x.dtype)
    answers = [
        right,
        *tolerance.gradients(x[:, None], kernel[None], grad, bias, **images),
    ]
    squeezed = [_map(a, lambda v: v[:, 0]) for a in answers[:2]]
    squeezed += [_map(answers[2], lambda v: v[0]), answers[3]]

    def turn(array: Array) -> Array:
        return array.transpose(0, 2, 1) if first else array

    def compute() -> tuple[Array, ...]:
        y = numbadw.depthwise_conv1d(turn(x), kernel, bias, padding=padding, **given)
        x_grad, *others = numbadw.depthwise_conv1d_grad(
            turn(x), kernel, turn(grad[:, 0]), bias=bias, padding=padding, **given
        )
        return turn(y), turn(x_grad), *others

    text = f"sequences {x.dtype} {x.shape}, kernel {kernel.shape}, {padding}, {given}"
    return Drawn(text, NAMES, compute, tuple(squeezed))


def _pixels(rng: Rng) -> Drawn:
    """Draw a forward call on pixels, and its gradients."""
    n, h, w, c, f = (int(rng.integers(1, end)) for end in (3, 9, 17, 17, 17))
    first = bool(rng.integers(2))
    x, matrix, bias = _arrays(rng, (n, h, w, c), (c, f), (f,))
    given: dict[str, Any] = {
        "activation": RELU6,
        "data_format": "channels_first" if first else "channels_last",
    }
    right = _pointwise(x, matrix, bias)
    grad = rng.standard_normal(right.expected.shape).astype(x.dtype)
    of_x, of_w, of_b = tolerance.gradients(
        x.reshape(-1, c, 1, 1),
        matrix[:, None, None],
        grad.reshape(-1, 1, 1, f),
        bias,
        activation=RELU6,
    )
    answers = (
        right,
        _map(of_x, lambda v: v.reshape(x.shape)),
        _map(of_w, lambda v: v[:, 0, 0]),
        of_b,
    )

    def turn(array: Array, *axes: int) -> Array:
        return array.transpose(0, *axes) if first else array

    def compute() -> tuple[Array, ...]:
        images = turn(x, 3, 1, 2)
        y = numbadw.pointwise_conv2d(images, matrix, bias, **given)
        x_grad, *others = numbadw.pointwise_conv2d_grad(
            images, matrix, turn(grad, 3, 1, 2), bias=bias, **given
        )
        return turn(y, 2, 3, 1), turn(x_grad, 2, 3, 1), *others

    text = f"pixels {x.dtype} {x.shape}, kernel {matrix.shape}, {given}"
    return Drawn(text, NAMES, compute, answers)


def _separable(rng: Rng) -> Drawn:
    """Draw a forward call of a separable convolution; one in eight goes by bands."""
    n, h, w, c, f = (int(rng.integers(1, end)) for end in (3, 20, 20, 40, 17))
    if rng.integers(8) == 0:
        n, h, w, c = 1, 150, 150, 48
    x, kernel, matrix, between, bias = _arrays(
        rng, (n, h, w, c), (3, 3, c, 1), (c, f), (c,), (f,)
    )
    inner = tolerance.forward(x, kernel, between, padding="same")
    outer = _pointwise(inner.expected, matrix, bias, x.dtype)
    # What the first is off goes through the second's sums; the slope of relu6 is 1.
    bound = outer.bound + inner.bound @ np.abs(matrix.astype(np.float64))

    def compute() -> tuple[Array, ...]:
        return (
            numbadw.separable_conv2d(
                x,
                kernel,
                matrix,
                bias,
                depthwise_bias=between,
                activation=RELU6,
                padding="same",
            ),
        )

    text = f"separable {x.dtype} {x.shape}, {f} filters"
    return Drawn(text, ("the result",), compute, (outer._replace(bound=bound),))


def _arrays(rng: Rng, *shapes: tuple[int, ...]) -> list[Array]:
    """Draw float32 arrays, the first of them in memory of any kind."""
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    if rng.integers(2):
        arrays[0] = place(rng, arrays[0])[0]
    return arrays


def _pointwise(
    x: Array, matrix: Array, bias: Array, dtype: Any = None
) -> tolerance.Answer:
    """Give the answer of `pointwise_conv2d`: its channels as rows of one column."""
    answer = tolerance.forward(
        x.reshape(-1, x.shape[-1], 1, 1),
        matrix[:, None, None],
        bias,
        activation=RELU6,
        dtype=dtype,
    )
    return _map(answer, lambda values: values.reshape(*x.shape[:-1], -1))


def _map(
    answer: tolerance.Answer, function: Callable[[Array], Array]
) -> tolerance.Answer:
    return tolerance.Answer(*map(function, answer))


FAMILIES: dict[str, Callable[[Rng], Drawn]] = {
    "sequences": _sequence,
    "pixels": _pixels,
    "separable": _separable,
}
