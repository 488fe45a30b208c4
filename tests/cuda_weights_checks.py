"""Weights on the device over a stub driver: of layers, of calls, and halves.

`test_cuda_host.py` runs this in a child.
"""

import numpy as np
import pytest
from cases import Case, assert_close
from cuda_stub import STUB, Tensor, stub, tensors
from gradient_cases import draw

import numbadw as ndw
from numbadw import tolerance
from numbadw.cuda import halves, weights

__all__ = ["stub", "tensors"]  # fixtures

CASE = Case(8, 9, 4)


def test_a_layers_weights_are_copied_once_and_again_when_they_change(rng, tensors):
    x, w, b = CASE.arrays(rng)
    layer = ndw.DepthwiseConv2D(3, padding="same")
    layer.build(x.shape)
    layer.set_weights([w, b])
    layer(tensors(x))
    copies = STUB.stub_copies()
    for _ in range(3):
        assert_close(layer(tensors(x)).array, x, w, b, **CASE.options)
    assert STUB.stub_copies() == copies
    layer.bias[0] += 1
    b[0] += 1
    out = tensors(np.full(x.shape, np.nan, "f4"))
    assert layer(tensors(x), out=out) is out
    assert_close(out.array, x, w, b, **CASE.options)
    assert STUB.stub_copies() == copies + 1
    with pytest.raises(ValueError, match="kernel has shape"):
        layer(tensors(np.ones((1, 8, 8, 5), "f4")))


def test_a_layer_of_sequences_on_the_device(rng, tensors):
    x = rng.standard_normal((2, 30, 8)).astype("f4")
    layer = ndw.DepthwiseConv1D(4, padding="causal", activation="silu")
    y, pullback = layer.vjp(tensors(x))
    np.testing.assert_allclose(y.array, layer(x), rtol=1e-5, atol=1e-5)
    exact = layer.vjp(x)[1](y.array)
    x_grad, weight_grads = pullback(y)
    for one, right in zip((x_grad, *weight_grads), (exact[0], *exact[1]), strict=True):
        np.testing.assert_allclose(one.array, right, rtol=1e-4, atol=1e-4)


def test_a_layer_casts_device_arrays_to_its_dtype(rng, tensors):
    x, w, b = CASE.arrays(rng)
    layer = ndw.DepthwiseConv2D(3, padding="same")
    layer.build(x.shape)
    layer.set_weights([w, b])
    half = tensors(x.astype("f2"))
    with pytest.raises(TypeError, match=r"inputs .* float32"):
        layer(half)

    class Castable(Tensor):
        def astype(self, dtype):
            return tensors(self.array.astype(dtype))

    result = layer(Castable(x.astype("f2")))
    assert_close(result.array, x.astype("f2").astype("f4"), w, b, **CASE.options)
    with pytest.raises(TypeError, match="int32"):
        layer(Castable(x.astype("i4")))
    with pytest.raises(TypeError, match="NumPy array here"):
        ndw.DepthwiseConv2D(3, backend="cpu")(tensors(x))


def test_few_uploads_are_kept(rng, tensors, monkeypatch):
    x, w, _ = CASE.arrays(rng)
    monkeypatch.setattr(weights, "MOST", 4)
    there, all_kernels = tensors(x), [w + i for i in range(9)]
    for kernel in all_kernels:
        result = ndw.depthwise_conv2d(there, kernel, **CASE.options)
        assert_close(result.array, x, kernel, **CASE.options)
    assert len(weights._KEPT) <= 4


def test_half_weights_are_kept_apart_by_kind(rng, tensors):
    x, w, _ = CASE.arrays(rng)
    for dtype in ("f4", "f2", "f4", "f8"):
        result = ndw.depthwise_conv2d(tensors(x.astype(dtype)), w, **CASE.options)
        answer = tolerance.forward(x.astype(dtype), w, **CASE.options)
        room = 2.0**-9 * np.abs(answer.expected).max() if dtype == "f2" else 0
        result = result.array.astype(answer.expected.dtype)
        fault = answer._replace(bound=answer.bound + room).fault(result)
        assert not fault, f"{dtype}: {fault}"


def test_the_host_waits_for_new_weights_alone(rng, tensors):
    x, w, b, g = draw(CASE, rng)
    arrays = [tensors(array) for array in (x, w, g, b)]
    before = STUB.stub_syncs()
    ndw.depthwise_conv2d(*arrays[:2], arrays[3], stream=5, **CASE.options)
    ndw.depthwise_conv2d_grad(*arrays[:3], activation="silu", **CASE.options)
    assert STUB.stub_syncs() == before
    weight = w + 1
    for _ in range(3):
        ndw.depthwise_conv2d(arrays[0], weight, **CASE.options)
    assert STUB.stub_syncs() == before + 1


def test_numpy_rounds_halves_as_we_do(rng):
    numbers = rng.standard_normal(1000).astype("f4")
    ends = np.array([np.nan, np.inf, -np.inf, 3.4e38, 0, -0.0], "f4")
    numbers = np.concatenate([numbers, ends])
    both = halves.rounded(numbers, "bfloat16")
    assert not (both.view(np.uint32) & 0xFFFF).any()
    bound = 2.0**-8 * np.abs(numbers[:1000])
    assert (np.abs(both[:1000] - numbers[:1000]) <= bound).all()
    np.testing.assert_array_equal(both[1000:], [np.nan, np.inf, -np.inf, np.inf, 0, 0])
    with np.errstate(over="ignore"):
        half = halves.rounded(numbers, "float16")
    np.testing.assert_array_equal(half[:1000], numbers[:1000].astype("f2"))
