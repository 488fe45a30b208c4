"""The layer's configuration: Keras' arguments, their messages, output shapes."""

import inspect
import json

import numpy as np
import pytest
from layer_cases import images

from numbadw.layers import DepthwiseConv2D

KERAS_ORDER = [
    "kernel_size",
    "strides",
    "padding",
    "depth_multiplier",
    "data_format",
    "dilation_rate",
    "activation",
    "use_bias",
    "depthwise_initializer",
    "bias_initializer",
    "depthwise_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "depthwise_constraint",
    "bias_constraint",
]
UNSUPPORTED = [name for name in KERAS_ORDER if name.endswith(("izer", "constraint"))]
UNSUPPORTED = [name for name in UNSUPPORTED if "initializer" not in name]


class TestConfiguration:
    def test_arguments_are_those_of_keras(self):
        parameters = inspect.signature(DepthwiseConv2D).parameters
        assert list(parameters)[: len(KERAS_ORDER)] == KERAS_ORDER
        defaults = {name: p.default for name, p in parameters.items()}
        del defaults["kernel_size"]
        assert defaults == dict.fromkeys(defaults) | {
            "strides": (1, 1),
            "padding": "valid",
            "depth_multiplier": 1,
            "dilation_rate": (1, 1),
            "use_bias": True,
            "depthwise_initializer": "glorot_uniform",
            "bias_initializer": "zeros",
            "trainable": True,
            "dtype": "float32",
            "backend": "auto",
        }

    def test_round_trip_through_json(self, rng):
        layer = DepthwiseConv2D(
            [3, 5],
            2,
            ((1, 0), (2, 1)),
            depth_multiplier=np.int64(2),
            data_format="Channels_First",
            dilation_rate=(1, 3),
            activation=("leaky_relu", 0.1),
            depthwise_initializer="HeNormal",
            bias_initializer="random_uniform",
            name="stem",
            trainable=False,
            dtype=np.float64,
            backend="CPU",
            seed=3,
        )
        config = layer.get_config()
        assert list(config) == list(inspect.signature(DepthwiseConv2D).parameters)
        assert config["kernel_size"] == (3, 5)
        assert config["depthwise_initializer"] == "he_normal"
        assert config["dtype"] == "float64"
        other = DepthwiseConv2D.from_config(json.loads(json.dumps(config)))
        assert other.get_config() == config
        x = images(rng, (2, 3, 14, 15), np.float64)
        np.testing.assert_array_equal(other(x), layer(x))

    @pytest.mark.parametrize(
        ("given", "canonical"),
        [
            (None, "linear"),
            ("SWISH", "silu"),
            (("leaky_relu", 0.2), "leaky_relu"),
            (["elu", 2], ("elu", 2.0)),
        ],
    )
    def test_activation_is_canonical(self, given, canonical):
        layer = DepthwiseConv2D(1, activation=given)
        assert layer.get_config()["activation"] == canonical

    def test_callable_initializer_has_no_config(self):
        layer = DepthwiseConv2D(1, bias_initializer=np.zeros)
        with pytest.raises(TypeError, match="bias_initializer is a callable"):
            layer.get_config()

    def test_names_count_up(self):
        first, second = DepthwiseConv2D(1), DepthwiseConv2D(1)
        assert first.name.startswith("depthwise_conv2d")
        assert first.name != second.name
        assert DepthwiseConv2D(1, name="mine").name == "mine"

    def test_configuration_is_fixed(self):
        layer = DepthwiseConv2D(1)
        with pytest.raises(AttributeError, match="strides of a layer cannot change"):
            layer.strides = (2, 2)
        layer.trainable = False
        layer.name = "other"
        assert layer.get_config()["trainable"] is False

    @pytest.mark.parametrize("argument", UNSUPPORTED)
    def test_training_arguments_are_refused(self, argument):
        assert getattr(DepthwiseConv2D(1), argument) is None
        expected = f"{argument} must be None, got 'l2': .* training loop"
        with pytest.raises(ValueError, match=expected):
            DepthwiseConv2D(1, **{argument: "l2"})

    @pytest.mark.parametrize(
        ("error", "message", "arguments"),
        [
            (ValueError, "kernel_size must be a positive int", {"kernel_size": 0}),
            (TypeError, "kernel_size must be a positive int", {"kernel_size": 3.0}),
            (ValueError, "strides must be a positive", {"strides": (1, 2, 3)}),
            (ValueError, "padding must be 'valid'", {"padding": "causal"}),
            (ValueError, "depth_multiplier must be an int", {"depth_multiplier": 0}),
            (TypeError, "depth_multiplier must be", {"depth_multiplier": True}),
            (ValueError, "data_format must be one of", {"data_format": "nhwc"}),
            (ValueError, "activation must be one of", {"activation": "relu7"}),
            (ValueError, "depthwise_init.* one of", {"depthwise_initializer": "he"}),
            (TypeError, "bias_initializer must be one of", {"bias_initializer": 0}),
            (TypeError, "name must be a str", {"name": 3}),
            (ValueError, "name must be a str without '/'", {"name": "a/b"}),
            (TypeError, "dtype must be float32 or float64", {"dtype": "float16"}),
            (TypeError, "dtype must be float32 or float64", {"dtype": "nothing"}),
            (ValueError, "backend must be one of", {"backend": "tpu"}),
            (TypeError, "seed must be an int >= 0", {"seed": 1.5}),
            (ValueError, "seed must be an int >= 0", {"seed": -1}),
        ],
    )
    def test_messages(self, error, message, arguments):
        with pytest.raises(error, match=message):
            DepthwiseConv2D(**{"kernel_size": 3, **arguments})

    def test_repr_tells_what_matters(self):
        text = repr(DepthwiseConv2D(3, name="stem"))
        assert text.startswith("<DepthwiseConv2D name='stem', kernel_size=(3, 3)")
        assert "built=False" in text


class TestOutputShape:
    @pytest.mark.parametrize(
        ("arguments", "shape", "result"),
        [
            ({}, (None, None, None, 3), (None, None, None, 3)),
            ({}, (2, 9, None, 3), (2, 7, None, 3)),
            ({"padding": "same", "strides": 2}, (None, 9, 8, 3), (None, 5, 4, 3)),
            ({"depth_multiplier": 4}, [0, 9, 8, 3], (0, 7, 6, 12)),
            ({"dilation_rate": (1, 2)}, (1, 9, 9, None), (1, 7, 5, None)),
            ({"padding": ((1, 0), (2, 3))}, (1, 9, 9, 3), (1, 8, 12, 3)),
            ({"data_format": "channels_first"}, (1, 3, 9, None), (1, 3, 7, None)),
        ],
    )
    def test_sizes(self, arguments, shape, result):
        layer = DepthwiseConv2D(3, **arguments)
        assert layer.compute_output_shape(shape) == result
        assert not layer.built

    def test_errors(self):
        layer = DepthwiseConv2D(3)
        with pytest.raises(ValueError, match="output size must be at least 1"):
            layer.compute_output_shape((1, 2, 9, 3))
        layer.build((1, 9, 9, 3))
        with pytest.raises(ValueError, match="built for 3 channels"):
            layer.compute_output_shape((1, 9, 9, 4))
