"""The layer: configuration, weights, casting, plans; the arithmetic is the function's.

Every result is compared with `depthwise_conv2d` of backend "reference" on the same
weights.
"""

import copy
import inspect
import json
import pickle
import threading

import numpy as np
import pytest

import numbadw as ndw
from numbadw.layers import DepthwiseConv2D
from numbadw.layers.base import MAX_PLANS

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
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


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


class TestUsualExamples:
    def test_tutorial(self):
        x = np.random.normal(size=(1, 28, 28, 3))  # noqa: NPY002
        layer = ndw.DepthwiseConv2D(kernel_size=(3, 3), strides=(1, 1), padding="same")
        y = layer(x)
        assert y.shape == (1, 28, 28, 3)
        assert_right(layer, x, y)

    def test_documentation(self):
        x = np.random.rand(4, 10, 10, 12)  # noqa: NPY002
        layer = ndw.DepthwiseConv2D(3, 3, activation="relu")
        y = layer(x)
        assert y.shape == (4, 3, 3, 12)
        assert y.min() == 0
        assert_right(layer, x, y)


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


class TestWeights:
    def test_build(self):
        layer = DepthwiseConv2D((3, 5), depth_multiplier=2)
        assert not layer.built
        assert layer.weights == layer.get_weights() == []
        layer.build((None, None, None, 4))
        assert layer.built
        assert layer.kernel.shape == (3, 5, 4, 2)
        assert layer.bias.shape == (8,)
        assert layer.weights[0] is layer.kernel
        assert layer.weights[1] is layer.bias
        assert layer.count_params() == 3 * 5 * 8 + 8
        kernel = layer.kernel
        layer.build([1, 7, 7, 4])
        assert layer.kernel is kernel
        with pytest.raises(ValueError, match=r"built for 4 channels.*\(1, 7, 7, 5\)"):
            layer.build((1, 7, 7, 5))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_storage_is_aligned_and_writable(self, dtype):
        layer = DepthwiseConv2D(3, dtype=dtype)
        layer.build((None, None, None, 3))
        for weight in layer.weights:
            assert weight.ctypes.data % 64 == 0
            assert weight.flags.c_contiguous
            assert weight.flags.writeable
            assert weight.dtype == dtype

    def test_channels_first(self):
        layer = DepthwiseConv2D(3, data_format="channels_first", use_bias=False)
        layer.build((1, 6, None, None))
        assert layer.kernel.shape == (3, 3, 6, 1)
        assert layer.bias is None
        assert layer.count_params() == 54

    def test_writes_in_place_count_at_the_next_call(self, rng):
        layer, x = DepthwiseConv2D(3, seed=0), images(rng)
        layer(x)
        layer.kernel[...] = 1
        layer.bias += 2
        y = layer(x)
        assert_right(layer, x, y)
        assert (layer.bias == 2).all()
        address = layer.kernel.ctypes.data
        layer.kernel = np.full((3, 3, 3, 1), 3)
        assert layer.kernel.ctypes.data == address
        assert_right(layer, x, layer(x))

    def test_get_and_set_copy(self, rng):
        layer, x = DepthwiseConv2D(3, padding="same"), images(rng)
        layer(x)
        kernel, bias = layer.get_weights()
        kernel += 1
        bias += 1
        assert (layer.bias == 0).all()
        layer.set_weights([kernel, bias])
        np.testing.assert_array_equal(layer.kernel, kernel)
        kernel[...] = 0
        assert (layer.kernel != 0).any()
        assert_right(layer, x, layer(x))

    def test_set_weights_takes_all_or_none(self):
        layer = DepthwiseConv2D(3, seed=0)
        with pytest.raises(ValueError, match="must be built before"):
            layer.set_weights([])
        layer.build((1, 5, 5, 2))
        before = layer.get_weights()
        kernel = np.zeros((3, 3, 2, 1))
        with pytest.raises(ValueError, match=r"2 arrays \(kernel, bias\), got 1"):
            layer.set_weights([kernel])
        with pytest.raises(ValueError, match=r"bias must have shape \(2,\), got \(1,"):
            layer.set_weights([kernel, [1.0]])
        with pytest.raises(TypeError, match="bias must hold real numbers, got bool"):
            layer.set_weights([kernel, [True, False]])
        with pytest.raises(TypeError, match="weights must be a list"):
            layer.set_weights(kernel)
        for weight, old in zip(layer.weights, before, strict=True):
            np.testing.assert_array_equal(weight, old)

    def test_unbuilt_layer_has_no_kernel(self):
        layer = DepthwiseConv2D(3)
        with pytest.raises(AttributeError, match="no kernel before build"):
            _ = layer.kernel
        with pytest.raises(ValueError, match="must be built"):
            layer.count_params()

    @pytest.mark.parametrize(
        ("error", "shape", "message"),
        [
            (ValueError, (1, 5, 5, None), "needs the number of channels"),
            (ValueError, (5, 5, 3), r"input_shape must be \(n, h, w, c\)"),
            (ValueError, (1, 5, 5, 0), "c >= 1"),
            (ValueError, (1, -5, 5, 3), "input_shape must be an int >= 0"),
            (TypeError, (1, 5.0, 5, 3), "input_shape must be an int >= 0"),
            (TypeError, 3, "each an int or None, got 3"),
        ],
    )
    def test_wrong_shapes(self, error, shape, message):
        with pytest.raises(error, match=message):
            DepthwiseConv2D(3).build(shape)

    @pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, "pickle"])
    def test_copies_have_weights_of_their_own(self, copier, rng):
        layer, x = DepthwiseConv2D(3, activation=("elu", 2.0)), images(rng)
        y = layer(x)
        if copier == "pickle":
            other = pickle.loads(pickle.dumps(layer))
        else:
            other = copier(layer)
        assert other.kernel.ctypes.data % 64 == 0
        layer.kernel[...] = 0
        np.testing.assert_array_equal(other(x), y)
        assert other.get_config() == layer.get_config()


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


