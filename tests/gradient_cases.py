"""Gradients against the float64 answer."""

import numbadw as ndw
from numbadw import tolerance

# Channels of a flat tile, and of more than a vector.
FEW, MANY = 3, 19
NAMES = ("inputs_grad", "kernel_grad", "bias_grad")


def draw(case, rng):
    """Draw inputs, kernel, bias and the gradient at the result."""
    shape = case.geometry.output_shape
    return *case.arrays(rng), rng.standard_normal(shape).astype(case.dtype)


def assert_gradients_close(results, x, w, g, bias=None, activation=None, **options):
    """Compare with the float64 answer: NaN and inf in place, the rest in the bound.

    `results` are the gradients at inputs, kernel and bias; None is passed over.
    """
    dtype = next(result.dtype for result in results if result is not None)
    answers = tolerance.gradients(
        x, w, g, bias, activation=activation, dtype=dtype, **options
    )
    for name, result, answer in zip(NAMES, results, answers, strict=True):
        if result is not None:
            assert result.dtype == dtype, (name, options)
            fault = answer.fault(result)
            assert not fault, f"{name}: {fault}; {options}"


def check_gradients(case, rng, activation=None, backend="cpu"):
    """Run the three functions on a case and compare; return the three gradients."""
    x, w, b, g = draw(case, rng)
    options = {**case.options, "backend": backend}
    both = ndw.depthwise_conv2d_grad(x, w, g, bias=b, activation=activation, **options)
    try:
        assert_gradients_close(both, x, w, g, b, activation, **case.options)
        if activation is None:
            x_grad = ndw.depthwise_conv2d_input_grad(g, w, x.shape, **options)
            w_grad = ndw.depthwise_conv2d_kernel_grad(x, g, w.shape, **options)
            alone = x_grad, w_grad, None
            assert_gradients_close(alone, x, w, g, **case.options)
    except AssertionError as error:
        raise AssertionError(f"{case.label}: {error}") from error
    return both
