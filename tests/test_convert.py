"""Kernels from PyTorch and back."""

import numpy as np
import pytest

import numbadw as ndw
from numbadw.convert import kernel_from_torch, kernel_to_torch


def weight_of(channels, kh=2, kw=3):
    return np.arange(channels * kh * kw, dtype=np.float32).reshape(channels, 1, kh, kw)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_every_tap_lands_where_it_should(m):
    weight = weight_of(6)
    kernel = kernel_from_torch(weight, m)
    assert kernel.shape == (2, 3, 6 // m, m)
    assert kernel.flags.c_contiguous
    assert kernel.dtype == np.float32
    for i, j, c, q in np.ndindex(kernel.shape):
        assert kernel[i, j, c, q] == weight[c * m + q, 0, i, j]
    np.testing.assert_array_equal(kernel_to_torch(kernel), weight)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_sequences(m):
    weight = weight_of(6)[:, :, 0]
    kernel = kernel_from_torch(weight, m)
    assert kernel.shape == (3, 6 // m, m)
    for i, c, q in np.ndindex(kernel.shape):
        assert kernel[i, c, q] == weight[c * m + q, 0, i]
    np.testing.assert_array_equal(kernel_to_torch(kernel), weight)


def test_pointwise():
    weight = np.arange(15, dtype=np.float32).reshape(5, 3, 1, 1)
    kernel = kernel_from_torch(weight)
    assert kernel.shape == (3, 5)
    for c, f in np.ndindex(kernel.shape):
        assert kernel[c, f] == weight[f, c, 0, 0]
    np.testing.assert_array_equal(kernel_to_torch(kernel), weight)
    # One input channel: a depthwise weight, too, and taken for one.
    assert kernel_from_torch(weight[:, :1]).shape == (1, 1, 5, 1)


def test_results_are_copies():
    weight = weight_of(1, 1, 1)
    kernel = kernel_from_torch(weight)
    back = kernel_to_torch(kernel)
    kernel[...] = 7
    assert weight.item() == 0
    assert back.item() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_from_torch([[1.0]]), "weight must be a NumPy array or a PyT"),
        (lambda: kernel_from_torch(weight_of(2) > 0), "real numbers, got dtype bool"),
        (lambda: kernel_from_torch(weight_of(2), 1.0), "depth_multiplier must be an"),
        (lambda: kernel_to_torch(None), "kernel must be .* of type NoneType"),
    ],
)
def test_wrong_types(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_from_torch(np.ones((4, 2, 3, 3))), r"got \(4, 2, 3, 3\)"),
        (lambda: kernel_from_torch(np.ones((4, 2, 3))), r"\(C\*M, 1, k\)"),
        (lambda: kernel_from_torch(np.ones((4, 1))), r"\(C\*M, 1, kh, kw\)"),
        (lambda: kernel_from_torch(np.ones((4, 6, 1, 1)), 2), r"got \(4, 6, 1, 1\)"),
        (lambda: kernel_from_torch(np.ones((0, 6, 1, 1))), "every size >= 1"),
        (lambda: kernel_from_torch(np.ones((4, 1, 0, 3))), "every size >= 1"),
        (lambda: kernel_from_torch(weight_of(4), 3), "not divide by depth_multiplier"),
        (lambda: kernel_from_torch(weight_of(4), 0), "depth_multiplier must be"),
        (lambda: kernel_to_torch(np.ones(4)), r"\(kh, kw, C, M\)"),
        (lambda: kernel_to_torch(np.ones((3, 3, 0, 1))), "every size >= 1"),
    ],
)
def test_wrong_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("m", [1, 2])
def test_torch_convolves_the_same(m):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    conv = torch.nn.Conv2d(3, 3 * m, (3, 2), groups=3)
    x = np.random.default_rng(0).standard_normal((2, 7, 8, 3), dtype=np.float32)
    expected = conv(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    kernel = kernel_from_torch(conv.weight, m)
    y = ndw.depthwise_conv2d(x, kernel, conv.bias.detach().numpy())
    np.testing.assert_allclose(y, expected.transpose(0, 2, 3, 1), rtol=0, atol=1e-5)


def test_torch_convolves_sequences_and_pixels_the_same():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.random.default_rng(0).standard_normal((2, 7, 3), dtype=np.float32)
    given = torch.from_numpy(x.transpose(0, 2, 1).copy())
    conv = torch.nn.Conv1d(3, 6, 4, groups=3, bias=False)
    y = ndw.depthwise_conv1d(x, kernel_from_torch(conv.weight, 2))
    expected = conv(given).detach().numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    conv = torch.nn.Conv2d(3, 5, 1, bias=False)
    y = ndw.pointwise_conv2d(x[:, None], kernel_from_torch(conv.weight))
    expected = conv(given[:, :, None]).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
