"""The CPU backend: a register tile in LLVM vector code, Numba loops round it.

Read in this order: `strip.py`, `tile.py` and `swath.py` (know registers), `forward.py`
(knows memory), `plan_tiles.py`, `plan_forward.py` and `plan_flat.py` (know numbers),
`launch.py`, `objects.py` and `pool.py` (know threads).  The gradients: `backward.py`
(which kernels in which order), then `transposed.py` and `plan_input_grad.py`,
`taps.py`, `taps_swath.py`, `kernel_grad.py` and `plan_kernel_grad.py`, `both.py` and
`plan_both.py`; `jobs.py` and `pairs.py` run them.  1x1 convolutions: `multiply.py`
(registers), `pointwise.py` (memory), `plan_pointwise.py` (numbers).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numbadw.cpu.backward import bind_gradients
from numbadw.cpu.kernels import kernel_address
from numbadw.cpu.launch import bind
from numbadw.cpu.plan_forward import make_plan
from numbadw.cpu.plan_pointwise import panel_columns
from numbadw.cpu.pointwise_run import bind_pointwise, bind_pointwise_gradients
from numbadw.cpu.request import Request
from numbadw.cpu.separable_run import bind_separable
from numbadw.dispatch import Run
from numbadw.geometry import Geometry

__all__ = [
    "bind_forward",
    "bind_gradients",
    "bind_pointwise",
    "bind_pointwise_gradients",
    "bind_separable",
    "panel_columns",
]


def bind_forward(
    geometry: Geometry,
    dtype: np.dtype[Any],
    x_strides: tuple[int, ...],
    o_strides: tuple[int, ...],
    activation: str,
    parameter: float,
) -> Run:
    """Plan one forward problem, compile what it needs and return its run."""
    itemsize = dtype.itemsize
    request = Request(geometry, dtype, x_strides, o_strides, activation, parameter)
    plan = make_plan(request)
    touched = (
        geometry.n * geometry.h * geometry.w * geometry.c
        + geometry.n * geometry.oh * geometry.ow * geometry.c * geometry.m
    )
    return bind(
        kernel_address(plan.feed, plan.tiles), plan, geometry.flops, touched * itemsize
    )
