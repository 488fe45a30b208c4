"""Train a small network on handwritten digits: `python train_digits.py digits.png`.

The data are scikit-learn's 1797 digits of 8 x 8 pixels.  The network is a stack of
depthwise-separable blocks, as in MobileNet: each channel is filtered by itself (that
is numbadw), then the channels are mixed pixel by pixel (a matrix product).  The rest is
NumPy.  Every layer has one method, `y, pullback = layer.vjp(x)`; `pullback(y_grad)`
gives the gradient at x and those at the weights.  Training needs no more than that.

Needs scikit-learn and matplotlib.
"""

import argparse
import time

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import numbadw as ndw

CLASSES = 10
PAPER, LIGHT, BLUE, RED = "#fbfaf7", "#b9d3ee", "#1f5fa8", "#c8502a"


class Dense:
    """A matrix product over the last axis: a 1x1 convolution, or the last layer."""

    def __init__(self, inputs, outputs, rng, relu=True):
        scale = np.sqrt(2 / inputs)
        weight = rng.normal(0, scale, (inputs, outputs)).astype(np.float32)
        self.weights = [weight, np.zeros(outputs, np.float32)]
        self.relu = relu

    def vjp(self, x):
        """Return the result and the function that takes gradients back."""
        weight, bias = (array.copy() for array in self.weights)
        y = x @ weight + bias
        if self.relu:
            y = np.maximum(y, 0)

        def pullback(y_grad):
            if self.relu:
                y_grad = y_grad * (y > 0)
            rows, grads = (a.reshape(-1, a.shape[-1]) for a in (x, y_grad))
            return y_grad @ weight.T, [rows.T @ grads, grads.sum(0)]

        return y, pullback


class Flatten:
    """Turn images into rows of numbers."""

    weights = ()

    def vjp(self, x):
        """Return the result and the function that takes gradients back."""
        return x.reshape(len(x), -1), lambda y_grad: (y_grad.reshape(x.shape), [])


class Adam:
    """Kingma and Ba, "Adam: a method for stochastic optimization", 2015."""

    def __init__(self, weights, beta1=0.9, beta2=0.999, epsilon=1e-7):
        self.weights, self.steps = weights, 0
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.means = [np.zeros_like(weight) for weight in weights]
        self.squares = [np.zeros_like(weight) for weight in weights]

    def step(self, grads, rate):
        """Change the weights in place: a layer reads its own at every call."""
        self.steps += 1
        for weight, grad, mean, square in zip(
            self.weights, grads, self.means, self.squares, strict=True
        ):
            mean += (1 - self.beta1) * (grad - mean)
            square += (1 - self.beta2) * (grad**2 - square)
            best = mean / (1 - self.beta1**self.steps)
            spread = np.sqrt(square / (1 - self.beta2**self.steps))
            weight -= rate * best / (spread + self.epsilon)


def make_network(rng, backend="auto"):
    """Return the layers: (N, 8, 8, 1) images in, ten scores out."""

    def normal(shape, dtype):
        # Every filter sees one channel: kh * kw inputs, whatever their number.
        return rng.normal(0, np.sqrt(2 / (shape[0] * shape[1])), shape).astype(dtype)

    options = {"padding": "same", "activation": "relu", "backend": backend}
    options["depthwise_initializer"] = normal
    layers = [
        ndw.DepthwiseConv2D(5, depth_multiplier=16, **options),
        Dense(16, 64, rng),
        ndw.DepthwiseConv2D(3, strides=2, **options),
        Dense(64, 64, rng),
        ndw.DepthwiseConv2D(3, **options),
        Flatten(),
        Dense(4 * 4 * 64, CLASSES, rng, relu=False),
    ]
    scores(layers, np.zeros((1, 8, 8, 1), np.float32))  # builds the weights
    return layers


def scores(layers, x):
    """Return the network's scores."""
    for layer in layers:
        x, _ = layer.vjp(x)
    return x


def gradients(layers, x, labels):
    """Return the loss of a batch and its gradients at all weights."""
    pullbacks = []
    for layer in layers:
        x, pullback = layer.vjp(x)
        pullbacks.append(pullback)
    loss, grad = cross_entropy(x, labels)
    all_grads = []
    for pullback in reversed(pullbacks):
        grad, weight_grads = pullback(grad)
        all_grads = weight_grads + all_grads
    return loss, all_grads


def cross_entropy(x, labels):
    """Return the mean of -log softmax(x)[label], and its gradient at the scores x."""
    x = x - x.max(1, keepdims=True)
    logs = x - np.log(np.exp(x).sum(1, keepdims=True))
    right = np.eye(CLASSES, dtype=x.dtype)[labels]
    return float(-(logs * right).sum(1).mean()), (np.exp(logs) - right) / len(x)


