"""Bands: how many images, and which of their rows, the gradients take at a time.

A band of rows y0 <= y < y1 of the gradient at the inputs needs the gradients of all the
outputs that read them; neighbouring bands share some.  The kernel's gradient takes each
output in one band only.  All in numbers of rows, counted within an image.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from numbadw.geometry import Geometry


class Band(NamedTuple):
    """Images and rows of one band; `shape` is all that its plans depend on."""

    n: int  # first image
    y: int  # first row of the gradient at the inputs
    x: int  # first row of the inputs that its outputs read
    o: int  # first output
    shape: Shape


class Shape(NamedTuple):
    """Sizes of a band, and paddings that place its parts beside each other."""

    n: int  # images
    y_rows: int
    x_rows: int
    o_rows: int
    y_pad: int  # row 0 of the gradient at the inputs lies so far behind output 0's
    x_pad: int  # and row 0 of the inputs
    k_rows: int  # outputs that the kernel's gradient takes in this band

    def forward(self, g: Geometry) -> Geometry:
        """Return the forward problem of the band's inputs and outputs."""
        n, h, oh, pt = self.n, self.x_rows, self.o_rows, self.x_pad
        return dataclasses.replace(g, n=n, h=h, oh=oh, pt=pt)

    def input(self, g: Geometry) -> Geometry:
        """Return that of the rows whose gradient is computed."""
        n, h, oh, pt = self.n, self.y_rows, self.o_rows, self.y_pad
        return dataclasses.replace(g, n=n, h=h, oh=oh, pt=pt)

    def kernel(self, g: Geometry) -> Geometry:
        """Return that of the outputs the kernel's gradient takes."""
        return dataclasses.replace(self.forward(g), oh=self.k_rows)


def whole(g: Geometry, images: int) -> list[Band]:
    """Cut into bands of whole images."""
    bands = []
    for n in range(0, g.n, images):
        shape = Shape(min(images, g.n - n), g.h, g.h, g.oh, g.pt, g.pt, g.oh)
        bands.append(Band(n, 0, 0, 0, shape))
    return bands


def rows(g: Geometry, height: int) -> list[Band]:
    """Cut every image into bands of `height` rows of the inputs, at least a stride."""
    height = max(1, height // g.sh) * g.sh  # so that inner bands have one shape
    tall = (g.kh - 1) * g.dh
    starts = range(0, g.h, height)
    lows = [max(0, min(g.oh, -((tall - y - g.pt) // g.sh))) for y in starts]
    lows[0] = 0
    bands = []
    for k, y in enumerate(starts):
        end = min(y + height, g.h)
        last = k + 1 == len(starts)
        low = lows[k]
        high = g.oh if last else max(low, min(g.oh, (end - 1 + g.pt) // g.sh + 1))
        begin = max(0, min(g.h, low * g.sh - g.pt))
        stop = max(begin, min(g.h, (high - 1) * g.sh - g.pt + tall + 1))
        after = g.oh if last else min(lows[k + 1], high)
        shape = Shape(
            1,
            end - y,
            stop - begin,
            high - low,
            g.pt + y - low * g.sh,
            g.pt + begin - low * g.sh,
            after - low,
        )
        bands.append((y, begin, low, shape))
    return [Band(n, *band) for n in range(g.n) for band in bands]
