"""The demo: a photo through a bank of filters, then the layers of MobileNetV1.

Writes a contact sheet and compares with scipy.ndimage, whose result must be the same.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import numbadw
from numbadw.bench.measure import interleaved
from numbadw.bench.workloads import Workload, load_layers, make_data
from numbadw.console import progress, say
from numbadw.memory import aligned_empty

Array = npt.NDArray[Any]

SAMPLE = "grace_hopper.jpg"
NETWORK = "mobilenet_v1"
FILTERS = {
    "blur": [
        [1 / 16, 2 / 16, 1 / 16],
        [2 / 16, 4 / 16, 2 / 16],
        [1 / 16, 2 / 16, 1 / 16],
    ],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "Sobel x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "Sobel y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
}
# A derivative is drawn around grey; this share of its pixels fits between the ends.
DRAWN_PERCENT = 99.5
PEER_ROUNDS = 7
# The part of the photo that is drawn enlarged, rows and columns.
DETAIL = slice(140, 240), slice(170, 270)
PAPER, BAR = "#fbfaf7", "#b9d3ee"


class Photo(NamedTuple):
    """The photo, its filtered copies and what they cost."""

    image: Array
    filtered: Array
    seconds: float
    peer_seconds: float
    difference: float


class Layer(NamedTuple):
    """One measured network layer."""

    workload: Workload
    seconds: float

    @property
    def gflops(self) -> float:
        """Billions of operations a second."""
        return self.workload.flops / self.seconds / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 1 where the libraries it draws and compares with are missing."""
    parser = argparse.ArgumentParser(
        prog="python -m numbadw demo",
        description="Filter a photo, compare with scipy.ndimage, time MobileNetV1.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("numbadw_demo.png"),
        metavar="PATH",
        help="the contact sheet to write (default numbadw_demo.png)",
    )
    arguments = parser.parse_args(argv)
    try:
        image = load_photo()
        photo = filter_photo(image)
    except ImportError as error:
        progress(
            f"The demo needs matplotlib and scipy ({error}).\n"
            'They come with the extra "plot": pip install "numbadw[plot]"'
        )
        return 1
    _, h, w, c = image.shape
    say(
        f"{SAMPLE}, {w} x {h} pixels, {c} channels x {len(FILTERS)} filters of 3x3: "
        f"{_time(photo.seconds)}"
    )
    say(
        f"scipy.ndimage.correlate, same result: {_time(photo.peer_seconds)}, "
        f"{photo.peer_seconds / photo.seconds:.0f} times as long; "
        f"largest difference {photo.difference:.1e}"
    )
    layers = time_layers()
    say(f"\nThe depthwise layers of {NETWORK}, {numbadw.get_num_threads()} threads:")
    for layer in layers:
        name = f"  {_title(layer.workload):24} {_time(layer.seconds):>9}"
        say(f"{name} {layer.gflops:6.0f} GFLOP/s")
    draw_sheet(photo, layers, arguments.output)
    say(f"\nwrote {arguments.output}")
    return 0


def load_photo() -> Array:
    """Read matplotlib's sample photo: float32, (1, h, w, 3), from 0 to 1."""
    from matplotlib import cbook, image

    pixels = image.imread(cbook.get_sample_data(SAMPLE, asfileobj=False))
    photo = aligned_empty((1, *pixels.shape), np.float32)
    np.divide(pixels, 255, out=photo, dtype=np.float32)
    return photo


def filter_bank(channels: int) -> Array:
    """Make the kernel (3, 3, channels, 4) that runs every filter on every channel."""
    taps = np.array(list(FILTERS.values()), np.float32).transpose(1, 2, 0)
    return np.repeat(taps[:, :, None], channels, axis=2)


def filter_photo(image: Array) -> Photo:
    """Filter with numbadw and with scipy, and time both."""
    from scipy.ndimage import correlate

    _, h, w, channels = image.shape
    kernel = filter_bank(channels)
    multiplier = kernel.shape[-1]
    out = aligned_empty((1, h, w, channels * multiplier), np.float32)
    # What suits scipy: one dense plane for each channel in and out.
    planes = np.ascontiguousarray(image[0].transpose(2, 0, 1))
    peer_out = np.empty((channels * multiplier, h, w), np.float32)

    def ours() -> None:
        numbadw.depthwise_conv2d(image, kernel, padding="same", out=out)

    def peer() -> None:
        for c, q in np.ndindex(channels, multiplier):
            plane = peer_out[c * multiplier + q]
            correlate(planes[c], kernel[:, :, c, q], output=plane, mode="constant")

    _compile("the filters", ours)
    seconds = interleaved({"ours": ours, "peer": peer}, rounds=PEER_ROUNDS)
    difference = float(np.abs(out[0].transpose(2, 0, 1) - peer_out).max())
    return Photo(image, out, seconds["ours"], seconds["peer"], difference)


