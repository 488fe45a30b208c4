"""The networks of `mobilenet_networks.py` as lists of calls to numbadw.

A `Program` is bound once to the weights, to a shape of images and to buffers for all
results, so that running it is one call after the other.
"""

import math
from functools import partial

import numpy as np

import numbadw as ndw


class Buffers:
    """Room for results that serves again and again, where no array in use lies.

    All of it is one array, for which NumPy asks Linux for huge pages from 4 MiB on:
    all depthwise steps of MobileNetV1 take 0.3 ms instead of 0.6 (two Zen 5 cores).
    """

    COUNT = 4  # input, result, what lies between and what a block adds at its end
    APART = 1040  # else all begin at the same place of a page and of the caches

    def __init__(self, size):
        pitch = -(-size // 16) * 16 + self.APART
        room = np.empty(self.COUNT * pitch + 16, np.float32)
        first = -room.ctypes.data % 64 // 4  # the next cache line
        starts = range(first, first + self.COUNT * pitch, pitch)
        self.slots = [room[start : start + size] for start in starts]

    def take(self, shape, *used):
        """Return an array that shares no memory with those in use."""
        size = math.prod(shape)
        for slot in self.slots:
            if not any(np.may_share_memory(slot, array) for array in used):
                return slot[:size].reshape(shape)
        raise ValueError("every buffer is in use")


class Program:
    """All calls for images of one shape: `program(pixels)` gives the scores.

    `calls` are those of every step, without arguments, and `results` what each step
    gives, until a later one needs the buffer.
    """

    def __init__(self, steps, weights, shape, backend):
        self.weights, self.backend = weights, backend
        self.buffers = Buffers(largest(steps, shape))
        self.pixels, self.kept = None, np.empty(0)
        self.calls, self.results = [], []
        x = np.broadcast_to(np.float32(0), shape)  # in place of the pixels
        for step in steps:
            self.kept = x if step.starts else self.kept
            self.calls.append([])
            pairs = [
                (weights[f"{name}/kernel"], weights[f"{name}/bias"])
                for name in step.shapes
            ]
            x = getattr(self, step.kind)(step, x, *pairs)
            if step.adds and x is not self.kept:
                self.calls[-1].append(partial(np.add, x, self.kept, out=x))
            self.results.append(x)

    def __call__(self, pixels):
        """Run all steps."""
        self.pixels = pixels
        for calls in self.calls:
            for call in calls:
                call()
        return self.results[-1].copy()

    def do(self, function, *arguments, out, **options):
        """Add a call to the step; return where its result will be."""
        options |= {"out": out, "backend": self.backend}
        self.calls[-1].append(partial(function, *arguments, **options))
        return out

    def stem(self, step, x, pair):
        """Scale the pixels, then mix 3x3 windows of all three channels.

        That is a depthwise convolution, too: of an image of one channel, in which three
        columns are the numbers of a pixel, to as many channels as there are filters.
        """
        n, h, w, c = x.shape
        oh, ow = -(-h // 2), -(-w // 2)
        # Rows and columns before the image; those after it are never too many.
        top, left = (1, 1) if step.padding == 1 else (h % 2, w % 2)
        pixels = self.buffers.take(x.shape, self.kept)
        scale = partial(
            ndw.depthwise_conv2d,
            kernel=self.weights["pixels/scale"].reshape(1, 1, c, 1),
            bias=self.weights["pixels/offset"],
            out=pixels,
            backend=self.backend,
        )
        self.calls[-1].append(lambda: scale(self.pixels))
        kernel, bias = pair
        after = 2 * oh + 1 - h - top, 2 * ow + 1 - w - left
        return self.do(
            ndw.depthwise_conv2d,
            pixels.reshape(n, h, w * c, 1),
            kernel.reshape(3, 3 * c, 1, -1),
            bias,
            out=self.buffers.take((n, oh, ow, kernel.shape[-1]), self.kept, pixels),
            strides=(2, 2 * c),
            padding=((top, after[0]), (left * c, after[1] * c)),
            activation=step.activation,
        )

    def pointwise(self, step, x, pair):
        """Mix the channels of every pixel."""
        return self.mix(x, pair, step.activation)

    def depthwise(self, step, x, pair):
        """Filter every channel by itself."""
        return self.filter(step, x, pair, step.activation)

    def separable(self, step, x, first, second):
        """Filter every channel, then mix them: many images in one pass."""
        if len(x) == 1:
            x = self.filter(step, x, first, step.between)
            return self.mix(x, second, step.activation, adds=step.adds)
        layer = ndw.DepthwiseConv2D(
            first[0].shape[:2], strides=step.strides, padding=step.padding
        )
        shape = (*layer.compute_output_shape(x.shape)[:3], second[0].shape[1])
        return self.do(
            ndw.separable_conv2d,
            x,
            first[0],
            *second,
            out=self.buffers.take(shape, self.kept, x),
            strides=step.strides,
            padding=step.padding,
            depthwise_bias=first[1],
            depthwise_activation=step.between,
            activation=step.activation,
        )

    def excite(self, step, x, first, second, last):
        """Scale every channel by what all channels give, from 0 to 1; then mix them."""
        scores = self.mix(self.means(x), first, "silu", own=True)
        scores = self.mix(scores, second, "sigmoid", own=True)
        n, h, w, c = x.shape
        kernel, bias = last
        scales_kernel = h * w > 4 * kernel.shape[1]  # it has fewer numbers
        adds = step.adds and not scales_kernel
        y = self.kept
        if not adds:
            y = self.buffers.take((n, h, w, kernel.shape[1]), self.kept, x)
        wide = self.buffers.take(x.shape, self.kept, x, y)
        mix = ndw.prepare_pointwise_conv2d(
            kernel, bias, backend=self.backend, accumulate=adds
        )
        for i in range(n):
            here, factors, out = x[i : i + 1], scores[i, 0, 0], y[i : i + 1]
            if scales_kernel:
                scaled = np.empty_like(kernel)
                self.calls[-1].append(
                    partial(np.multiply, kernel, factors[:, None], out=scaled)
                )
                self.do(ndw.pointwise_conv2d, here, scaled, bias, out=out)
            else:
                factors, room = factors.reshape(1, 1, c, 1), wide[i : i + 1]
                here = self.do(ndw.depthwise_conv2d, here, factors, out=room)
                self.calls[-1].append(partial(mix, here, out))
        return y

    def head(self, step, x, pair):
        """Average every channel and give each class its score."""
        return self.mix(self.means(x), pair, step.activation, own=True)[:, 0, 0]

    def filter(self, step, x, pair, activation):
        """Filter every channel, with the strides and the padding of a step."""
        layer = ndw.DepthwiseConv2D(
            pair[0].shape[:2],
            strides=step.strides,
            padding=step.padding,
            activation=activation,
            backend=self.backend,
        )
        layer.build(x.shape)
        layer.set_weights(pair)
        out = self.buffers.take(layer.compute_output_shape(x.shape), self.kept, x)
        self.calls[-1].append(partial(layer, x, out))
        return out

    def mix(self, x, pair, activation, own=False, adds=False):
        """Mix the channels: into a buffer, an array of its own, or added to `kept`."""
        shape = (*x.shape[:3], pair[0].shape[1])
        if adds:
            out = self.kept
        elif own:
            out = np.empty(shape, np.float32)
        else:
            out = self.buffers.take(shape, self.kept, x)
        mix = ndw.prepare_pointwise_conv2d(
            *pair, activation=activation, backend=self.backend, accumulate=adds
        )
        self.calls[-1].append(partial(mix, x, out))
        return out

    def means(self, x):
        """Return the mean of every channel, (N, 1, 1, C).

        The mean is a sum over the pixels, with equal weights: a matrix product.
        """
        n, h, w, c = x.shape
        y = np.empty((n, 1, 1, c), np.float32)
        weights = np.full((1, 1, 1, h * w), 1 / (h * w), np.float32)
        for image, out in zip(x, y, strict=True):
            pixels = image.reshape(h * w, c)
            self.do(ndw.pointwise_conv2d, weights, pixels, out=out[None])
        return y


class Network:
    """Steps with their weights: `network(pixels)` gives a score for each class.

    `pixels` is an array of shape (N, H, W, 3) from 0 to 255, float32; the scores are
    an array of shape (N, classes), before the softmax.  One call at a time, as the
    results of the steps lie in buffers of the network.
    """

    def __init__(self, steps, weights, backend="auto"):
        self.steps, self.weights, self.backend = steps, weights, backend
        self.shape = self.last = None

    def __call__(self, pixels):
        """Run all steps."""
        return self.program(pixels.shape)(pixels)

    def program(self, shape):
        """Return the calls for images of a shape; those of the last one are kept."""
        if shape != self.shape:
            self.last = Program(self.steps, self.weights, shape, self.backend)
            self.shape = shape
        return self.last


def largest(steps, shape):
    """Return the elements of the largest result of any step, or more."""
    n, h, w, c = shape
    sizes = [h * w * c]
    for step in steps:
        if step.kind == "stem" or step.strides == 2:
            h, w = -(-h // 2), -(-w // 2)
        sizes += [h * w * max(kernel[-2:]) for kernel in step.shapes.values()]
    return n * max(sizes)
