"""The backend as `dispatch` knows it: runs for NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbadw import dispatch
from numbadw.cuda import compile as compiler
from numbadw.cuda import device, host, plan
from numbadw.cuda.gradients import backward
from numbadw.cuda.halves import KINDS
from numbadw.geometry import Geometry


def bind_forward(
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: str,
    parameter: float,
) -> dispatch.Run:
    """Plan one forward problem and return its run."""
    through = host.make_forward(geometry, dtype, activation, parameter)

    def work(x: Any, w: Any, b: Any, out: Any) -> None:
        through(x, out, _given(w=w, b=b))

    return dispatch.checked_run(geometry, dtype, x_strides, o_strides, work)


def bind_gradients(
    geometry: Geometry,
    dtype: np.dtype[Any],
    activation: str,
    parameter: float,
    wanted: str,
) -> dispatch.GradientRun:
    """Plan one backward problem and return its run."""
    if wanted == "input":
        through = host.make_input_grad(geometry, dtype)

        def run_input(
            x: Any, w: Any, b: Any, g: Any, x_grad: Any, w_grad: Any, b_grad: Any
        ) -> None:
            through(g, x_grad, {"w": w})

        return run_input
    every = host.make_gradients(geometry, dtype, activation, parameter, wanted)

    def run(
        x: Any, w: Any, b: Any, g: Any, x_grad: Any, w_grad: Any, b_grad: Any
    ) -> None:
        results = _given(x_grad=x_grad, w_grad=w_grad, b_grad=b_grad)
        every(_given(x=x, w=w, b=b, g=g), results)

    return run


def warm(
    geometry: Geometry,
    dtype: np.dtype[Any],
    activation: tuple[str, float],
    gradients: bool,
) -> None:
    """Compile into the cache what dense arrays of one geometry need."""
    item = dtype.itemsize
    x, o = (
        plan.dense(shape, item)
        for shape in (geometry.input_shape, geometry.output_shape)
    )
    problem = plan.Problem(geometry, KINDS[dtype.name], 16)
    launches = plan.forward(problem, x, o, activation[0])
    if gradients:
        launches += backward(problem, x, o, x, activation[0], "both").launches
    cc = device.capability(device.current())
    for step in launches:
        compiler.cubin(step.spec, cc)


def _given(**arrays: Any) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if array is not None}