def time_layers() -> list[Layer]:
    """Time the network's depthwise layers, each built and with a result to write to."""
    calls = {}
    workloads = {w.id: w for w in load_layers() if w.model == NETWORK}
    for workload in workloads.values():
        inputs, kernel = make_data(workload)
        layer = numbadw.DepthwiseConv2D(
            (workload.kh, workload.kw), use_bias=False, **workload.options
        )
        layer.build(workload.input_shape)
        layer.kernel = kernel
        out = aligned_empty(workload.output_shape, np.float32, beside=inputs)
        calls[workload.id] = lambda layer=layer, x=inputs, out=out: layer(x, out=out)
    _compile(f"the layers of {NETWORK}", *calls.values())
    seconds = interleaved(calls)
    return [Layer(workloads[name], seconds[name]) for name in workloads]


def draw_sheet(photo: Photo, layers: Sequence[Layer], path: Path) -> None:
    """Draw the photo, its filtered copies and the layers' rates into one PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 10.2), dpi=120, facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.02, 0.02, 0.98, 0.885, wspace=0.05, hspace=0.1)
    figure.suptitle(
        f"numbadw {numbadw.__version__}: {len(FILTERS)} filters on {SAMPLE} in "
        f"{_time(photo.seconds)}\n"
        f"scipy.ndimage {_time(photo.peer_seconds)}, largest difference "
        f"{photo.difference:.1e}",
        fontsize=16,
    )
    axes = figure.subplots(2, 3).ravel()
    pictures = {"original": photo.image[0]}
    for q, name in enumerate(FILTERS):
        pixels = photo.filtered[0, :, :, q :: len(FILTERS)]
        pictures[name] = _around_grey(pixels) if "Sobel" in name else pixels
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        shown = np.clip(picture, 0, 1)
        axis.imshow(shown, interpolation="antialiased")
        axis.set_title(title, fontsize=14)
        axis.set_axis_off()
        inset = axis.inset_axes((0.6, 0.0, 0.4, 0.4), anchor="SE")
        inset.imshow(shown[DETAIL], interpolation="nearest")
        inset.set(xticks=[], yticks=[])
        inset.spines[:].set(color=PAPER, linewidth=2)
    _draw_rates(axes[-1], layers)
    figure.savefig(path)


def _draw_rates(axis: Any, layers: Sequence[Layer]) -> None:
    """Draw one bar for each layer, as long as its rate, with sizes and time."""
    rates = [layer.gflops for layer in layers]
    right = 1.3 * max(rates)
    axis.barh(range(len(layers)), rates, color=BAR)
    for row, layer in enumerate(layers):
        name = f" {_title(layer.workload)}, {layer.gflops:.0f} GFLOP/s"
        axis.text(0, row, name, va="center", fontsize=11)
        axis.text(right, row, _time(layer.seconds), va="center", ha="right")
    axis.invert_yaxis()
    axis.set_xlim(0, right)
    axis.set_axis_off()
    axis.set_title(f"layers of {NETWORK}", fontsize=14)


def _around_grey(derivative: Array) -> Array:
    """Map a derivative to 0 to 1 with zero at one half."""
    limit = np.percentile(np.abs(derivative), DRAWN_PERCENT)
    return np.asarray(0.5 + 0.5 * derivative / limit)


def _compile(what: str, *calls: Any) -> None:
    """Make the first calls, and say what the wait is for."""
    progress(f"compiling {what}, or loading it from the cache on disk ...")
    start = time.perf_counter()
    for call in calls:
        call()
    progress(f"... ready after {time.perf_counter() - start:.2f} s")


def _title(workload: Workload) -> str:
    """Name a layer by its sizes."""
    stride = f" stride {workload.sh}" if workload.sh > 1 else ""
    return f"{workload.h} x {workload.w} x {workload.c}{stride}"


def _time(seconds: float) -> str:
    """Write a time with three digits in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