def load_data(rng, test_share=0.2):
    """Return (images, labels) to train with and to test with, in equal proportions."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    train, test = [], []
    for label in range(CLASSES):
        order = rng.permutation(np.flatnonzero(digits.target == label))
        cut = round(test_share * len(order))
        test.append(order[:cut])
        train.append(order[cut:])
    return [
        (images[chosen], digits.target[chosen])
        for chosen in (np.concatenate(train), np.concatenate(test))
    ]


def shifted(images, rng):
    """Return the images, some moved by a pixel: a digit stays the same digit."""
    wide = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(wide, images.shape[1:3], (1, 2))
    down, right = rng.choice(3, (2, len(images)), p=(0.2, 0.6, 0.2))
    return views[np.arange(len(images)), down, right, ..., None]


def train(layers, data, test, rng, epochs, batch=32, rate=3e-3):
    """Train the layers in place; return the losses of all steps and of the tests."""
    images, labels = data
    optimizer = Adam([weight for layer in layers for weight in layer.weights])
    steps = len(images) // batch
    losses, tests = [], []
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        for chosen in rng.permutation(len(images))[: steps * batch].reshape(steps, -1):
            x = shifted(images[chosen], rng)
            loss, grads = gradients(layers, x, labels[chosen])
            # From the full rate down to nothing along half a cosine.
            phase = np.pi * len(losses) / (epochs * steps)
            optimizer.step(grads, rate * (1 + np.cos(phase)) / 2)
            losses.append(loss)
        tests.append(evaluate(layers, *test))
        print(
            f"epoch {epoch:2} of {epochs}: loss {np.mean(losses[-steps:]):.4f}, "
            f"test loss {tests[-1][0]:.4f}, test accuracy {tests[-1][1]:.1%}, "
            f"{time.perf_counter() - start:.2f} s",
            flush=True,
        )
    return losses, tests


def evaluate(layers, images, labels):
    """Return the mean loss and the share of right answers."""
    x = scores(layers, images)
    return cross_entropy(x, labels)[0], float((x.argmax(1) == labels).mean())


def draw(path, layers, losses, tests):
    """Write a picture of the losses and of what the depthwise layers have learnt."""
    figure = Figure((13, 4.6), layout="constrained", facecolor=PAPER)
    figure.get_layout_engine().set(wspace=0.06)
    axes, *grids = figure.subplots(1, 3, width_ratios=(1.4, 1, 1))
    epochs = np.arange(1, len(tests) + 1)
    steps = np.linspace(0, len(tests), len(losses))
    means = np.reshape(losses, (len(tests), -1)).mean(1)
    test_losses = [loss for loss, _ in tests]
    axes.semilogy(steps, losses, color=LIGHT, lw=0.6, label="one batch")
    axes.semilogy(epochs - 0.5, means, color=BLUE, lw=2, label="mean of an epoch")
    axes.semilogy(epochs, test_losses, "o-", color=RED, ms=3, label="test digits")
    axes.set(facecolor=PAPER, xlabel="epoch", xlim=(0, len(tests)), ylim=(3e-3, 4))
    axes.set_title(f"Cross-entropy; {tests[-1][1]:.1%} of the test digits are right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    titles = "First filters (blue adds, red subtracts)", "Second filters"
    for grid, layer, title in zip(grids, (layers[0], layers[2]), titles, strict=True):
        grid.imshow(mosaic(layer.kernel), cmap="RdBu", vmin=-1, vmax=1)
        grid.set_title(title)
        grid.axis("off")
    figure.savefig(path, dpi=110)


def mosaic(kernel):
    """Return the filters side by side, each from -1 to 1, with NaN between them."""
    rows, columns = kernel.shape[:2]
    filters = kernel.reshape(rows, columns, -1).transpose(2, 0, 1)
    filters = filters / np.abs(filters).max((1, 2), keepdims=True)
    side = int(np.ceil(np.sqrt(len(filters))))
    canvas = np.full((side, rows + 1, side, columns + 1), np.nan)
    for number, taps in enumerate(filters):
        canvas[number // side, :rows, number % side, :columns] = taps
    return canvas.reshape(side * (rows + 1), side * (columns + 1))[:-1, :-1]


def main():
    """Train, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", default="digits.png")
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    data, test = load_data(rng)
    layers = make_network(rng)
    losses, tests = train(layers, data, test, rng, arguments.epochs)
    draw(arguments.picture, layers, losses, tests)
    print(f"{arguments.picture} shows the losses and the learnt filters")


if __name__ == "__main__":
    main()
