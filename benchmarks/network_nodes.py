"""The networks of `examples/mobilenet.py` as lists of operators, for other libraries.

The lists are those that a Keras or PyTorch model has once its normalisations are
folded: every library gets the same operators and the same weights.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
import mobilenet_weights
from mobilenet_networks import NETWORKS, Step
from mobilenet_run import Network

Array = NDArray[Any]
SIZE = 224


class Node(NamedTuple):
    """One operator: "conv", "depthwise", "mean", "dense", "multiply" or "add".

    `inputs` and `output` are names; `shape` is that of the result, without the images.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...]
    kernel: Array | None = None  # (kh, kw, C, F), (kh, kw, C, 1) or (C, F)
    bias: Array | None = None
    activation: str = "linear"
    strides: int = 1
    pads: tuple[int, int] = (0, 0)  # before and after, of rows and columns alike


class Problem(NamedTuple):
    """A network with random weights, and an image."""

    network: Network
    pixels: Array  # (1, SIZE, SIZE, 3) from 0 to 255
    scaled: Array  # as the first convolution takes them
    nodes: list[Node]


def make_problem(name: str, symmetric: bool = False) -> Problem:
    """Make a network, padded as Keras does or on both sides alike."""
    rng = np.random.default_rng(0)
    steps = NETWORKS[name](symmetric=symmetric)
    weights = mobilenet_weights.random_weights(steps, rng)
    pixels = rng.uniform(0, 255, (1, SIZE, SIZE, 3)).astype(np.float32)
    scaled = pixels * weights["pixels/scale"] + weights["pixels/offset"]
    nodes = Lowering(weights).run(steps)
    return Problem(Network(steps, weights), pixels, scaled, nodes)


def keras_scores(problem: Problem, model: Any) -> Array:
    """Return the scores of numbadw with the weights of a Keras model."""
    steps = problem.network.steps
    weights = mobilenet_weights.from_keras(model, steps)
    return np.asarray(Network(steps, weights)(problem.pixels))


def reference_scores(problem: Problem) -> Array:
    """Return the scores of plain NumPy."""
    network = problem.network
    slow = Network(network.steps, network.weights, "reference")
    return np.asarray(slow(problem.pixels))


class Lowering:
    """Turns steps into nodes."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[Node] = []

    def run(self, steps: list[Step]) -> list[Node]:
        """Return the nodes of all steps, from "x" to the last one's output."""
        x, shape, kept = "x", (SIZE, SIZE, 3), "x"
        for step in steps:
            kept = x if step.starts else kept
            names = list(step.shapes)
            if step.kind == "excite":
                x, names = self.excite(names, x, shape), names[2:]
            for name in names:
                x, shape = self.convolve(step, name, x, shape)
            if step.adds:
                x = self.add(Node("add", (x, kept), f"{name}/sum", shape))
        return self.nodes

    def add(self, node: Node) -> str:
        """Append a node; return its output."""
        self.nodes.append(node)
        return node.output

    def pair(self, name: str) -> tuple[Array, Array]:
        """Return the kernel and bias of a name."""
        return self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"]

    def convolve(
        self, step: Step, name: str, x: str, shape: tuple[int, ...]
    ) -> tuple[str, tuple[int, ...]]:
        """Append a convolution, or the mean and the matrix at the end."""
        kernel, bias = self.pair(name)
        if step.kind == "head":
            mean = self.add(Node("mean", (x,), f"{name}/mean", shape[-1:]))
            node = Node("dense", (mean,), name, kernel.shape[-1:], kernel, bias)
            return self.add(node), node.shape
        depthwise = kernel.ndim == 4
        strides = step.strides if depthwise else 2 if step.kind == "stem" else 1
        if not depthwise:
            side = 3 if step.kind == "stem" else 1
            kernel = kernel.reshape(side, side, -1, kernel.shape[-1])
        size, outputs = shape[0], -(-shape[0] // strides)
        every = max(0, (outputs - 1) * strides + kernel.shape[0] - size)
        before = step.padding if isinstance(step.padding, int) else every // 2
        channels = kernel.shape[2 if depthwise else 3]
        first = step.kind == "separable" and depthwise
        node = Node(
            "depthwise" if depthwise else "conv",
            (x,),
            name,
            (outputs, outputs, channels),
            kernel,
            bias,
            step.between if first else step.activation,
            strides,
            (0, 0) if kernel.shape[0] == 1 else (before, every - before),
        )
        return self.add(node), node.shape

    def excite(self, names: list[str], x: str, shape: tuple[int, ...]) -> str:
        """Append a squeeze and excitation."""
        scores = self.add(Node("mean", (x,), f"{names[0]}/mean", (1, 1, shape[-1])))
        for name, activation in zip(names, ("silu", "sigmoid"), strict=False):
            kernel, bias = self.pair(name)
            kernel = kernel[None, None]
            inner = 1, 1, kernel.shape[-1]
            node = Node("conv", (scores,), name, inner, kernel, bias, activation)
            scores = self.add(node)
        return self.add(Node("multiply", (x, scores), f"{names[1]}/scaled", shape))
