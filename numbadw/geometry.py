"""Shapes of one convolution: the only home of padding and output-size rules."""

from dataclasses import dataclass
from typing import Literal, overload

PadPair = tuple[int, int]
PadMode = Literal["same", "valid", "causal"]
# Strides and dilation up to this are taken as given, whatever the image's size.
USUAL_STEP = 256
AxisPadding = PadMode | PadPair
Padding = PadMode | tuple[AxisPadding, AxisPadding]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Every size of one depthwise convolution, checked and complete.

    Output pixel (r, q) reads the input pixels `(r * sh + i * dh - pt,
    q * sw + j * dw - pl)` for each tap (i, j); those outside the image count as
    zeros. Made by `make_geometry`, which alone guarantees that the sizes agree.

    Attributes
    ----------
    n, h, w, c : int
        Images, rows, columns and channels of the input.
    m : int
        Depth multiplier: outputs per input channel.
    kh, kw, sh, sw, dh, dw : int
        Kernel size, strides and dilation, each vertical then horizontal; strides and
        dilation are at most the padded image's size or 256.
    pt, pb, pl, pr : int
        Padding at the top, bottom, left and right.
    oh, ow : int
        Rows and columns of the output, both >= 1.
    channels_first : bool
        True for the layout (n, c, h, w), False for (n, h, w, c).
    """

    n: int
    h: int
    w: int
    c: int
    m: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    pt: int
    pb: int
    pl: int
    pr: int
    oh: int
    ow: int
    channels_first: bool

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input in the caller's layout."""
        if self.channels_first:
            return (self.n, self.c, self.h, self.w)
        return (self.n, self.h, self.w, self.c)

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """Shape of the kernel, the same in both layouts."""
        return (self.kh, self.kw, self.c, self.m)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output in the caller's layout."""
        if self.channels_first:
            return (self.n, self.out_channels, self.oh, self.ow)
        return (self.n, self.oh, self.ow, self.out_channels)

    @property
    def out_channels(self) -> int:
        """Channels of the output, c * m."""
        return self.c * self.m

    @property
    def flops(self) -> int:
        """Two per multiply-add, those on padding included."""
        return 2 * self.n * self.oh * self.ow * self.out_channels * self.kh * self.kw


@dataclass(frozen=True)
class PixelGeometry:
    """Shapes of a 1x1 convolution, which mixes the channels of every pixel.

    Attributes
    ----------
    n, h, w, c : int
        Input axes.
    f : int
        Filters: output channels.
    channels_first : bool
        Whether images are (n, c, h, w).
    """

    n: int
    h: int
    w: int
    c: int
    f: int
    channels_first: bool

    @classmethod
    def after(cls, g: Geometry, f: int) -> "PixelGeometry":
        """Return the geometry of f filters that read what a convolution gives."""
        return cls(g.n, g.oh, g.ow, g.out_channels, f, g.channels_first)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the inputs, in the caller's layout."""
        return self._shape(self.c)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the outputs, in the caller's layout."""
        return self._shape(self.f)

    @property
    def flops(self) -> int:
        """Operations: a multiplication and an addition for each term."""
        return 2 * self.n * self.h * self.w * self.c * self.f

    def _shape(self, channels: int) -> tuple[int, int, int, int]:
        if self.channels_first:
            return self.n, channels, self.h, self.w
        return self.n, self.h, self.w, channels


def make_geometry(
    input_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    strides: tuple[int, int],
    padding: Padding,
    dilation_rate: tuple[int, int],
    channels_first: bool,
    name: str = "kernel",
) -> Geometry:
    """Derive the full geometry from canonical arguments.

    Parameters
    ----------
    input_shape : (int, int, int, int)
        (n, h, w, c), or (n, c, h, w) when `channels_first`. n may be 0, and so may
        h or w where the padding still leaves room for the kernel.
    kernel_shape : (int, int, int, int)
        (kh, kw, c, m), each >= 1.
    strides, dilation_rate : (int, int)
        Vertical, horizontal; >= 1, as `checks.pair` returns them.
    padding : "same", "valid" or a pair of modes or (before, after)
        As `checks.padding` returns it; vertical, horizontal.
    channels_first : bool
        Layout of `input_shape`.
    name : str
        The kernel's, for the messages.

    Returns
    -------
    Geometry
        With output rows `(h + pt + pb - (kh - 1) * dh - 1) // sh + 1`, and columns
        likewise.

    Raises
    ------
    ValueError
        `input_shape` or `kernel_shape` is not 4-D or has a size below its minimum.
        The two disagree about c.
        The output would have no rows or no columns.
    """
    shapes = f"inputs has shape {input_shape} and {name} has shape {kernel_shape}"
    layout = "(N, C, H, W)" if channels_first else "(N, H, W, C)"
    if len(input_shape) != 4 or min(input_shape) < 0:
        raise ValueError(f"inputs must have shape {layout}, got {input_shape}")
    if len(kernel_shape) != 4 or min(kernel_shape) < 1:
        raise ValueError(
            f"{name} must have shape (kh, kw, C, M) with every size >= 1, "
            f"got {kernel_shape}"
        )
    if channels_first:
        n, c, h, w = input_shape
    else:
        n, h, w, c = input_shape
    kh, kw, kernel_c, m = kernel_shape
    if kernel_c != c:
        raise ValueError(
            f"{name} must have as many input channels as inputs: {shapes}, so {name} "
            f"(kh, kw, C, M) has C = {kernel_c} and inputs {layout} has C = {c}"
        )
    sh, sw = strides
    dh, dw = dilation_rate
    rows, columns = (
        (padding, padding) if isinstance(padding, str) else (padding[0], padding[1])
    )
    pt, pb = _pads(h, kh, sh, dh, rows)
    pl, pr = _pads(w, kw, sw, dw, columns)
    oh = _steps(h + pt + pb, kh, sh, dh)
    ow = _steps(w + pl + pr, kw, sw, dw)
    if oh < 1 or ow < 1:
        raise ValueError(
            f"the output must have at least one row and one column, got ({oh}, {ow}): "
            f"{shapes}, with strides {strides}, padding {padding!r} and dilation_rate "
            f"{dilation_rate} in layout {layout}"
        )
    # A step beyond the padded image leads nowhere, and plans grow with strides; usual
    # ones stay, as code is compiled for them.
    sh, dh = (min(step, max(h + pt + pb, USUAL_STEP)) for step in (sh, dh))
    sw, dw = (min(step, max(w + pl + pr, USUAL_STEP)) for step in (sw, dw))
    return Geometry(
        n, h, w, c, m, kh, kw, sh, sw, dh, dw, pt, pb, pl, pr, oh, ow, channels_first
    )


