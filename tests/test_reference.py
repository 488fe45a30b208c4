"""The oracle itself: hand-worked arrays, then libraries that know nothing of it."""

import itertools

import numpy as np
import pytest

from numbadw import reference
from numbadw.geometry import make_geometry

ONES = (1, 1)


def run(x, k, bias=None, act=("linear", 0.0), strides=ONES, pads="valid", dil=ONES):
    g = make_geometry(x.shape, k.shape, strides, pads, dil, False)
    out = np.full(g.output_shape, np.nan, x.dtype)
    reference.forward(x, k, bias, *act, g, out)
    return out


def back(x, k, grad, bias=None, act=("linear", 0.0), strides=ONES, pads="valid"):
    g = make_geometry(x.shape, k.shape, strides, pads, ONES, False)
    results = tuple(
        np.full(shape, np.nan, x.dtype)
        for shape in (x.shape, k.shape, (g.out_channels,))
    )
    reference.gradients(x, k, bias, grad, *act, g, *results)
    return results


def image(rows):
    return np.array(rows, np.float64)[None, :, :, None]


def plane(y):
    return y[0, :, :, 0].tolist()


SQUARE = image([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
TAPS = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]


def test_valid_by_hand():
    # 1*1 + 2*2 + 3*4 + 4*5 = 37, one right: +10, one down: +30.
    assert plane(run(SQUARE, TAPS)) == [[37, 47], [67, 77]]


def test_same_pads_an_even_kernel_at_the_bottom_right():
    expected = [[37, 47, 21], [67, 77, 33], [23, 26, 9]]
    assert plane(run(SQUARE, TAPS, pads="same")) == expected


def test_uneven_padding_by_hand():
    # One row above only: 3*1 + 4*2 = 11, 3*2 + 4*3 = 18.
    y = run(SQUARE, TAPS, pads=((1, 0), (0, 0)))
    assert plane(y) == [[11, 18], [37, 47], [67, 77]]


def test_stride_and_dilation_by_hand():
    rows = image([[10 * r + c for c in range(5)] for r in range(4)])
    # Taps two rows and one column apart: 1*x + 2*(x+1) + 3*(x+20) + 4*(x+21).
    expected = [[10 * (10 * r + c) + 146 for c in (0, 3)] for r in (0, 1)]
    assert plane(run(rows, TAPS, strides=(1, 3), dil=(2, 1))) == expected


def test_output_channel_is_c_times_m_plus_q():
    x = np.array([2.0, 3.0]).reshape(1, 1, 1, 2)
    k = np.array([[1.0, 10.0, 100.0], [5.0, 50.0, 500.0]]).reshape(1, 1, 2, 3)
    bias = np.array([0.5, 0, 0, 0, 0, 0.25])
    assert run(x, k, bias).ravel().tolist() == [2.5, 20, 200, 15, 150, 1500.25]


def test_bias_comes_before_the_activation():
    x = np.array([-5.0, 1.0]).reshape(1, 1, 2, 1)
    y = run(x, np.ones((1, 1, 1, 1)), np.array([2.0]), ("relu", 0.0))
    assert y.ravel().tolist() == [0, 3]
    y = run(x, np.ones((1, 1, 1, 1)), np.array([2.0]), ("leaky_relu", 0.5))
    assert y.ravel().tolist() == [-1.5, 3]


def test_sums_are_float64_and_rounded_once():
    x = np.array([1e8, 1.0, -1e8], np.float32).reshape(1, 1, 3, 1)
    assert run(x, np.ones((1, 3, 1, 1), np.float32)).item() == 1.0


def test_empty_image_gives_bias_alone():
    y = run(
        np.zeros((1, 0, 2, 1)),
        np.ones((1, 1, 1, 1)),
        np.array([3.0]),
        pads=((1, 1), (0, 0)),
    )
    assert plane(y) == [[3, 3], [3, 3]]
    assert run(np.zeros((0, 4, 4, 1)), TAPS).shape == (0, 3, 3, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (3, 2)])
def test_non_finite_reaches_exactly_its_windows(bad, strides):
    options = {"strides": strides, "pads": ((2, 1), (1, 2)), "dil": (2, 1)}
    k = np.ones((3, 2, 2, 2))
    for row, column in itertools.product(range(5), range(6)):
        marker = np.zeros((1, 5, 6, 2))
        marker[0, row, column, 1] = 1
        x = marker.copy()
        x[marker == 1] = bad
        expected = run(marker, k, **options) != 0
        np.testing.assert_array_equal(~np.isfinite(run(x, k, **options)), expected)


