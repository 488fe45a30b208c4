"""Every kernel by the name of its family; a thread body is the kernel itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numbadw.cuda import forward, input_grad, kernel_grad
from numbadw.cuda.emit import ITEMSIZE, Target
from numbadw.cuda.spec import Spec

FAMILIES = {
    "forward_tile": forward.make_forward_tile,
    "forward_any": forward.make_forward_any,
    "input_grad_tile": input_grad.make_input_grad_tile,
    "input_grad_any": input_grad.make_input_grad_any,
    "kernel_grad_tile": kernel_grad.make_kernel_grad_tile,
    "kernel_grad_any": kernel_grad.make_kernel_grad_any,
    "sum_parts": kernel_grad.make_sum_parts,
}
# Kernels whose threads meet at a barrier.
BLOCKWISE = ("kernel_grad_tile", "kernel_grad_any")


def make_body(spec: Spec, target: Target) -> Callable[..., Any]:
    """Make the thread body of a family for a target, not compiled yet."""
    body = FAMILIES[spec.family](spec, target)
    body.__name__ = body.__qualname__ = spec.label
    return body


def shared_bytes(spec: Spec) -> int:
    """Return the shared memory of a block."""
    if spec.family not in BLOCKWISE:
        return 0
    size = ITEMSIZE[kernel_grad.part_kind(spec)]
    return kernel_grad.sum_count(spec) * spec.threads * size
