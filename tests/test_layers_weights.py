"""Weights of a layer: built, aligned, written in place, copied."""

import copy
import pickle

import numpy as np
import pytest
from layer_cases import assert_right, images

from numbadw.layers import DepthwiseConv2D


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