def test_infinite_tap_over_padding_is_skipped():
    k = np.ones((3, 3, 1, 1))
    k[0, 0] = np.inf
    y = run(np.ones((1, 3, 3, 1)), k, pads="same")
    assert np.isinf(y[0, 1:, 1:]).all()
    assert np.isfinite(y[0, 0]).all()
    assert np.isfinite(y[0, :, 0]).all()


def test_layouts_and_strided_views_agree():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 7, 8, 6))[:, ::-1, :, ::2]
    k = rng.standard_normal((3, 2, 3, 2))
    bias = rng.standard_normal(6)
    options = ((2, 1), ((1, 2), (0, 1)), (1, 2))
    last = run(x, k, bias, ("gelu", 0.0), *options)
    g = make_geometry((2, 3, 7, 8), k.shape, *options, True)
    big = np.full((2, 12, *g.output_shape[2:]), 7.0)
    out = big[:, ::2]
    reference.forward(x.transpose(0, 3, 1, 2), k, bias, "gelu", 0.0, g, out)
    np.testing.assert_array_equal(out.transpose(0, 2, 3, 1), last)
    assert (big[:, 1::2] == 7).all()


def test_scipy_signal_agrees():
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(2)
    x, k = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((3, 4, 3, 2))
    y = run(x, k)
    for n, c, q in itertools.product(range(2), range(3), range(2)):
        expected = signal.correlate2d(x[n, :, :, c], k[:, :, c, q], "valid")
        np.testing.assert_allclose(y[n, :, :, 2 * c + q], expected, rtol=0, atol=1e-13)


