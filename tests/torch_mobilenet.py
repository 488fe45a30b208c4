"""The networks of the example in torch.nn, made from the same tables of steps."""

import torch
from torch import nn

ACTIVATIONS = {"relu6": nn.ReLU6, "silu": nn.SiLU, "linear": nn.Identity}


class TorchNetwork(nn.Module):
    """Steps with symmetric padding as modules, (N, 3, H, W) in, scores out."""

    def __init__(self, steps, normalized=True):
        super().__init__()
        self.steps = [step._replace(shapes=None) for step in steps]
        self.parts = nn.ModuleList(make(step, normalized) for step in steps)

    def forward(self, x):
        """Run the steps."""
        kept = None
        for step, part in zip(self.steps, self.parts, strict=True):
            kept = x if step.starts else kept
            x = part(x)
            if step.adds:
                x = x + kept
        return x


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels, few):
        super().__init__()
        self.reduce = nn.Conv2d(channels, few, 1)
        self.excite = nn.Conv2d(few, channels, 1)

    def forward(self, x):
        """Scale every channel."""
        scores = nn.functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.excite(scores))


def make(step, normalized):
    """Return the module of one step."""
    shapes = list(step.shapes.values())
    if step.kind == "head":
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(*shapes[0])
        )
    parts = []
    if step.kind == "excite":
        parts, shapes = [Excite(*shapes[0])], shapes[2:]
    for shape in shapes:
        if step.kind == "stem":
            conv = nn.Conv2d(3, shape[1], 3, 2, 1, bias=not normalized)
        elif len(shape) == 4:
            size, _, c, _ = shape
            options = {"groups": c, "bias": not normalized}
            conv = nn.Conv2d(c, c, size, step.strides, size // 2, **options)
        else:
            conv = nn.Conv2d(*shape, 1, bias=not normalized)
        between = step.kind == "separable" and len(shape) == 4
        parts += [conv, *([randomized(conv)] if normalized else [])]
        parts.append(ACTIVATIONS[step.between if between else step.activation]())
    return nn.Sequential(*parts)


def randomized(conv):
    """Give a convolution and its new normalisation random numbers of good size."""
    nn.init.kaiming_normal_(conv.weight)
    norm = nn.BatchNorm2d(conv.out_channels)
    for tensor, low, high in (
        (norm.weight, 0.7, 1.4),
        (norm.bias, -0.2, 0.2),
        (norm.running_mean, -0.2, 0.2),
        (norm.running_var, 0.5, 1.5),
    ):
        nn.init.uniform_(tensor, low, high)
    return norm
