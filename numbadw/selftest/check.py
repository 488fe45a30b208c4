"""One call of the self-test, compared with the float64 reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import numbadw
from numbadw import tolerance
from numbadw.selftest import families
from numbadw.selftest.draws import Call, Kind, draw_call

Array = npt.NDArray[Any]
_GRADIENTS = tuple(
    f"the gradient at the {name}" for name in ("inputs", "kernel", "bias")
)
# The results of every function.
NAMES = {
    "forward": ("the result",),
    "inputs": _GRADIENTS[:1],
    "kernel": _GRADIENTS[1:2],
    "all": _GRADIENTS,
}


def fault_of(
    kind: Kind, seed: int, number: int, draw: int, backend: str = "cpu"
) -> str:
    """Make one call of a kind and tell what is wrong; nothing where all is right."""
    call = draw_call(kind, seed, number, draw)
    return _guarded(lambda: _fault(call, backend), describe(call))


def fault_of_family(family: str, seed: int, number: int) -> str:
    """Make one call of a family of other convolutions, as `fault_of`."""
    drawn = families.draw(family, seed, number)

    def fault() -> str:
        count = 1 + number % 8
        again = f"on one thread than on {count}"
        return _compare(drawn.names, drawn.compute, drawn.answers, count, again)[0]

    return _guarded(fault, drawn.text)


def _guarded(compare: Callable[[], str], text: str) -> str:
    """Tell what is wrong, with the call's text; a warning or an error is, too."""
    before = numbadw.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fault = compare()
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    finally:
        numbadw.set_num_threads(before)
    return f"{fault} ({text})" if fault else ""


def describe(call: Call) -> str:
    """Name what a call takes."""
    arrays = {"inputs": call.inputs, "kernel": call.kernel, "grad": call.grad}
    if call.bias is not None:
        arrays["bias"] = call.bias
    if call.out is not None:
        arrays["out"] = call.out
    described = [
        f"{name} {array.dtype.str} {array.shape} of strides {array.strides}"
        for name, array in arrays.items()
    ]
    options = [f"{name}={value!r}" for name, value in call.options.items()]
    return f"{call.function}: {'; '.join([*described, *options])}"


def _fault(call: Call, backend: str) -> str:
    make, again = _results, f"on one thread than on {call.threads}"
    if backend == "cuda":
        from numbadw.selftest import on_device

        make, again = on_device.results, "in a second run"
    outs = iter((call.out, None))
    fault, results = _compare(
        NAMES[call.function],
        lambda: make(call, next(outs)),
        _answers(call),
        call.threads,
        again,
        call.inputs.dtype.newbyteorder("="),
    )
    if fault:
        return fault
    if call.out is not None and call.base is not None:
        if results[0] is not call.out:
            return "out was not returned"
        call.out[...] = np.nan
        if not np.isnan(call.base).all():
            return "memory around out was written"
    return ""


def _compare(
    names: Sequence[str],
    compute: Callable[[], tuple[Array, ...]],
    answers: Sequence[tolerance.Answer],
    count: int,
    again: str,
    dtype: np.dtype[Any] | None = None,
) -> tuple[str, tuple[Array, ...]]:
    """Compare what is computed with the answers and with what one thread gives.

    `count` is the number of threads, `again` says when other bits came; the dtype is
    the first result's where not given.
    """
    numbadw.set_num_threads(count)
    results = compute()
    dtype = dtype or results[0].dtype
    for name, result, answer in zip(names, results, answers, strict=True):
        if result.dtype != dtype:
            return f"{name} is of dtype {result.dtype}", results
        fault = answer.fault(result)
        if fault:
            return f"{name}: {fault}", results
    numbadw.set_num_threads(1)
    for name, result, second in zip(names, results, compute(), strict=True):
        if not _same_bits(result, second):
            return f"{name} has other bits {again}", results
    return "", results


def _same_bits(one: Array, other: Array) -> bool:
    """Compare bit by bit; of NaN there are many, and no operation promises which."""
    same = one.tobytes() == other.tobytes()
    if not same and np.array_equal(np.isnan(one), np.isnan(other)):
        same = np.nan_to_num(one, nan=0.0).tobytes() == (
            np.nan_to_num(other, nan=0.0).tobytes()
        )
    return same


def _results(call: Call, out: Array | None) -> tuple[Array, ...]:
    """Compute what the call asks for, into `out` where there is one."""
    return compute(call, call, out)


def compute(call: Call, arrays: Call, out: Any, **more: Any) -> tuple[Any, ...]:
    """Call the function that a call names, on the arrays of another like it."""
    x, w, bias, g = arrays.inputs, arrays.kernel, arrays.bias, arrays.grad
    options = {**call.options, **more}
    if call.function == "forward":
        return (numbadw.depthwise_conv2d(x, w, bias, out=out, **options),)
    if call.function == "all":
        return numbadw.depthwise_conv2d_grad(x, w, g, bias=bias, **options)
    shapes, options = call.geometry, {"out": out, **options}
    if call.function == "inputs":
        return (
            numbadw.depthwise_conv2d_input_grad(g, w, shapes.input_shape, **options),
        )
    return (numbadw.depthwise_conv2d_kernel_grad(x, g, shapes.kernel_shape, **options),)


def _answers(call: Call) -> tuple[tolerance.Answer, ...]:
    """Give the right results, with the errors allowed."""
    x, w, bias, options = call.inputs, call.kernel, call.bias, call.options
    if call.function == "forward":
        return (tolerance.forward(x, w, bias, **options),)
    answers = tolerance.gradients(x, w, call.grad, bias, **options)
    return {"inputs": answers[:1], "kernel": answers[1:2]}.get(call.function, answers)
