"""The launches of every gradient that one call asks for, in order."""

from __future__ import annotations

from typing import NamedTuple

from numbadw.cuda import plan, plan_kernel_grad
from numbadw.cuda.plan import Launch, Problem, Strides


class Backward(NamedTuple):
    """Launches, the bytes of the parts, and of grad before the activation (or 0)."""

    launches: list[Launch]
    parts: int
    inner: int


def backward(
    problem: Problem,
    x: Strides | None,
    grad: Strides,
    x_grad: Strides | None,
    activation: str,
    wanted: str,
) -> Backward:
    """Plan the gradients that `wanted` names (see `dispatch.bind_gradients`).

    With an activation, grad times its derivative is first written to an array
    "inner" of the result's shape, dense, in the images' own element kind.
    """
    launches: list[Launch] = []
    name, strides, inner, parts = "g", grad, 0, 0
    if activation != "linear" and x is not None:
        shape = problem.geometry.output_shape
        name, strides = "inner", plan.dense(shape, problem.itemsize)
        inner = strides[0] * shape[0]
        names = "x", "b", "inner"
        launches += plan.forward(problem, x, strides, activation, grad, names)
    if wanted != "kernel" and x_grad is not None:
        launches += plan.input_grad(problem, x_grad, strides, name)
    if wanted != "input" and x is not None:
        more, parts = plan_kernel_grad.kernel_grad(problem, x, strides, name)
        launches += more
    return Backward(launches, parts, inner)
