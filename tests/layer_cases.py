"""Layers against `depthwise_conv2d` of backend "reference" on the same weights."""

import numpy as np

import numbadw as ndw

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def images(rng, shape=(2, 9, 10, 3), dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def expected(layer, x):
    return ndw.depthwise_conv2d(
        x.astype(layer.dtype),
        layer.kernel,
        layer.bias,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
        activation=layer.activation,
        backend="reference",
    )


def assert_right(layer, x, y):
    assert y.dtype == layer.dtype
    atol = TOLERANCE[y.dtype.type]
    np.testing.assert_allclose(y, expected(layer, x), rtol=0, atol=atol)
