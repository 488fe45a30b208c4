"""Run MobileNetV1, V2 or EfficientNet-B0: `python mobilenet.py --network v2`.

Running a network is a few numbadw calls a step (`mobilenet_run.py`).  The tables of
steps are in `mobilenet_networks.py`; `mobilenet_weights.py` takes weights from a Keras
or PyTorch model object, or from an `.npz`.  The program prints where the time goes and
draws it; with `--weights` it also names what is on a photo.

Needs Pillow and matplotlib.
"""

import argparse
import time

import numpy as np
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from mobilenet_networks import NETWORKS
from mobilenet_run import Network
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
        times = []
        for calls in network.program(pixels.shape).calls:
            start = time.perf_counter()
            for call in calls:
                call()
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
