"""Starting values: names, fans, ranges and seeds."""

import numpy as np
import pytest

from numbadw.layers import DepthwiseConv2D
from numbadw.layers.initializers import RULES, compute_fans

# (kh, kw, c, m) = (3, 5, 64, 4): fans 15 * 64 in, 15 * 4 out.
FAN_IN, FAN_OUT = 960, 60
MEAN = (FAN_IN + FAN_OUT) / 2


def kernel_of(initializer, seed=0, **arguments):
    layer = DepthwiseConv2D(
        (3, 5),
        depth_multiplier=4,
        depthwise_initializer=initializer,
        seed=seed,
        **arguments,
    )
    layer.build((None, None, None, 64))
    return layer.kernel


def test_fans_are_those_of_keras():
    assert compute_fans((3, 5, 64, 4)) == (FAN_IN, FAN_OUT)
    assert compute_fans((7,)) == (7, 7)
    assert compute_fans((6, 8)) == (6, 8)


def test_constants():
    assert (kernel_of("zeros") == 0).all()
    assert (kernel_of("ones") == 1).all()


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 1 / MEAN),
        ("he_uniform", 2 / FAN_IN),
        ("lecun_uniform", 1 / FAN_IN),
        ("random_uniform", 0.05**2 / 3),
    ],
)
def test_uniform(name, variance):
    kernel, limit = kernel_of(name), np.sqrt(3 * variance)
    assert 0.99 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
    # 3,840 values: the mean is within 5 standard errors, the variance within 10 %.
    assert abs(kernel.mean()) < 5 * np.sqrt(variance / kernel.size)
    assert kernel.var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_normal", 1 / MEAN),
        ("he_normal", 2 / FAN_IN),
        ("lecun_normal", 1 / FAN_IN),
        ("truncated_normal", (0.05 * 0.87962566103423978) ** 2),
        ("random_normal", 0.05**2),
    ],
)
def test_normal(name, variance):
    kernel = kernel_of(name)
    assert abs(kernel.mean()) < 5 * np.sqrt(variance / kernel.size)
    assert kernel.var() == pytest.approx(variance, rel=0.1)
    cut = 2 * np.sqrt(variance) / 0.87962566103423978
    beyond = np.abs(kernel).max() > cut * (1 + 1e-6)
    assert beyond == (name == "random_normal")


@pytest.mark.parametrize("name", RULES)
def test_seed_decides(name):
    first, again = kernel_of(name, seed=5), kernel_of(name, seed=5)
    np.testing.assert_array_equal(first, again)
    if name not in ("zeros", "ones"):
        assert (first != kernel_of(name, seed=6)).any()
        assert (kernel_of(name, seed=None) != kernel_of(name, seed=None)).any()


@pytest.mark.parametrize("spelling", ["GlorotUniform", "GLOROT_UNIFORM", None])
def test_spellings(spelling):
    np.testing.assert_array_equal(kernel_of(spelling), kernel_of("glorot_uniform"))


def test_no_bias_initializer_means_zeros():
    layer = DepthwiseConv2D(1, bias_initializer=None)
    layer.build((1, 1, 1, 3))
    assert (layer.bias == 0).all()


def test_callable_sees_shape_and_dtype():
    seen = []

    def ramp(shape, dtype):
        seen.append((shape, dtype))
        return np.arange(np.prod(shape)).reshape(shape)

    kernel = kernel_of(ramp, dtype="float64")
    assert seen == [((3, 5, 64, 4), np.dtype("float64"))]
    np.testing.assert_array_equal(kernel.ravel(), np.arange(kernel.size))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda shape, dtype: np.zeros(shape[::-1], dtype),
        lambda shape, dtype: np.zeros(shape, complex),
        lambda shape, dtype: None,
    ],
)
def test_callable_must_return_the_right_array(wrong):
    message = r"depthwise_initializer must return numbers of shape \(3, 5, 64, 4\)"
    with pytest.raises(ValueError, match=message):
        kernel_of(wrong)
