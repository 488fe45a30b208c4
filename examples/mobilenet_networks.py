"""The tables of MobileNetV1, V2 and EfficientNet-B0, for any width multiplier.

A network is a list of steps.  `symmetric=True` pads as PyTorch's models do, on both
sides alike; without it the padding is that of Keras.
"""

from typing import NamedTuple

CLASSES = 1000


class Step(NamedTuple):
    """One line of a network: what is done, and with which kernels."""

    kind: str
    shapes: dict  # of the kernels by name, in the order of the model's layers
    activation: str = "linear"
    between: str = "linear"  # the depthwise activation of a separable step
    strides: int = 1
    padding: object = "same"
    starts: bool = False  # the input is kept for the sum at the end of the block
    adds: bool = False


def divisible(filters):
    """Round to a multiple of 8, never below nine tenths."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def mobilenet_v1(width=1.0, classes=CLASSES, symmetric=False):
    """Howard et al., 2017."""
    channels = int(32 * width)
    steps = [stem("conv1", channels, "relu6", symmetric)]
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for number, (filters, strides) in enumerate(plan, 1):
        filters = int(filters * width)
        names = f"conv_dw_{number}", f"conv_pw_{number}"
        shapes = dict(
            zip(names, [(3, 3, channels, 1), (channels, filters)], strict=True)
        )
        # Keras pads here on the right and below, whatever the size.
        padding = 1 if symmetric else "same" if strides == 1 else ((0, 1), (0, 1))
        steps.append(Step("separable", shapes, "relu6", "relu6", strides, padding))
        channels = filters
    return [*steps, Step("head", {"predictions": (channels, classes)})]


def mobilenet_v2(width=1.0, classes=CLASSES, symmetric=False):
    """Sandler et al., 2018."""
    channels = divisible(32 * width)
    steps = [stem("conv1", channels, "relu6", symmetric)]
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    plan += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for number, (expansion, filters, strides) in enumerate(repeated(plan)):
        name, filters = f"block{number}", divisible(int(filters * width))
        inner, adds = channels * expansion, strides == 1 and channels == filters
        if expansion > 1:
            shapes = {f"{name}_expand": (channels, inner)}
            steps.append(Step("pointwise", shapes, "relu6", starts=True))
        shapes = {
            f"{name}_depthwise": (3, 3, inner, 1),
            f"{name}_project": (inner, filters),
        }
        padding = 1 if symmetric else "same"
        options = {"starts": expansion == 1, "adds": adds}
        steps.append(
            Step("separable", shapes, "linear", "relu6", strides, padding, **options)
        )
        channels = filters
    last = divisible(1280 * max(1.0, width))
    steps.append(Step("pointwise", {"last": (channels, last)}, "relu6"))
    return [*steps, Step("head", {"predictions": (last, classes)})]


def efficientnet_b0(width=1.0, classes=CLASSES, symmetric=False):
    """Tan and Le, 2019."""
    channels = divisible(32 * width)
    steps = [stem("stem", channels, "silu", symmetric)]
    plan = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)]
    plan += [(6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]
    for number, (expansion, filters, strides, size) in enumerate(repeated(plan)):
        name, filters = f"block{number}", divisible(filters * width)
        inner, few = channels * expansion, max(1, channels // 4)
        adds = strides == 1 and channels == filters
        if expansion > 1:
            shapes = {f"{name}_expand": (channels, inner)}
            steps.append(Step("pointwise", shapes, "silu", starts=True))
        shapes = {f"{name}_depthwise": (size, size, inner, 1)}
        padding = size // 2 if symmetric else "same"
        options = {"strides": strides, "padding": padding, "starts": expansion == 1}
        steps.append(Step("depthwise", shapes, "silu", **options))
        shapes = {
            f"{name}_reduce": (inner, few),
            f"{name}_excite": (few, inner),
            f"{name}_project": (inner, filters),
        }
        steps.append(Step("excite", shapes, adds=adds))
        channels = filters
    last = divisible(1280 * width)
    steps.append(Step("pointwise", {"last": (channels, last)}, "silu"))
    return [*steps, Step("head", {"predictions": (last, classes)})]


NETWORKS = {"v1": mobilenet_v1, "v2": mobilenet_v2, "efficientnet_b0": efficientnet_b0}


def stem(name, filters, activation, symmetric):
    """Return the first step, a full 3x3 convolution with stride 2."""
    shapes = {name: (27, filters)}
    return Step("stem", shapes, activation, padding=1 if symmetric else "same")


def repeated(plan):
    """Yield every block of a plan's rows: only the first of a row has the strides."""
    for expansion, filters, repeats, strides, *more in plan:
        for number in range(repeats):
            yield expansion, filters, strides if number == 0 else 1, *more
