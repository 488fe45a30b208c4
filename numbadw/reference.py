"""Plain NumPy with float64 sums: the oracle of every test and backend="reference".

Loops over kernel taps only; each tap adds the shifted image where it covers pixels:

    for i, j in taps:
        acc[:, rows, columns] += inputs[:, rows * sh + i * dh - pt, ...] * kernel[i, j]

Padding is left out by slicing, never multiplied, so that an infinite tap over padding
adds nothing and non-finite pixels reach only the outputs whose window holds them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw import activations
from numbadw.geometry import Geometry

Array = npt.NDArray[Any]


def forward(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    activation: str,
    parameter: float,
    geometry: Geometry,
    out: Array,
) -> None:
    """Write the convolution of `inputs` into `out`.

    Contract: arrays as `checks` returns them, of any strides, in the layout that
    `geometry` states; `activation` and `parameter` as `activations.resolve` returns
    them. The sums, bias and activation are float64; `out` is touched once, at the end.
    """
    g = geometry
    images = inputs.transpose(0, 2, 3, 1) if g.channels_first else inputs
    taps = kernel.astype(np.float64)
    acc = np.zeros((g.n, g.oh, g.ow, g.c, g.m))
    with np.errstate(all="ignore"):
        for i in range(g.kh):
            rows, input_rows = _covered(g.oh, g.h, g.sh, i * g.dh - g.pt)
            for j in range(g.kw):
                columns, input_columns = _covered(g.ow, g.w, g.sw, j * g.dw - g.pl)
                pixels = images[:, input_rows, input_columns, :, None]
                acc[:, rows, columns] += pixels * taps[i, j]
        result = acc.reshape(g.n, g.oh, g.ow, g.out_channels)
        if bias is not None:
            result += bias
        result = activations.apply(result, activation, parameter)
        out[...] = result.transpose(0, 3, 1, 2) if g.channels_first else result


def _covered(steps: int, size: int, stride: int, shift: int) -> tuple[slice, slice]:
    """Pair the outputs r with inputs r * stride + shift, where these exist."""
    first = max(0, -(shift // stride))
    last = min(steps - 1, (size - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    start, stop = first * stride + shift, last * stride + shift + 1
    return slice(first, last + 1), slice(start, stop, stride)
