"""What every peer's preparation gives and needs: a call to time, layouts, refusals."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbadw.bench.workloads import Workload, aligned_copy
from numbadw.geometry import Padding
from numbadw.memory import aligned_empty

Array = NDArray[Any]
Result = Array | tuple[Array, ...]


class Unavailable(Exception):
    """A peer cannot run a workload here; the text says why."""


class Prepared(NamedTuple):
    """A peer that is ready to be timed on one workload.

    `call` computes, `fetch` calls once and gives the result as (n, oh, ow, c * m), or
    a tuple of gradients in the layouts of numbadw.
    `padding` is what the peer computed with: peers without asymmetric padding pad
    both sides with the larger one. `memory` keeps alive what is read by address.
    """

    call: Callable[[], object]
    fetch: Callable[[], Result]
    padding: Padding
    memory: tuple[object, ...] = ()


Prepare = Callable[[Workload, Array, Array, int], Prepared]


def require(name: str) -> ModuleType:
    """Import a library, or say that it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name} is not installed ({error})") from error


def oihw(kernel: Array) -> Array:
    """Copy (kh, kw, c, m) to an aligned (c * m, 1, kh, kw)."""
    kh, kw, c, m = kernel.shape
    return aligned_copy(kernel.transpose(2, 3, 0, 1).reshape(c * m, 1, kh, kw))


def in_layout(inputs: Array, layout: str) -> Array:
    """Give (n, h, w, c) in aligned memory of the layout, NHWC or NCHW."""
    return inputs if layout == "NHWC" else aligned_copy(inputs.transpose(0, 3, 1, 2))


def result_array(workload: Workload, layout: str) -> Array:
    """Make an aligned array for the result in the layout."""
    n, oh, ow, channels = workload.output_shape
    shape = (n, oh, ow, channels) if layout == "NHWC" else (n, channels, oh, ow)
    return aligned_empty(shape, np.float32)


def reader(call: Callable[[], object], result: Array, layout: str) -> Callable[[], Any]:
    """Make the `fetch` of a peer whose `call` fills `result`."""

    def fetch() -> Array:
        call()
        return result if layout == "NHWC" else result.transpose(0, 2, 3, 1)

    return fetch
