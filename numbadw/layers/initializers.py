"""Starting values of weights: one table, name -> rule over shape and generator.

Source: Keras 3's initializers. Glorot, He and LeCun scale by the weight's fans, and
their normal forms are truncated at two standard deviations, with the standard
deviation corrected for what the truncation takes away.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Rule = Callable[[Shape, np.random.Generator], Array]
UserRule = Callable[..., Any]
Initializer = str | UserRule

# Limit of random_uniform, standard deviation of random_normal and truncated_normal.
SPREAD = 0.05
# Standard deviation of a standard normal truncated at +-2.
TRUNCATED_STDDEV = 0.87962566103423978


def resolve(value: object, name: str, default: str) -> Initializer:
    """Read an initializer: a canonical name, or the user's callable as it is.

    Contract: None gives `default`. Names count in any case, and without underscores
    too ("GlorotUniform"), as Keras spells its classes.
    """
    if value is None:
        return default
    if callable(value):
        return value
    expected = f"{name} must be one of {', '.join(RULES)} or a callable(shape, dtype)"
    if not isinstance(value, str):
        raise TypeError(f"{expected}; got {value!r} of type {type(value).__name__}")
    spelled = {rule.replace("_", ""): rule for rule in RULES}
    key = spelled.get(value.lower().replace("_", ""))
    if key is None:
        raise ValueError(f"{expected}; got {value!r}")
    return key


def fill(
    weight: Array, initializer: Initializer, name: str, rng: np.random.Generator
) -> None:
    """Write the starting values into `weight`; `name` is the argument's, for errors."""
    if isinstance(initializer, str):
        weight[...] = RULES[initializer](weight.shape, rng)
        return
    values = np.asarray(initializer(weight.shape, weight.dtype))
    if values.shape != weight.shape or values.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} must return numbers of shape {weight.shape} for dtype "
            f"{weight.dtype}, got dtype {values.dtype} and shape {values.shape}"
        )
    weight[...] = values


def compute_fans(shape: Shape) -> tuple[int, int]:
    """Count the inputs and outputs of a weight of shape (..., in, out).

    A depthwise kernel (kh, kw, c, m) counts as a full one: kh * kw * c and kh * kw * m.
    """
    if len(shape) == 1:
        return shape[0], shape[0]
    taps = math.prod(shape[:-2])
    return taps * shape[-2], taps * shape[-1]


def _uniform(shape: Shape, rng: np.random.Generator, limit: float = SPREAD) -> Array:
    return rng.uniform(-limit, limit, shape)


def _normal(shape: Shape, rng: np.random.Generator) -> Array:
    return rng.normal(0.0, SPREAD, shape)


def _truncated(shape: Shape, rng: np.random.Generator, stddev: float = SPREAD) -> Array:
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = rng.standard_normal(np.count_nonzero(outside))
    return values * stddev


def _scaled(scale: float, average: bool, normal: bool) -> Rule:
    """Make a rule of variance `scale` / fan_in, or over the fans' mean if `average`."""

    def rule(shape: Shape, rng: np.random.Generator) -> Array:
        fan_in, fan_out = compute_fans(shape)
        variance = scale / ((fan_in + fan_out) / 2 if average else fan_in)
        if normal:
            return _truncated(shape, rng, math.sqrt(variance) / TRUNCATED_STDDEV)
        return _uniform(shape, rng, math.sqrt(3.0 * variance))

    return rule


RULES: dict[str, Rule] = {
    "zeros": lambda shape, rng: np.zeros(shape),
    "ones": lambda shape, rng: np.ones(shape),
    "random_uniform": _uniform,
    "random_normal": _normal,
    "truncated_normal": _truncated,
    "glorot_uniform": _scaled(1.0, average=True, normal=False),
    "glorot_normal": _scaled(1.0, average=True, normal=True),
    "he_uniform": _scaled(2.0, average=False, normal=False),
    "he_normal": _scaled(2.0, average=False, normal=True),
    "lecun_uniform": _scaled(1.0, average=False, normal=False),
    "lecun_normal": _scaled(1.0, average=False, normal=True),
}
