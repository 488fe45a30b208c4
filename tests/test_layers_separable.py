"""The SeparableConv2D layer: Keras' words, weights, gradients."""

import json
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import numbadw as ndw


@pytest.fixture
def layer():
    return ndw.SeparableConv2D(
        7, 3, 2, "same", depth_multiplier=2, activation="relu", seed=1
    )


def test_it_is_the_function(layer, rng):
    x = rng.standard_normal((2, 9, 10, 5)).astype("f4")
    y = layer(x)
    layer.bias[...] = rng.standard_normal(7)
    right = ndw.separable_conv2d(
        x,
        layer.depthwise_kernel,
        layer.pointwise_kernel,
        layer.bias,
        strides=2,
        padding="same",
        activation="relu",
    )
    for _ in range(2):
        assert_array_equal(layer(x), right)
        out = np.empty_like(y)
        assert layer(x, out=out) is out
        assert_array_equal(out, right)
    with pytest.raises(ValueError, match="out must not overlap"):
        ndw.SeparableConv2D(5, 1)(x, out=x)


def test_weights_and_shapes(layer):
    assert layer.compute_output_shape((None, 9, 10, 5)) == (None, 5, 5, 7)
    layer.build((None, None, None, 5))
    shapes = [weight.shape for weight in layer.weights]
    assert shapes == [(3, 3, 5, 2), (1, 1, 10, 7), (7,)]
    assert layer.count_params() == 90 + 70 + 7
    assert not layer.bias.any()
    # Keras' limit of glorot_uniform for (1, 1, 10, 7), which values come near.
    limit = np.sqrt(6 / 17)
    assert 0.8 * limit < abs(layer.pointwise_kernel).max() <= limit
    layer.set_weights([np.ones(shape) for shape in shapes])
    assert (layer(np.ones((1, 9, 9, 5), "f4"))[0, 1, 1] == 91).all()
    layer.pointwise_kernel = np.zeros(shapes[1])
    assert (layer(np.ones((1, 9, 9, 5), "f4")) == 1).all()


def test_configuration_and_copies(layer, rng):
    config = json.loads(json.dumps(layer.get_config()))
    assert config["filters"] == 7
    other = ndw.SeparableConv2D.from_config(config)
    x = rng.standard_normal((1, 6, 6, 3)).astype("f4")
    assert_array_equal(layer(x), other(x))
    assert_array_equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    assert "SeparableConv2D" in repr(layer)


@pytest.mark.parametrize("use_bias", [False, True])
def test_gradients(use_bias, rng):
    layer = ndw.SeparableConv2D(
        4, 3, use_bias=use_bias, activation="tanh", dtype="float64", seed=2
    )
    x = rng.standard_normal((2, 6, 7, 3))
    y, pullback = layer.vjp(x)
    grad = rng.standard_normal(y.shape)
    x_grad, weight_grads = pullback(grad)
    assert len(weight_grads) == len(layer.weights)
    for array, result in zip([x, *layer.weights], [x_grad, *weight_grads], strict=True):
        step = rng.standard_normal(array.shape)
        sides = []
        for sign in (1, -1):
            array += sign * 1e-6 * step
            sides.append((grad * layer(x)).sum())
            array -= sign * 1e-6 * step
        slope = (sides[0] - sides[1]) / 2e-6
        assert_allclose((result * step).sum(), slope, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"filters": 0}, ValueError, "filters"),
        ({"filters": 2.0}, TypeError, "filters"),
        ({"kernel_size": 0}, ValueError, "kernel_size"),
        (
            {"pointwise_constraint": "x"},
            ValueError,
            "pointwise_constraint must be None",
        ),
        ({"pointwise_initializer": "he"}, ValueError, "pointwise_initializer"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ndw.SeparableConv2D(**{"filters": 3, "kernel_size": 3, **arguments})


def test_channels_first_and_other_floats(rng):
    layer = ndw.SeparableConv2D(4, 3, data_format="channels_first", seed=0)
    x = rng.standard_normal((1, 3, 6, 7))
    assert layer(x).dtype == np.float32
    assert layer(x).shape == (1, 4, 4, 5)
    with pytest.raises(ValueError, match="was built for 3 channels"):
        layer(x.transpose(0, 2, 3, 1))
