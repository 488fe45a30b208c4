"""What is measured of a workload: the forward pass, all gradients, or one of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

import numbadw
from numbadw.bench.oracle import BIAS_GRAD, INPUT_GRAD, KERNEL_GRAD, OUTPUT
from numbadw.bench.peers import PEERS, gradient_peers
from numbadw.bench.peers.prepared import Prepare, Result
from numbadw.bench.workloads import Workload, aligned_copy, make_grad

Array = NDArray[Any]
Calls = dict[str, Callable[[], Result]]

# What numbadw's forward pass is measured as: a built layer with `out=`, the function on
# 64-byte aligned data, and the function on data as NumPy aligns it.
LAYER, FUNCTION, FUNCTION_16 = "layer", "function", "function_16"
NUMPY_ALIGNMENT = 16
# The passes; as columns of a table beside another pass they are the same computations.
FORWARD, GRADIENTS = "forward", "gradients"


def as_given(result: Any, workload: Workload) -> Result:
    """Give a call's result, which is of NumPy arrays."""
    return result  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Pass:
    """One pass over a layer: who computes it, what it gives and what it costs.

    `ours` names the calls of numbadw that `prepare` makes; the first is compared with
    the peers, the others stand beside it. `results` are those of the oracle.
    `read` turns what a call gives for a workload into NumPy arrays.  With `sampled` the
    batch is made where it is computed, of its different images, and read in part.
    """

    name: str
    results: tuple[str, ...]
    ours: tuple[str, ...]
    peers: Mapping[str, Prepare]
    prepare: Callable[[Workload, Array, Array], Calls]
    read: Callable[[Any, Workload], Result] = as_given
    sampled: bool = False

    @property
    def main(self) -> str:
        """Name of the call that is compared with the peers."""
        return self.ours[0]

    def part(self, name: str) -> "Pass":
        """Give the pass that a named call computes: this one, or one beside it."""
        return PASSES.get(name, self)

    def flops(self, workload: Workload) -> int:
        """Multiplications and additions; each gradient has those of the forward."""
        return workload.flops * (2 if self.name == GRADIENTS else 1)

    def needed(self, workload: Workload) -> int:
        """Those of the operations that no padding takes part in."""
        return self.flops(workload) * workload.needed // workload.flops

    def bytes(self, workload: Workload) -> int:
        """Bytes moved if everything is read once and every result written once.

        The forward and each single gradient touch input, kernel and result (or its
        gradient) once; all gradients together read these and write three more.
        """
        if self.name != GRADIENTS:
            return workload.bytes
        channels = workload.c * workload.m
        results = math.prod(workload.input_shape) + math.prod(workload.kernel_shape)
        return workload.bytes + workload.itemsize * (results + channels)


def prepare_forward(workload: Workload, inputs: Array, kernel: Array) -> Calls:
    """Make the calls of numbadw's forward pass; each gives its result."""
    layer = numbadw.DepthwiseConv2D(
        (workload.kh, workload.kw),
        strides=(workload.sh, workload.sw),
        padding=workload.padding,
        dilation_rate=(workload.dh, workload.dw),
        depth_multiplier=workload.m,
        use_bias=False,
    )
    layer.build(workload.input_shape)
    layer.kernel[...] = kernel
    out = layer(inputs)
    inputs_16 = aligned_copy(inputs, offset=NUMPY_ALIGNMENT)
    kernel_16 = aligned_copy(kernel, offset=NUMPY_ALIGNMENT)
    convolve, options = numbadw.depthwise_conv2d, workload.options
    return {
        LAYER: lambda: layer(inputs, out=out),
        FUNCTION: lambda: convolve(inputs, kernel, **options),
        FUNCTION_16: lambda: convolve(inputs_16, kernel_16, **options),
    }


def prepare_gradients(workload: Workload, inputs: Array, kernel: Array) -> Calls:
    """Make the calls of numbadw's gradients, and the forward pass to compare with.

    Those of a single result write into an earlier one, as the measured layer does;
    `depthwise_conv2d_grad`, which takes no `out`, makes new ones, as the peers do.
    """
    grad = make_grad(workload, workload.padding)
    options = workload.options
    out = numbadw.depthwise_conv2d(inputs, kernel, **options)
    inputs_grad, kernel_grad, _ = numbadw.depthwise_conv2d_grad(
        inputs, kernel, grad, **options
    )

    def all_gradients() -> Result:
        return numbadw.depthwise_conv2d_grad(inputs, kernel, grad, **options)

    def forward() -> Result:
        return numbadw.depthwise_conv2d(inputs, kernel, out=out, **options)

    def input_gradient() -> Result:
        return numbadw.depthwise_conv2d_input_grad(
            grad, kernel, workload.input_shape, out=inputs_grad, **options
        )

    def kernel_gradient() -> Result:
        return numbadw.depthwise_conv2d_kernel_grad(
            inputs, grad, workload.kernel_shape, out=kernel_grad, **options
        )

    return {
        GRADIENTS: all_gradients,
        FORWARD: forward,
        INPUT_GRAD: input_gradient,
        KERNEL_GRAD: kernel_gradient,
    }


def _gradients(name: str, results: tuple[str, ...], beside: tuple[str, ...]) -> Pass:
    """Describe a pass that computes gradients."""
    peers = gradient_peers(*results)
    ours = (name, *beside)
    return Pass(name, results, ours, peers, prepare_gradients)


PASSES = {
    FORWARD: Pass(
        name=FORWARD,
        results=(OUTPUT,),
        ours=(LAYER, FUNCTION, FUNCTION_16),
        peers=PEERS,
        prepare=prepare_forward,
    ),
    GRADIENTS: _gradients(
        GRADIENTS,
        (INPUT_GRAD, KERNEL_GRAD, BIAS_GRAD),
        (FORWARD, INPUT_GRAD, KERNEL_GRAD),
    ),
    INPUT_GRAD: _gradients(INPUT_GRAD, (INPUT_GRAD,), (FORWARD,)),
    KERNEL_GRAD: _gradients(KERNEL_GRAD, (KERNEL_GRAD,), (FORWARD,)),
}
