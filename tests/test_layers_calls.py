"""Calls of a layer: values, casts, `out`, plans, threads."""

import threading

import numpy as np
import pytest
from layer_cases import assert_right, images

import numbadw as ndw
from numbadw.layers import DepthwiseConv2D
from numbadw.layers.base import MAX_PLANS


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
