"""DepthwiseConv1D: Keras' arguments, and the function it prepares."""

import inspect
import json
import pickle

import numpy as np
import pytest

import numbadw as ndw

CHANNELS = 19


def expected(layer, x):
    """Give what the function gives with the layer's arguments and weights."""
    return ndw.depthwise_conv1d(
        x,
        layer.kernel,
        layer.bias,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
        activation=layer.activation,
    )


def draw(rng, first=False, n=2, length=40):
    shape = (n, CHANNELS, length) if first else (n, length, CHANNELS)
    return rng.standard_normal(shape).astype(np.float32)


def test_arguments_are_those_of_keras():
    one = inspect.signature(ndw.DepthwiseConv1D).parameters
    two = inspect.signature(ndw.DepthwiseConv2D).parameters
    assert list(one) == list(two)
    differing = {
        name: (p.default, two[name].default)
        for name, p in one.items()
        if p.default != two[name].default
    }
    assert differing == {"strides": (1, (1, 1)), "dilation_rate": (1, (1, 1))}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same", "strides": 2, "activation": "relu"},
        {"padding": "causal", "dilation_rate": (2,), "depth_multiplier": 2},
        {"padding": (1, 2), "use_bias": False, "data_format": "channels_first"},
    ],
    ids=str,
)
def test_calls_give_the_functions_bits(options, rng):
    layer = ndw.DepthwiseConv1D(4, **options)
    first = layer.data_format == "channels_first"
    for x in (draw(rng, first), draw(rng, first, 1, 7)):
        answer = None
        for _ in range(3):
            y = layer(x)
            answer = expected(layer, x)
            np.testing.assert_array_equal(y, answer)
        assert layer.compute_output_shape(x.shape) == y.shape
        out = np.full_like(y, np.nan)
        for _ in range(3):
            out.fill(np.nan)
            assert layer(x, out=out) is out
            np.testing.assert_array_equal(out, answer)
    assert layer.kernel.shape == (4, CHANNELS, layer.depth_multiplier)


def test_one_plan_never_serves_arrays_of_another_kind(rng):
    layer = ndw.DepthwiseConv1D(4, padding="causal")
    x = draw(rng)
    out = np.empty_like(x)
    for _ in range(3):
        layer(x, out=out)
    short = np.ascontiguousarray(x[:, :20])
    np.testing.assert_array_equal(layer(short, out=out[:, :20]), out[:, :20])
    np.testing.assert_array_equal(out[:, :20], expected(layer, short))
    image = x[:, None]
    with pytest.raises(ValueError, match="inputs must have 3 dimensions"):
        layer(image, out=image.copy())
    with pytest.raises(ValueError, match="out must have shape"):
        layer(x, out=np.empty((2, 40), np.float32))
    with pytest.raises(ValueError, match="out must not overlap inputs"):
        layer(x, out=x)


def test_weights_written_in_place_count(rng):
    layer = ndw.DepthwiseConv1D(3, padding="causal")
    x = draw(rng)
    layer(x)
    layer.kernel[...] = 0
    layer.kernel[-1] = 2
    layer.bias[...] = 1
    np.testing.assert_array_equal(layer(x), 2 * x + 1)


def test_configuration_survives_json_and_pickle(rng):
    layer = ndw.DepthwiseConv1D(
        (5,), 2, "same", 2, dilation_rate=3, activation=("leaky_relu", 0.1), seed=3
    )
    x = draw(rng)
    config = json.loads(json.dumps(layer.get_config()))
    assert config["kernel_size"] == [5]
    again = ndw.DepthwiseConv1D.from_config(config)
    np.testing.assert_array_equal(again(x), layer(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    assert "DepthwiseConv1D" in repr(layer)
    assert layer.name.startswith("depthwise_conv1d")


def test_shapes(rng):
    layer = ndw.DepthwiseConv1D(4, strides=2, depth_multiplier=3)
    assert layer.compute_output_shape((None, None, 5)) == (None, None, 15)
    assert layer.compute_output_shape((8, 10, 5)) == (8, 4, 15)
    with pytest.raises(ValueError, match=r"input_shape must be \(n, length, c\)"):
        layer.build((1, 10, 10, 5))
    with pytest.raises(ValueError, match="output size must be at least 1"):
        layer.compute_output_shape((1, 3, 5))
    layer.build((None, None, 5))
    assert layer.count_params() == 4 * 15 + 15
    with pytest.raises(ValueError, match="was built for 5 channels"):
        layer(draw(rng))


@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
def test_vjp_is_the_functions_gradient(first, rng):
    layer = ndw.DepthwiseConv1D(
        4,
        padding="causal",
        activation="silu",
        data_format="channels_first" if first else None,
    )
    x = draw(rng, first)
    y, pullback = layer.vjp(x)
    np.testing.assert_array_equal(y, layer(x))
    x_grad, (kernel_grad, bias_grad) = pullback(y)
    answers = ndw.depthwise_conv1d_grad(
        x,
        layer.kernel,
        y,
        bias=layer.bias,
        padding="causal",
        activation="silu",
        data_format=layer.data_format,
    )
    for result, answer in zip((x_grad, kernel_grad, bias_grad), answers, strict=True):
        np.testing.assert_array_equal(result, answer)


def test_streaming_with_the_layers_weights(rng):
    layer = ndw.DepthwiseConv1D(4, padding="causal")
    x = draw(rng)
    whole = layer(x)
    options = {"padding": "causal", "return_state": True}
    a, state = ndw.depthwise_conv1d(x[:, :25], layer.kernel, layer.bias, **options)
    b, _ = ndw.depthwise_conv1d(
        x[:, 25:], layer.kernel, layer.bias, initial_state=state, **options
    )
    np.testing.assert_array_equal(np.concatenate([a, b], axis=1), whole)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": (3, 3)}, ValueError, "kernel_size must be a positive int or"),
        ({"kernel_size": 3.0}, TypeError, "kernel_size"),
        ({"strides": 0}, ValueError, "strides"),
        ({"padding": "full"}, ValueError, "padding must be .*'causal'"),
        ({"dilation_rate": (1, 1)}, ValueError, "dilation_rate"),
        ({"depthwise_regularizer": "l2"}, ValueError, "depthwise_regularizer"),
    ],
)
def test_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ndw.DepthwiseConv1D(**{"kernel_size": 3} | arguments)