def test_scipy_ndimage_agrees_on_same():
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(3)
    x, k = rng.standard_normal((1, 6, 7, 2)), rng.standard_normal((5, 3, 2, 1))
    y = run(x, k, pads="same")
    for c in range(2):
        expected = ndimage.correlate(x[0, :, :, c], k[:, :, c, 0], mode="constant")
        np.testing.assert_allclose(y[0, :, :, c], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
@pytest.mark.parametrize("pad", [(0, 0), (4, 1)])
@pytest.mark.parametrize("m", [1, 3])
def test_torch_agrees(strides, dilation, pad, m):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    x, k = rng.standard_normal((2, 9, 11, 4)), rng.standard_normal((3, 2, 4, m))
    bias = rng.standard_normal(4 * m)
    pads = ((pad[0], pad[0]), (pad[1], pad[1]))
    y = run(x, k, bias, ("linear", 0.0), strides, pads, dilation)
    weight = k.transpose(2, 3, 0, 1).reshape(4 * m, 1, 3, 2)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2)),
        torch.from_numpy(weight),
        torch.from_numpy(bias),
        strides,
        pad,
        dilation,
        groups=4,
    )
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(40))
def test_every_geometry_against_the_five_loops(seed):
    rng = np.random.default_rng(seed)
    n, c, m, kh, kw = (int(v) for v in rng.integers(1, 5, 5))
    h, w = (int(v) for v in rng.integers(3, 7, 2))
    sh, sw, dh, dw = (int(v) for v in rng.integers(1, 4, 4))
    need = ((kh - 1) * dh, (kw - 1) * dw)
    pads = tuple(
        tuple(int(v) for v in rng.integers(0, 4, 2) + -(-max(k - size + 1, 0) // 2))
        for k, size in zip(need, (h, w), strict=True)
    )
    x, k = rng.standard_normal((n, h, w, c)), rng.standard_normal((kh, kw, c, m))
    y = run(x, k, None, ("linear", 0.0), (sh, sw), pads, (dh, dw))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    expected = np.zeros_like(y)
    for r, s, i, j, q in np.ndindex(y.shape[1], y.shape[2], kh, kw, m):
        pixel = padded[:, r * sh + i * dh, s * sw + j * dw, :]
        expected[:, r, s, q::m] += pixel * k[i, j, :, q]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)


def taps_of(w_grad):
    return w_grad[:, :, 0, 0].tolist()


def test_gradients_by_hand():
    # Each output sends its gradient times the taps to the pixels of its window, and
    # times those pixels to the taps: 1*1 + 10*2 + 100*4 + 1000*5 = 5421, and so on.
    grad = image([[1, 10], [100, 1000]])
    x_grad, w_grad, b_grad = back(SQUARE, TAPS, grad)
    assert plane(x_grad) == [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    assert taps_of(w_grad) == [[5421, 6532], [8754, 9865]]
    assert b_grad.tolist() == [1111]


def test_gradients_with_stride_and_padding_by_hand():
    # Windows at rows and columns -1 and 1: one pixel, two, two and four of them.
    grad = image([[1, 10], [100, 1000]])
    pads = ((1, 0), (1, 0))
    x_grad, w_grad, b_grad = back(SQUARE, TAPS, grad, strides=(2, 2), pads=pads)
    assert plane(x_grad) == [[4, 30, 40], [200, 1000, 2000], [400, 3000, 4000]]
    assert taps_of(w_grad) == [[5000, 6400], [8020, 9731]]
    assert b_grad.tolist() == [1111]


def test_pixels_that_no_window_reads_have_no_gradient():
    grad = image([[1.0]])
    x_grad, w_grad, _ = back(SQUARE, TAPS, grad, strides=(2, 2))
    assert plane(x_grad) == [[1, 2, 0], [3, 4, 0], [0, 0, 0]]
    assert taps_of(w_grad) == [[1, 2], [4, 5]]


def test_gradients_of_a_multiplier_add_up_by_hand():
    x = np.array([2.0, 3.0]).reshape(1, 1, 1, 2)
    k = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 1, 2, 2)
    grad = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    x_grad, w_grad, b_grad = back(x, k, grad)
    assert x_grad.ravel().tolist() == [21, 4300]
    assert w_grad.ravel().tolist() == [2, 4, 9, 12]
    assert b_grad.tolist() == [1, 2, 3, 4]


def test_gradients_through_an_activation_by_hand():
    # Before the activation: -5 + 2, 1 + 2 and, at the kink, -2 + 2.
    x = np.array([-5.0, 1.0, -2.0]).reshape(1, 1, 3, 1)
    k, bias = np.ones((1, 1, 1, 1)), np.array([2.0])
    grad = np.array([10.0, 100.0, 1000.0]).reshape(x.shape)
    x_grad, w_grad, b_grad = back(x, k, grad, bias, ("relu", 0.0))
    assert x_grad.ravel().tolist() == [0, 100, 0]
    assert (w_grad.item(), b_grad.item()) == (100, 100)
    x_grad, w_grad, b_grad = back(x, k, grad, bias, ("leaky_relu", 0.5))
    assert x_grad.ravel().tolist() == [5, 100, 500]
    assert (w_grad.item(), b_grad.item()) == (-25 + 100 - 1000, 605)


def test_gradient_sums_are_float64_and_rounded_once():
    x = np.array([1e8, 1.0, -1e8], np.float32).reshape(1, 1, 3, 1)
    ones = np.ones_like(x)
    _, w_grad, b_grad = back(x, np.ones((1, 1, 1, 1), np.float32), ones)
    assert (w_grad.item(), b_grad.item()) == (1, 3)
    x_grad, _, _ = back(ones, x.reshape(1, 3, 1, 1), ones, pads="same")
    assert x_grad[0, 0, 1, 0] == 1
    assert back(ones, np.ones((1, 1, 1, 1), np.float32), x)[2].item() == 1


def test_gradients_that_are_not_wanted_need_nothing():
    grad = image([[1, 10], [100, 1000]])
    right = back(SQUARE, TAPS, grad)
    g = make_geometry(SQUARE.shape, TAPS.shape, ONES, "valid", ONES, False)
    x_grad, w_grad = np.empty_like(SQUARE), np.empty_like(TAPS)
    act = "linear", 0.0
    reference.gradients(None, TAPS, None, grad, *act, g, x_grad, None, None)
    reference.gradients(SQUARE, None, None, grad, *act, g, None, w_grad, None)
    np.testing.assert_array_equal(x_grad, right[0])
    np.testing.assert_array_equal(w_grad, right[1])


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (3, 2)])
def test_non_finite_gradients_reach_exactly_what_they_meet(strides):
    options = {"strides": strides, "pads": ((2, 1), (1, 2))}
    x, k = np.ones((1, 5, 6, 1)), np.ones((3, 2, 1, 1))
    shape = run(x, k, **options).shape
    for at in np.ndindex(shape):
        grad = np.zeros(shape)
        grad[at] = 1
        expected = [result != 0 for result in back(x, k, grad, **options)]
        grad[at] = np.nan
        for result, hit in zip(back(x, k, grad, **options), expected, strict=True):
            np.testing.assert_array_equal(np.isnan(result), hit)
