"""Sequences as images of one row: views with an axis of length 1 more.

One geometry, one set of plans and one look-up (functional.py) serve both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numbadw import checks
from numbadw.dispatch import UNKNOWN, Run, bind_forward, bind_gradients
from numbadw.functional import Rank
from numbadw.geometry import Geometry, make_sequence_geometry, with_row, without_row

IMAGE_ROW = {False: np.s_[:, None], True: np.s_[:, :, None]}  # by channels first


def bind_sequences(
    target: str,
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: str,
    parameter: float,
) -> Run:
    """Return the run of a forward problem on sequences (`dispatch.bind_forward`)."""
    first = geometry.channels_first
    row = IMAGE_ROW[first]
    # 0 is the stride that NumPy gives a new axis.
    strides = with_row(x_strides, first, 0), with_row(o_strides, first, 0)
    images = bind_forward(target, geometry, dtype, *strides, activation, parameter)

    def run(x: Any, w: Any, b: Any, out: Any, check: int) -> int:
        if x.ndim == out.ndim == 3:
            return images(x[row], w[None], b, out[row], check)
        return UNKNOWN

    return run


def bind_sequence_gradients(
    target: str,
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    g_strides: tuple[int, ...],
    x_grad_strides: tuple[int, ...],
    *rest: Any,
) -> Any:
    """Return the run of gradients of sequences; the results are those of images."""
    first, w, ow = geometry.channels_first, geometry.w, geometry.ow
    row, along = IMAGE_ROW[first], 2 if first else 1
    strides = (
        with_row(steps, first, size * steps[along])
        for steps, size in ((x_strides, w), (g_strides, ow), (x_grad_strides, w))
    )
    images = bind_gradients(target, geometry, dtype, *strides, *rest)

    def run(x: Any, w: Any, b: Any, g: Any, *results: Any) -> None:
        images(x[row], w[None], b, g[row], *results)

    return run


def result_shape(geometry: Geometry) -> tuple[int, ...]:
    """Give the shape of the result as a sequence."""
    return without_row(geometry.output_shape, geometry.channels_first)


SEQUENCES = Rank(
    3,
    checks.step,
    checks.sequence_padding,
    make_sequence_geometry,
    bind_sequences,
    bind_sequence_gradients,
    result_shape,
)


def state_size(kernel_shape: tuple[int, ...], dilation: int) -> int:
    """Return how many inputs a causal output sees before its own."""
    return (kernel_shape[0] - 1) * dilation