class TestCalls:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize(
        "arguments",
        [
            {"padding": "same", "strides": 2, "activation": "relu6"},
            {"padding": (0, 1), "dilation_rate": 2, "depth_multiplier": 2},
            {"use_bias": False, "bias_initializer": "ones"},
            {"bias_initializer": "random_normal", "backend": "reference"},
        ],
    )
    def test_results(self, arguments, dtype, rng):
        layer, x = DepthwiseConv2D(3, dtype=dtype, **arguments), images(rng)
        for _ in range(2):
            assert_right(layer, x, layer(x))

    def test_channels_first(self, rng):
        layer = DepthwiseConv2D(3, 2, "same", data_format="channels_first")
        x = images(rng, (2, 5, 9, 10))
        y = layer(x)
        assert y.shape == layer.compute_output_shape(x.shape) == (2, 5, 5, 5)
        assert_right(layer, x, y)

    def test_out_is_written_and_returned(self, rng):
        layer, x = DepthwiseConv2D(3, padding="same"), images(rng)
        for _ in range(2):
            out = np.full(x.shape, np.nan, np.float32)
            assert layer(x, out=out) is out
            assert_right(layer, x, out)
        wide = np.full((2, 9, 10, 6), np.nan, np.float32)
        for view in (wide[..., :3], wide[..., ::2]):
            assert layer(x, out=view) is view
            assert_right(layer, x, view)

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, ">f4"])
    def test_floating_inputs_are_cast(self, dtype, rng):
        layer, x = DepthwiseConv2D(3), images(rng, dtype=dtype)
        for _ in range(2):
            assert_right(layer, x, layer(x))
        out = np.empty((2, 7, 8, 3), np.float32)
        assert layer(x, out) is out
        assert_right(layer, x, out)

    def test_subclasses_are_read_as_arrays(self, rng):
        class Photo(np.ndarray):
            pass

        layer, x = DepthwiseConv2D(3), images(rng).view(Photo)
        y = layer(x)
        assert type(y) is np.ndarray
        out = np.empty_like(y).view(Photo)
        assert layer(x, out=out) is out
        np.testing.assert_array_equal(out, y)

    @pytest.mark.parametrize(
        ("error", "message", "convert"),
        [
            (TypeError, "inputs must be float32 or float64", lambda x: x.astype(int)),
            (TypeError, "inputs must be float32 or float64", lambda x: x > 0),
            (TypeError, "inputs must be float32 or float64", lambda x: x + 0j),
            (TypeError, "inputs must be a NumPy array", lambda x: x.tolist()),
            (TypeError, "without a mask", lambda x: np.ma.masked_less(x, 0)),
            (ValueError, "inputs must have 4 dimensions", lambda x: x[0]),
            (ValueError, "output size must be at least 1", lambda x: x[:, :2]),
        ],
    )
    def test_wrong_inputs_build_nothing(self, error, message, convert, rng):
        layer = DepthwiseConv2D(3)
        with pytest.raises(error, match=message):
            layer(convert(images(rng)))
        assert not layer.built

    def test_other_channels_are_refused(self, rng):
        layer = DepthwiseConv2D(3)
        layer(images(rng))
        with pytest.raises(ValueError, match="built for 3 channels"):
            layer(images(rng, (2, 9, 10, 4)))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("prepared", [False, True])
    def test_wrong_out_is_refused_untouched(self, dtype, prepared, rng):
        layer = DepthwiseConv2D(3, padding="same")
        x = images(rng, dtype=dtype)
        good = np.zeros(x.shape, np.float32)
        if prepared:
            layer(x, out=good)
        before = x.copy()
        with pytest.raises(ValueError, match="out must not overlap inputs"):
            layer(x, out=x.view(np.float32)[..., :3])
        np.testing.assert_array_equal(x, before)
        with pytest.raises(ValueError, match="out must have shape"):
            layer(x, out=np.zeros((2, 9, 10, 4), np.float32))
        with pytest.raises(TypeError, match="out must have dtype float32"):
            layer(x, out=np.zeros(x.shape))
        with pytest.raises(TypeError, match="out must be a NumPy array"):
            layer(x, out=good.tolist())
        good[...] = 5
        good.setflags(write=False)
        with pytest.raises(ValueError, match="out must be writable"):
            layer(x, out=good)
        assert (good == 5).all()

    def test_plans_are_bounded(self, rng):
        layer = DepthwiseConv2D(1, backend="reference")
        for width in range(1, MAX_PLANS + 10):
            layer(np.ones((1, 1, width, 1), np.float32))
            assert len(layer._runs) <= MAX_PLANS
        x = images(rng, (1, 1, 1, 1))
        assert_right(layer, x, layer(x))

    def test_threads_may_call_an_unbuilt_layer(self, rng):
        x = images(rng)
        for _ in range(20):
            layer = DepthwiseConv2D(3, padding="same")
            barrier = threading.Barrier(4)
            results = []

            def work(layer=layer, barrier=barrier, results=results):
                barrier.wait()
                results.append(layer(x))

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(results) == 4
            for result in results:
                np.testing.assert_array_equal(result, layer(x))

    def test_no_images(self):
        layer = DepthwiseConv2D(3)
        assert layer(np.zeros((0, 5, 5, 2), np.float32)).shape == (0, 3, 3, 2)