def make_sequence_geometry(
    input_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    stride: int,
    padding: AxisPadding,
    dilation_rate: int,
    channels_first: bool,
) -> Geometry:
    """Derive the geometry of sequences: images of one row, kernels of one row.

    Parameters
    ----------
    input_shape : (int, int, int)
        (n, length, c), or (n, c, length) when `channels_first`.
    kernel_shape : (int, int, int)
        (k, c, m), each >= 1.
    stride, dilation_rate : int
        As `checks.step` returns them.
    padding : "same", "valid", "causal" or (before, after)
        As `checks.sequence_padding` returns it.
    channels_first : bool
        Layout of `input_shape`.

    Returns
    -------
    Geometry
        With h = oh = kh = 1 and w, ow, kw along the sequence.

    Raises
    ------
    ValueError
        As `make_geometry`, in the words of sequences.
    """
    shapes = f"inputs has shape {input_shape} and kernel has shape {kernel_shape}"
    layout = "(N, C, L)" if channels_first else "(N, L, C)"
    if len(input_shape) != 3 or min(input_shape) < 0:
        raise ValueError(f"inputs must have shape {layout}, got {input_shape}")
    if len(kernel_shape) != 3 or min(kernel_shape) < 1:
        raise ValueError(
            f"kernel must have shape (k, C, M) with every size >= 1, got {kernel_shape}"
        )
    k, kernel_c, _ = kernel_shape
    c = input_shape[1 if channels_first else 2]
    if kernel_c != c:
        raise ValueError(
            f"kernel must have as many input channels as inputs: {shapes}, so kernel "
            f"(k, C, M) has C = {kernel_c} and inputs {layout} has C = {c}"
        )
    length = input_shape[2 if channels_first else 1]
    pads = _pads(length, k, stride, dilation_rate, padding)
    if _steps(length + sum(pads), k, stride, dilation_rate) < 1:
        raise ValueError(
            f"the output must have at least one step, got 0: {shapes}, with strides "
            f"{stride}, padding {padding!r} and dilation_rate {dilation_rate} in "
            f"layout {layout}"
        )
    return make_geometry(
        with_row(input_shape, channels_first, 1),
        (1, *kernel_shape),
        (1, stride),
        ("valid", pads),
        (1, dilation_rate),
        channels_first,
    )


def with_row(
    sizes: tuple[int, ...], channels_first: bool, row: int
) -> tuple[int, int, int, int]:
    """Give the shape or the strides of sequences as images, `row` along the rows."""
    n, first, second = sizes
    return (n, first, row, second) if channels_first else (n, row, first, second)


def without_row(sizes: tuple[int, ...], channels_first: bool) -> tuple[int, int, int]:
    """Give the shape of images of one row as sequences."""
    n, *rest = sizes
    del rest[1 if channels_first else 0]
    return (n, rest[0], rest[1])


@overload
def output_size(size: int, k: int, s: int, d: int, padding: AxisPadding) -> int:
    pass


@overload
def output_size(size: None, k: int, s: int, d: int, padding: AxisPadding) -> None:
    pass


def output_size(
    size: int | None, k: int, s: int, d: int, padding: AxisPadding
) -> int | None:
    """Give the output size along one axis.

    Parameters
    ----------
    size : int or None
        Input size; None (not known yet) gives None.
    k, s, d : int
        Kernel size, stride and dilation, each >= 1.
    padding : "same", "valid", "causal" or (before, after)
        Padding along this axis.

    Returns
    -------
    int or None
        Output size, >= 1.

    Raises
    ------
    ValueError
        The output would be empty.
    """
    if size is None:
        return None
    size_out = _steps(size + sum(_pads(size, k, s, d, padding)), k, s, d)
    if size_out < 1:
        raise ValueError(
            f"the output size must be at least 1, got {size_out}: input size {size}, "
            f"kernel size {k}, stride {s}, padding {padding!r}, dilation {d}"
        )
    return size_out


def _pads(size: int, k: int, s: int, d: int, padding: AxisPadding) -> PadPair:
    """Give the padding before and after; "same" puts the odd pixel after.

    "causal" is what lets every output see the inputs up to its own position alone.
    """
    if padding == "valid":
        return (0, 0)
    if padding == "causal":
        return ((k - 1) * d, 0)
    if padding == "same":
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        return (total // 2, total - total // 2)
    return (padding[0], padding[1])


def _steps(padded: int, k: int, s: int, d: int) -> int:
    """Count the dilated kernel's positions on a padded axis; 0 if it does not fit."""
    return max((padded - (k - 1) * d - 1) // s + 1, 0)
