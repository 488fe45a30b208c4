"""The layers that are measured: one row per real network layer or image filter."""

import csv
import math
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbadw.cuda.halves import rounded
from numbadw.geometry import Geometry, Padding, PadMode, make_geometry
from numbadw.memory import aligned_empty

FLOAT_BYTES = 4


class Workload(NamedTuple):
    """One depthwise convolution to measure, channels last.

    `model` names where it comes from; the other letters are those of the whole
    package: input n, h, w, c; kernel kh, kw; stride sh, sw; dilation dh, dw;
    multiplier m. `dtype` is how the arrays are stored, float32 on the CPU.
    """

    model: str
    n: int
    h: int
    w: int
    c: int
    kh: int
    kw: int
    sh: int = 1
    sw: int = 1
    dh: int = 1
    dw: int = 1
    m: int = 1
    padding: PadMode = "same"
    dtype: str = "float32"

    @property
    def id(self) -> str:
        """Label of the workload: test id, benchmark group and row of the report."""
        label = f"{self.model}-{self.h}x{self.w}x{self.c}-k{self.kh}x{self.kw}"
        label += f"-s{_pair(self.sh, self.sw)}"
        if (self.dh, self.dw) != (1, 1):
            label += f"-d{_pair(self.dh, self.dw)}"
        if self.m != 1:
            label += f"-m{self.m}"
        if self.n != 1:
            label += f"-n{self.n}"
        if self.dtype != "float32":
            label += f"-{self.dtype}"
        return label

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input, (n, h, w, c)."""
        return self.n, self.h, self.w, self.c

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """Shape of the kernel, (kh, kw, c, m)."""
        return self.kh, self.kw, self.c, self.m

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the result, (n, oh, ow, c * m)."""
        return self.geometry().output_shape

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `numbadw.depthwise_conv2d` for this workload."""
        return {
            "strides": (self.sh, self.sw),
            "padding": self.padding,
            "dilation_rate": (self.dh, self.dw),
        }

    @property
    def flops(self) -> int:
        """Multiplications and additions, those on padding counted as everyone does."""
        return self.geometry().flops

    @property
    def needed(self) -> int:
        """Multiplications and additions, those on padding left out."""
        geometry = self.geometry()
        oh, ow = geometry.output_shape[1:3]
        rows = _inside(oh, self.kh, self.sh, self.dh, geometry.pt, self.h)
        columns = _inside(ow, self.kw, self.sw, self.dw, geometry.pl, self.w)
        return 2 * self.n * self.c * self.m * rows * columns

    @property
    def bytes(self) -> int:
        """Bytes moved if input and kernel are read once and the result written once."""
        shapes = (self.input_shape, self.kernel_shape, self.output_shape)
        return self.itemsize * sum(math.prod(shape) for shape in shapes)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return FLOAT_BYTES if self.dtype == "float32" else FLOAT_BYTES // 2

    @property
    def distinct(self) -> int:
        """Images of the batch that differ; the others repeat them in order.

        The oracle computes these alone, and more than one so that an image taken for
        its neighbour shows.
        """
        return next((d for d in range(2, self.n) if self.n % d == 0), self.n)

    @property
    def one_kernel(self) -> bool:
        """Whether every channel has the same kernel, as an image filter has."""
        return self.model == "image"

    def geometry(self, padding: Padding | None = None) -> Geometry:
        """Give the geometry of this workload, or with another padding than its own."""
        return make_geometry(
            self.input_shape,
            self.kernel_shape,
            (self.sh, self.sw),
            self.padding if padding is None else padding,
            (self.dh, self.dw),
            False,
        )

    def symmetric_padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Give the padding of a peer that pads both sides with the larger one."""
        geometry = self.geometry()
        ph = max(geometry.pt, geometry.pb)
        pw = max(geometry.pl, geometry.pr)
        return (ph, ph), (pw, pw)


