"""Gradients of sequences on every backend, beyond the caches, and as derivatives."""

import numpy as np
import pytest
from gradient_cases import assert_gradients_close
from sequence_cases import FORMS, as_images, draw, image_options

import numbadw as ndw
from numbadw.cpu.caches import caches


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
@pytest.mark.parametrize("form", ["block", "rows", "flat"])
def test_gradients(form, first, activation, backend, rng):
    k, c = FORMS[form]
    layout = "channels_first" if first else "channels_last"
    for padding, strides, m in (("causal", 1, 1), ("same", 2, 2), ((0, 3), 1, 1)):
        x, kernel, bias = draw(rng, (2, 40, c), k, m, first=first)
        options = {
            "padding": padding,
            "strides": strides,
            "activation": activation,
            "data_format": layout,
        }
        y = ndw.depthwise_conv1d(x, kernel, bias, **options)
        grad = rng.standard_normal(y.shape).astype(y.dtype)
        for _ in range(2):  # the second call knows the first
            x_grad, w_grad, b_grad = ndw.depthwise_conv1d_grad(
                x, kernel, grad, bias=bias, backend=backend, **options
            )
            assert (x_grad.shape, w_grad.shape) == (x.shape, kernel.shape)
            assert_gradients_close(
                (as_images(x_grad, first), w_grad[None], b_grad),
                as_images(x, first),
                kernel[None],
                as_images(grad, first),
                bias,
                **image_options(k=k, **options),
            )


def test_gradients_are_the_derivatives(rng):
    x, kernel, bias = draw(rng, (1, 6, 2), 3, 2, "float64")
    options = {"padding": "causal", "dilation_rate": 2, "activation": "tanh"}
    weight = rng.standard_normal((1, 6, 4))
    results = ndw.depthwise_conv1d_grad(x, kernel, weight, bias=bias, **options)
    for array, result in zip((x, kernel, bias), results, strict=True):
        for place in np.ndindex(array.shape):
            values, here = [], array[place]
            for step in (1e-5, -1e-5):
                array[place] = here + step
                y = ndw.depthwise_conv1d(x, kernel, bias, **options)
                values.append((y * weight).sum())
            array[place] = here
            slope = (values[0] - values[1]) / 2e-5
            np.testing.assert_allclose(result[place], slope, atol=1e-8)


def test_gradients_of_large_sequences(rng):
    """Beyond the caches; against the adjoint identity."""
    length = caches().last // (4 * 8 * 256) + 100
    x, kernel, _ = draw(rng, (1, length, 256), 4)
    grad = rng.standard_normal(x.shape).astype(x.dtype)
    x_grad, w_grad, b_grad = ndw.depthwise_conv1d_grad(
        x, kernel, grad, padding="causal"
    )
    y = ndw.depthwise_conv1d(x, kernel, padding="causal")
    total = np.vdot(y.astype(np.float64), grad.astype(np.float64))
    scale = np.linalg.norm(y.astype(np.float64)) * np.linalg.norm(grad) * 1e-6
    assert abs(np.vdot(x_grad.astype(np.float64), x) - total) < scale
    assert abs(np.vdot(w_grad.astype(np.float64), kernel) - total) < scale
    terms = abs(grad.astype(np.float64)).sum((0, 1))
    atol = 4 * np.finfo("f4").eps * np.sqrt(length) * terms.max()
    np.testing.assert_allclose(b_grad, grad.astype("f8").sum((0, 1)), atol=atol)
