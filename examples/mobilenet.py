"""Run MobileNetV1, V2 or EfficientNet-B0: `python mobilenet.py --network v2`.

Running a network is one numbadw call a step, and NumPy for the little that is left.
The tables of steps are in `mobilenet_networks.py`; `mobilenet_weights.py` takes weights
from a Keras or PyTorch model object, or from an `.npz`.  The program prints where the
time goes and draws it; with `--weights` it also names what is on a photo.

Needs Pillow and matplotlib.
"""

import argparse
import time

import numpy as np
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from mobilenet_networks import NETWORKS
from mobilenet_weights import load, random_weights
from PIL import Image

import numbadw as ndw

PAPER = "#fbfaf7"
COLOURS = {
    "stem": "#c8502a",
    "pointwise": "#1f5fa8",
    "depthwise": "#7fb069",
    "separable": "#2f7f86",
    "excite": "#b08ac2",
    "head": "#8a8a8a",
}


class Network:
    """Steps with their weights: `network(pixels)` gives a score for each class.

    `pixels` is an array of shape (N, H, W, 3) from 0 to 255, float32; the scores are
    an array of shape (N, classes), before the softmax.
    """

    def __init__(self, steps, weights, backend="auto"):
        self.steps, self.weights, self.backend = steps, weights, backend
        self.padded = self.patches = np.zeros((0,), np.float32)

    def __call__(self, pixels):
        """Run all steps."""
        x, kept = pixels, None
        for step in self.steps:
            x, kept = self.run(step, x, kept)
        return x

    def run(self, step, x, kept):
        """Run one step; return its result and what later steps shall add."""
        kept = x if step.starts else kept
        pairs = [
            (self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"])
            for name in step.shapes
        ]
        y = getattr(self, step.kind)(step, x, *pairs)
        if step.adds:
            y += kept
        return y, kept

    def stem(self, step, x, pair):
        """Gather the 27 inputs of every output pixel, then mix them."""
        n, h, w, _ = x.shape
        oh, ow = -(-h // 2), -(-w // 2)
        # Rows and columns before the image; those after it are never too many.
        top, left = (1, 1) if step.padding == 1 else (h % 2, w % 2)
        if self.padded.shape != (n, h + 2, 3 * (w + 2)):
            self.padded = np.zeros((n, h + 2, 3 * (w + 2)), np.float32)
            self.patches = np.empty((n, oh, ow, 27), np.float32)
        # Whole rows at once: NumPy is slow where the last axis has three numbers.
        inside = self.padded[:, top : top + h, 3 * left : 3 * (left + w)]
        scale, offset = (
            np.tile(self.weights[name], w) for name in ("pixels/scale", "pixels/offset")
        )
        np.multiply(x.reshape(n, h, 3 * w), scale, out=inside)
        inside += offset
        # Three neighbouring pixels are one item of 36 bytes: one copy each.
        image, row, _ = self.padded.strides
        strides = image, 2 * row, 24, row
        windows = np.ndarray((n, oh, ow, 3), "V36", self.padded, strides=strides)
        np.copyto(self.patches.view("V36"), windows)
        return self.pointwise(step, self.patches, pair)

    def pointwise(self, step, x, pair):
        """Mix the channels of every pixel."""
        options = {"activation": step.activation, "backend": self.backend}
        return ndw.pointwise_conv2d(x, *pair, **options)

    def depthwise(self, step, x, pair):
        """Filter every channel by itself."""
        return ndw.depthwise_conv2d(
            x,
            *pair,
            strides=step.strides,
            padding=step.padding,
            activation=step.activation,
            backend=self.backend,
        )

    def separable(self, step, x, first, second):
        """Filter every channel, then mix them, in one pass."""
        return ndw.separable_conv2d(
            x,
            first[0],
            *second,
            strides=step.strides,
            padding=step.padding,
            depthwise_bias=first[1],
            depthwise_activation=step.between,
            activation=step.activation,
            backend=self.backend,
        )

    def excite(self, step, x, first, second):
        """Scale every channel by a number between 0 and 1 that all channels give."""
        scores = ndw.pointwise_conv2d(
            means(x)[:, None, None, :], *first, activation="silu", backend=self.backend
        )
        scores = ndw.pointwise_conv2d(
            scores, *second, activation="sigmoid", backend=self.backend
        )
        # Rows of w * c numbers, as in `means`: NumPy's loops run along one axis.
        n, h, w, c = x.shape
        rows = x.reshape(n, h, w * c)
        rows *= np.tile(scores.reshape(n, 1, c), (1, 1, w))
        return x

    def head(self, step, x, pair):
        """Average every channel and give each class its score."""
        return self.pointwise(step, means(x)[:, None, None, :], pair)[:, 0, 0]


def means(x):
    """Return the mean of every channel, (N, C)."""
    n, h, w, c = x.shape
    rows = np.add.reduce(x.reshape(n, h, w * c), axis=1).reshape(n, w, c)
    return np.add.reduce(rows, axis=1) / np.float32(h * w)


def read_photo(path, size):
    """Return the middle square of a photo as (1, size, size, 3) pixels, 0 to 255."""
    photo = Image.open(path).convert("RGB")
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    box = left, top, left + side, top + side
    small = photo.resize((size, size), Image.Resampling.BILINEAR, box)
    return np.asarray(small, np.float32)[None]


def measure(network, pixels, rounds):
    """Return the least milliseconds of the network and of each of its steps."""
    totals, parts = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        network(pixels)
        totals.append(time.perf_counter() - start)
        x, kept, times = pixels, None, []
        for step in network.steps:
            start = time.perf_counter()
            x, kept = network.run(step, x, kept)
            times.append(time.perf_counter() - start)
        parts.append(times)
    return 1e3 * min(totals), 1e3 * np.min(parts, 0)


def print_times(steps, total, parts):
    """Print a line for each step, and one for each kind of step."""
    print(f"{'step':24} {'kind':10} {'kernels':28} {'ms':>7}")
    for step, part in zip(steps, parts, strict=True):
        name = next(iter(step.shapes))
        shapes = " ".join("x".join(map(str, shape)) for shape in step.shapes.values())
        print(f"{name:24} {step.kind:10} {shapes:28} {part:7.3f}")
    print()
    for kind, part in by_kind(steps, parts).items():
        print(f"{kind:10} {part:7.2f} ms {part / sum(parts):6.1%}")
    print(f"{'network':10} {total:7.2f} ms, {1e3 / total:.0f} images a second")


def by_kind(steps, parts):
    """Return the sums of the times of every kind that occurs."""
    sums = dict.fromkeys((step.kind for step in steps), 0.0)
    for step, part in zip(steps, parts, strict=True):
        sums[step.kind] += part
    return sums


def draw(path, title, steps, parts):
    """Write a picture: a bar for each step, and how the kinds share the time."""
    figure = Figure((11, 1.6 + 0.17 * len(steps)), layout="constrained")
    figure.set_facecolor(PAPER)
    axes, shares = figure.subplots(1, 2, width_ratios=(3, 1.4))
    names = [next(iter(step.shapes)) for step in steps]
    axes.barh(names, parts, color=[COLOURS[step.kind] for step in steps], height=0.75)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set(facecolor=PAPER, xlabel="milliseconds")
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.set_title(title, loc="left")
    sums = by_kind(steps, parts)
    labels = [f"{kind}\n{part:.2f} ms" for kind, part in sums.items()]
    bars = shares.bar(labels, sums.values(), color=[COLOURS[kind] for kind in sums])
    shares.bar_label(bars, [f"{part / sum(parts):.0%}" for part in sums.values()])
    shares.tick_params(axis="x", labelsize=7, length=0)
    shares.set(facecolor=PAPER, yticks=[])
    shares.set_title("Every kind of step", loc="left")
    for each in (axes, shares):
        each.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110)


def classify(network, pixels, labels, best=5):
    """Print the classes with the highest probabilities."""
    scores = network(pixels)[0].astype(np.float64)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    for number in np.argsort(-shares)[:best]:
        name = labels[number] if labels else f"class {number}"
        print(f"{shares[number]:7.2%}  {name}")


def main():
    """Time a network on a photo, draw the times, and name what the photo shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", default="mobilenet.png")
    parser.add_argument("--network", choices=NETWORKS, default="v1")
    parser.add_argument("--width", type=float, default=1.0, help="width multiplier")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--symmetric", action="store_true", help="PyTorch's padding")
    parser.add_argument("--weights", help="an .npz written by mobilenet_weights.save")
    parser.add_argument("--labels", help="a text file, one class name a line")
    parser.add_argument("--photo", default=get_sample_data("grace_hopper.jpg", False))
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    steps = NETWORKS[arguments.network](
        arguments.width, arguments.classes, arguments.symmetric
    )
    if arguments.weights:
        weights = load(arguments.weights, steps)
    else:
        weights = random_weights(steps, np.random.default_rng(0))
    network = Network(steps, weights)
    pixels = read_photo(arguments.photo, arguments.size)
    network(pixels)  # compiles, or reads compiled code from the disk
    total, parts = measure(network, pixels, arguments.rounds)
    print_times(steps, total, parts)
    title = f"{arguments.network}, width {arguments.width:g}, {arguments.size} pixels"
    title += f": {total:.2f} ms on {ndw.get_num_threads()} threads"
    draw(arguments.picture, title, steps, parts)
    print(f"{arguments.picture} shows these times")
    if not arguments.weights:
        print("the weights are random: the photo is not classified without --weights")
        return
    labels = []
    if arguments.labels:
        with open(arguments.labels, encoding="utf-8") as file:
            labels = file.read().splitlines()
    classify(network, pixels, labels)


if __name__ == "__main__":
    main()