# The same filter on every channel, as image libraries have it.
IMAGES = (
    Workload("image", 1, 512, 606, 3, 5, 5),
    Workload("image", 1, 1024, 1024, 3, 3, 3),
    Workload("image", 1, 2048, 2048, 1, 9, 9),
)
# What layers seldom are: odd sizes, unequal steps, dilated, many filters a channel.
ODD = (
    Workload("odd", 1, 113, 97, 37, 3, 3),
    Workload("odd", 1, 57, 61, 130, 5, 5, 2, 2),
    Workload("odd", 1, 56, 56, 96, 1, 7),
    Workload("odd", 1, 56, 56, 96, 7, 1, 2, 1),
    Workload("odd", 1, 64, 64, 64, 4, 4, padding="valid"),
    Workload("odd", 1, 20, 30, 5, 3, 3),
    Workload("dilated", 1, 56, 56, 128, 3, 3, dh=2, dw=2),
    Workload("dilated", 1, 28, 28, 256, 3, 3, dh=4, dw=4),
    Workload("dilated", 1, 28, 28, 192, 5, 5, dh=2, dw=3),
    Workload("multiplied", 1, 56, 56, 64, 3, 3, m=2),
    Workload("multiplied", 1, 28, 28, 48, 5, 5, m=3),
    Workload("multiplied", 1, 112, 112, 16, 3, 3, 2, 2, m=4),
)
# So little work that the call itself is what is measured.
TINY = Workload("tiny", 1, 4, 4, 16, 3, 3)
NETWORK_FILTERS = "image_filter"
LARGE_KERNELS = "replknet"


def load_layers(batch: int = 1) -> list[Workload]:
    """Read the network layers of `layers.csv`, padding "same"."""
    text = files(__package__).joinpath("layers.csv").read_text(encoding="ascii")
    return [_layer(row, batch) for row in csv.DictReader(text.splitlines())]


def aligned_copy(array: NDArray[Any], offset: int = 0) -> NDArray[Any]:
    """Copy an array to a C-contiguous one made by `aligned_empty`."""
    result = aligned_empty(array.shape, array.dtype, offset=offset)
    result[...] = array
    return result


def make_data(workload: Workload, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Make the 64-byte aligned input and kernel of a workload, normal noise.

    They are float32 arrays of numbers that the workload's dtype holds exactly.
    """
    rng = np.random.default_rng(seed)
    inputs = _noise(rng, workload, workload.input_shape)
    kernel = rng.standard_normal(workload.kernel_shape, dtype=np.float32)
    if workload.one_kernel:
        kernel[...] = kernel[:, :, :1, :1].copy()
    return inputs, aligned_copy(_stored(kernel, workload))


def make_grad(workload: Workload, padding: Padding, seed: int = 1) -> NDArray[Any]:
    """Make the 64-byte aligned gradient at the result that a padding gives."""
    shape = workload.geometry(padding).output_shape
    return _noise(np.random.default_rng(seed), workload, shape)


def _noise(
    rng: np.random.Generator, workload: Workload, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Make aligned images of which `workload.distinct` differ."""
    images = rng.standard_normal((workload.distinct, *shape[1:]), dtype=np.float32)
    images = _stored(images, workload)
    result = aligned_empty(shape, np.float32)
    result.reshape(-1, *images.shape)[...] = images
    return result


def _stored(array: NDArray[Any], workload: Workload) -> NDArray[Any]:
    """Round numbers as storing them in the workload's dtype does."""
    return array if workload.dtype == "float32" else rounded(array, workload.dtype)


def _layer(row: dict[str, str], batch: int) -> Workload:
    """Turn one row of the table into a workload."""
    size, stride = int(row["kernel"]), int(row["stride"])
    return Workload(
        model=row["model"],
        n=batch,
        h=int(row["height"]),
        w=int(row["width"]),
        c=int(row["channels"]),
        kh=size,
        kw=size,
        sh=stride,
        sw=stride,
        m=int(row["depth_multiplier"]),
    )


def _inside(
    outputs: int, taps: int, stride: int, dilation: int, padding: int, size: int
) -> int:
    """Count the pairs of an output and a tap that meet within the image."""
    starts = np.arange(outputs)[:, np.newaxis] * stride - padding
    places = starts + np.arange(taps) * dilation
    return int(np.count_nonzero((places >= 0) & (places < size)))


def _pair(first: int, second: int) -> str:
    """Write a pair of equal numbers once."""
    return str(first) if first == second else f"{first}x{second}"
