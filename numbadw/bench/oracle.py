"""The right results of a workload, and the error that a measured result may have."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import numbadw
from numbadw.bench.workloads import Workload, make_grad
from numbadw.geometry import Geometry, Padding

Array = NDArray[Any]
Reference = Callable[[Array, Array, Array, dict[str, Any]], Array]

# What a pass over a layer may give; the functions below compute them.
OUTPUT, INPUT_GRAD, KERNEL_GRAD = "output", "input_grad", "kernel_grad"
BIAS_GRAD = "bias_grad"
# Half the relative distance of neighbouring numbers, where it exceeds the sums' own.
HALF = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}


class Oracle:
    """The right results of a workload and the errors they may have.

    All are computed by numbadw's plain NumPy reference when first asked for, once for
    each geometry that the measured libraries use, from the images of the batch that
    differ. The tolerance is 4 eps sqrt(terms) times the sum of absolute products, and
    the rounding of a result that is stored in 16 bits.

    With `sampled`, inputs are the images that differ, results a part of the batch (a
    multiple of these), and the right results the CPU's in float64, in the interest of
    time: those of every pass are checked against the reference by the tests.
    """

    def __init__(
        self, workload: Workload, inputs: Array, kernel: Array, sampled: bool = False
    ) -> None:
        self._workload, self._inputs, self._kernel = workload, inputs, kernel
        self._sampled = sampled
        self._known: dict[tuple[str, Geometry], tuple[Array, Array]] = {}

    def error(self, name: str, result: Array, padding: Padding) -> float:
        """Give the largest error of a result, in units of its tolerance."""
        expected, tolerance = self._expected(name, padding)
        geometry, images = self._workload.geometry(padding), len(expected)
        if name in (OUTPUT, INPUT_GRAD):
            shape = geometry.output_shape if name == OUTPUT else geometry.input_shape
            if self._sampled and len(result) % images == 0:
                shape = len(result), *shape[1:]
            parts = range(0, len(result), images)
        else:
            shape, parts = expected.shape, range(1)
        if result.shape != shape:
            raise ValueError(f"{name} has shape {result.shape}, expected {shape}")
        errors = [_error(result[i : i + images], expected, tolerance) for i in parts]
        return float(np.max(errors))

    def check(
        self,
        peer: str,
        results: Array | tuple[Array, ...],
        padding: Padding,
        names: Sequence[str] = (OUTPUT,),
    ) -> None:
        """Raise a ValueError when one of the named results is wrong."""
        given = results if isinstance(results, tuple) else (results,)
        for name, result in zip(names, given, strict=True):
            error = self.error(name, result, padding)
            if not error <= 1:
                raise ValueError(
                    f"{peer} is wrong on {self._workload.id}: {name} has error "
                    f"{error:.3g} tolerances"
                )

    def _expected(self, name: str, padding: Padding) -> tuple[Array, Array]:
        """Give a result and its tolerance: of the images that differ, or summed."""
        whole = self._workload
        key = name, whole.geometry(padding)
        if key not in self._known:
            workload = whole._replace(n=whole.distinct)
            grad = make_grad(workload, padding)
            x, w = self._inputs[: workload.n], self._kernel
            options = {**workload.options, "padding": padding, "backend": "reference"}
            if self._sampled:
                x, w, grad = (array.astype(np.float64) for array in (x, w, grad))
                options["backend"] = "cpu"
            compute, repeats, terms = REFERENCES[name], 1, workload.kh * workload.kw
            if name in (KERNEL_GRAD, BIAS_GRAD):
                repeats, terms = whole.n // workload.n, whole.n * grad[0, ..., 0].size
            elif name == INPUT_GRAD:
                terms *= workload.m
            expected = repeats * compute(x, w, grad, options)
            sizes = compute(np.abs(x), np.abs(w), np.abs(grad), options)
            share = 4 * np.finfo(np.float32).eps * np.sqrt(terms)
            tolerance = share * repeats * sizes
            tolerance += HALF[whole.dtype] * np.abs(expected)
            self._known[key] = expected, tolerance
        return self._known[key]


def _error(result: Array, expected: Array, tolerance: Array) -> float:
    """Give the largest difference in units of its tolerance; NaN is the largest."""
    difference = np.abs(result - expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(difference == 0, 0, difference / tolerance)
    return float(np.max(ratio, initial=0))


def _output(inputs: Array, kernel: Array, grad: Array, options: Any) -> Array:
    return numbadw.depthwise_conv2d(inputs, kernel, **options)


def _input_grad(inputs: Array, kernel: Array, grad: Array, options: Any) -> Array:
    return numbadw.depthwise_conv2d_input_grad(grad, kernel, inputs.shape, **options)


def _kernel_grad(inputs: Array, kernel: Array, grad: Array, options: Any) -> Array:
    return numbadw.depthwise_conv2d_kernel_grad(inputs, grad, kernel.shape, **options)


def _bias_grad(inputs: Array, kernel: Array, grad: Array, options: Any) -> Array:
    return np.asarray(grad.sum((0, 1, 2), dtype=np.float64))


REFERENCES: dict[str, Reference] = {
    OUTPUT: _output,
    INPUT_GRAD: _input_grad,
    KERNEL_GRAD: _kernel_grad,
    BIAS_GRAD: _bias_grad,
}
