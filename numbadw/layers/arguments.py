"""The arguments that only layers have, read into their canonical form."""

import itertools
import re
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw import activations, checks

_counters: defaultdict[str, Any] = defaultdict(itertools.count)

# What a layer's repr tells.
SHOWN = (
    "name",
    "kernel_size",
    "strides",
    "padding",
    "dilation_rate",
    "depth_multiplier",
    "activation",
    "data_format",
    "built",
)


def activation(value: object) -> str | tuple[str, float]:
    """Give the canonical name, with the parameter only where it is not the default."""
    known, parameter = activations.resolve(value)
    if activations.ACTIVATIONS[known].parameter in (None, parameter):
        return known
    return known, parameter


def dtype(value: npt.DTypeLike) -> np.dtype[Any]:
    """Read a layer's dtype; None is float32, as in Keras."""
    expected = "dtype must be float32 or float64"
    try:
        wanted = np.dtype("float32" if value is None else value)
    except TypeError:
        raise TypeError(f"{expected}, got {value!r}") from None
    if wanted not in checks.FLOATS:
        raise TypeError(f"{expected}, got {value!r}")
    return wanted


def name(value: object, class_name: str) -> str:
    """Read a layer's name, or count one up from the class's."""
    if value is None:
        base = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()
        number = next(_counters[base])
        return f"{base}_{number}" if number else base
    if not isinstance(value, str):
        raise TypeError(f"name must be a str without '/', got {value!r}")
    if "/" in value:
        raise ValueError(f"name must be a str without '/', got {value!r}")
    return value
