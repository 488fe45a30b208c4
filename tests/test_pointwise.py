"""Pointwise convolution and its gradients: values, bits, layouts, messages."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import numbadw as ndw
from numbadw import jit
from numbadw.cpu.plan_pointwise import ABREAST, HEIGHTS, choose_tiles
from numbadw.cpu.pointwise import DEPTH

LANES = jit.target().vector_bytes // 4
HEIGHT = HEIGHTS[32 if jit.target().registers >= 32 else 16]
WIDEST = max(HEIGHT) * LANES
# (N, H, W, C, F): every height and width of tile, one off each, and blocks of terms.
SHAPES = [
    *((1, 1, h + d, 5, w * LANES) for w, h in HEIGHT.items() for d in (-1, 0, 1)),
    *((1, 2, 5, 7, f) for f in (1, LANES - 1, LANES + 1, WIDEST - 1, WIDEST + 1)),
    *((2, 3, 3, c, 20) for c in (1, 3, DEPTH - 1, DEPTH, DEPTH + 1, 2 * DEPTH + 3)),
    (3, 7, 7, 64, 2 * WIDEST),
    # One pixel: panels side by side, as many as its tile takes, fewer and more.
    *((1, 1, 1, DEPTH + 7, p * 2 * LANES) for p in (1, 2, ABREAST, ABREAST + 1)),
    *((1, 1, 1, 9, 2 * ABREAST * 3 * LANES + d) for d in (-LANES, -1, 0, 1)),
    (1, 1, 1, 1, 1),
    (2, 30, 31, 16, 24),
]
NAMES = ("inputs_grad", "kernel_grad", "bias_grad")


def draw(rng, shape, first, dtype=np.float32):
    n, h, w, c, f = shape
    x, g = ((n, h, w, c), (n, h, w, f)) if not first else ((n, c, h, w), (n, f, h, w))
    return [rng.standard_normal(s).astype(dtype) for s in (x, (c, f), (f,), g)]


def check(rng, shape, first=False, activation=None, dtype=np.float32, view=None):
    """Compare a call and its gradients with the float64 oracle."""
    x, k, b, g = draw(rng, shape, first, dtype)
    if view is not None:
        x, g = view(x), view(g)
    options = {
        "data_format": "channels_first" if first else "channels_last",
        "activation": activation,
    }
    wide = [a.astype(np.float64) for a in (x, k, b, g)]
    y = ndw.pointwise_conv2d(x, k, b, **options)
    right = ndw.pointwise_conv2d(*wide[:3], backend="reference", **options)
    assert y.dtype == dtype
    assert y.shape == right.shape
    # Activations change errors by little more than a factor of one.
    eps = 8 * np.finfo(dtype).eps
    axis = 1 if first else 3
    size = (abs(x).sum(axis, keepdims=True) + 1) * abs(k).max() + abs(b).max()
    assert (abs(y - right) <= eps * np.sqrt(shape[3]) * size).all()
    results = ndw.pointwise_conv2d_grad(x, k, g, bias=b, **options)
    rights = ndw.pointwise_conv2d_grad(
        *wide[:2], wide[3], bias=wide[2], backend="reference", **options
    )
    for name, result, answer in zip(NAMES, results, rights, strict=True):
        assert result.dtype == dtype
        assert result.shape == answer.shape
        room = 50 * eps * max(1, abs(answer).max())
        assert_allclose(result, answer, rtol=0, atol=room, err_msg=name)


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_tile(shape, first, rng):
    check(rng, shape, first)


@pytest.mark.parametrize("name", ["relu", "gelu", ("leaky_relu", 0.1)], ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_activations(name, first, rng):
    # A band of one column, as of many.
    check(rng, (2, 3, 5, 6, 9), first, name)
    check(rng, (2, 3, 1, 6, 9), first, name)


def test_one_pixel_has_the_bits_of_many(rng):
    """Whatever tile it comes in: the one of a row, or of many."""
    x, k, b, _ = draw(rng, (1, 3, 5, DEPTH + 3, 11 * LANES + 5), False)
    for options in ({}, {"activation": "silu"}):
        right = ndw.pointwise_conv2d(x, k, b, **options)
        prepared = ndw.prepare_pointwise_conv2d(k, b, **options)
        for i, j in np.ndindex(3, 5):
            pixel = x[:, i : i + 1, j : j + 1]
            for threads in (1, 2, 3):
                with ndw.num_threads(threads):
                    for result in (
                        ndw.pointwise_conv2d(pixel, k, b, **options),
                        prepared(pixel),
                    ):
                        assert_array_equal(result[0, 0, 0], right[0, i, j])


def test_float64(rng):
    for first in (False, True):
        check(rng, (2, 5, 6, DEPTH + 1, 19), first, "silu", np.float64)


def gaps(*axes):
    def view(array):
        for axis in axes:
            array = np.repeat(array, 2, axis)
        index = tuple(slice(None, None, 2 if i in axes else 1) for i in range(4))
        return array[index]

    return view


VIEWS = {
    "rows": gaps(1),
    "columns": gaps(2),
    "channels": gaps(3),
    "everywhere": gaps(0, 1, 2, 3),
    "reversed": lambda a: a[::-1, ::-1, ::-1, ::-1],
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.transpose(0, 2, 1, 3)).transpose(
        0, 2, 1, 3
    ),
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_arrays_of_any_strides(view, first, rng):
    check(rng, (2, 4, 5, 6, 21), first, None, view=view)
    check(rng, (2, 4, 5, 6, 21), first, "relu", view=view)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_out_of_any_strides(view, first, rng):
    x, k, b, g = draw(rng, (2, 4, 5, 300, 21), first)
    options = {"data_format": "channels_first" if first else "channels_last"}
    out = view(g)
    if not out.dtype.isnative or 0 in out.strides:
        message = "dtype float32 in native" if out.dtype != g.dtype else "writable"
        with pytest.raises((TypeError, ValueError), match=message):
            ndw.pointwise_conv2d(x, k, b, out=out, **options)
        return
    assert ndw.pointwise_conv2d(x, k, b, out=out, **options) is out
    assert_array_equal(out, ndw.pointwise_conv2d(x, k, b, **options))


def test_nothing_beside_out_is_touched(rng):
    for c, f, first in itertools.product((3, DEPTH + 5), (1, 7, 40), (False, True)):
        x, k, b, g = draw(rng, (2, 3, 5, c, f), first)
        around = np.full([size + 2 for size in g.shape], 7.5, np.float32)
        inner = (slice(1, -1),) * 4
        options = {"data_format": "channels_first" if first else "channels_last"}
        ndw.pointwise_conv2d(x, k, b, out=around[inner], **options)
        assert_array_equal(around[inner], ndw.pointwise_conv2d(x, k, b, **options))
        around[inner] = 7.5
        assert (around == 7.5).all()


def test_the_same_bits_for_any_number_of_threads_and_place(rng):
    x, k, b, g = draw(rng, (3, 29, 31, 300, 70), False)

    def run(some):
        y = ndw.pointwise_conv2d(some, k, b, activation="gelu")
        return y, *ndw.pointwise_conv2d_grad(x, k, g, bias=b, activation="gelu")

    with ndw.num_threads(1):
        alone = run(x)
    for one, other in zip(alone, run(x), strict=True):
        assert_array_equal(one, other)
    part = ndw.pointwise_conv2d(x[1:2, 3:17, 5:], k, b, activation="gelu")
    assert_array_equal(part, alone[0][1:2, 3:17, 5:])


def test_kernels_of_four_dimensions(rng):
    x, k, b, g = draw(rng, (2, 4, 5, 6, 7), False)
    four = k[None, None]
    assert_array_equal(ndw.pointwise_conv2d(x, four, b), ndw.pointwise_conv2d(x, k, b))
    for _ in range(2):  # checked anew, then known
        assert ndw.pointwise_conv2d(x, four[:, :, :, ::-1]).shape == g.shape
        assert ndw.pointwise_conv2d_grad(x, four, g)[1].shape == four.shape


def test_weights_that_change_count_at_the_next_call(rng):
    x, k, b, _ = draw(rng, (1, 4, 5, 6, 7), False)
    first = ndw.pointwise_conv2d(x, k, b)
    k *= 2
    b *= 2
    assert_array_equal(ndw.pointwise_conv2d(x, k, b), 2 * first)


def test_long_sums_stay_in_the_bound():
    for c, pixels in ((20_000, 3), (3, 300_000)):
        x = np.full((1, 1, pixels, c), np.float32(0.1))
        k = np.full((c, 5), np.float32(1.1))
        y = ndw.pointwise_conv2d(x, k)
        right = ndw.pointwise_conv2d(x.astype("f8"), k.astype("f8"))
        eps = 4 * np.finfo(np.float32).eps
        assert (abs(y - right) <= eps * np.sqrt(c) * right).all()
        results = ndw.pointwise_conv2d_grad(x, k, y)
        answers = ndw.pointwise_conv2d_grad(x.astype("f8"), k.astype("f8"), y)
        for result, answer in zip(results[1:], answers[1:], strict=True):
            assert (abs(result - answer) <= eps * np.sqrt(pixels) * answer).all()


def test_nan_reaches_its_own_pixel(rng):
    x, k, b, _ = draw(rng, (1, 5, 9, 20, 33), False)
    x[0, 2, 3, 7] = np.nan
    y = ndw.pointwise_conv2d(x, k, b)
    assert np.isnan(y[0, 2, 3]).all()
    assert np.isnan(y).sum() == 33


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_an_empty_batch(backend):
    x, k = np.zeros((0, 3, 3, 4), "f4"), np.ones((4, 5), "f4")
    assert ndw.pointwise_conv2d(x, k, backend=backend).shape == (0, 3, 3, 5)
    grads = ndw.pointwise_conv2d_grad(x, k, np.zeros((0, 3, 3, 5), "f4"))
    assert [g.shape for g in grads] == [(0, 3, 3, 4), (4, 5), (5,)]
    assert not grads[1].any()
    assert not grads[2].any()


X, K = np.ones((1, 3, 4, 6), np.float32), np.ones((6, 5), np.float32)
WRONG = [
    ({"inputs": X[0]}, ValueError, "inputs must have 4 dimensions"),
    ({"inputs": X.astype(int)}, TypeError, "inputs must be float32 or float64"),
    ({"inputs": [1]}, TypeError, "inputs must be a NumPy array"),
    ({"kernel": K[:5]}, ValueError, r"kernel must have shape .* with C = 6"),
    ({"kernel": K[None]}, ValueError, "kernel must have 4 dimensions"),
    ({"kernel": K[:, :0]}, ValueError, "F at least 1"),
    ({"kernel": np.ones((3, 3, 6, 5), "f4")}, ValueError, r"\(1, 1, C, F\)"),
    ({"kernel": K.astype("f8")}, TypeError, "kernel must be float32 as inputs"),
    ({"bias": np.ones(6, "f4")}, ValueError, r"bias must have shape \(F,\) = \(5,\)"),
    ({"activation": "rely"}, ValueError, "activation"),
    ({"data_format": "nhwc"}, ValueError, "data_format"),
    ({"data_format": "channels_first"}, ValueError, "with C = 3"),
    ({"backend": "gpu"}, ValueError, "backend"),
    ({"out": X}, ValueError, r"out must have shape \(1, 3, 4, 5\)"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=str)
def test_wrong_arguments(change, error, message):
    given = {"inputs": X, "kernel": K, **change}
    with pytest.raises(error, match=message):
        ndw.pointwise_conv2d(**given)
    if "out" not in change:
        with pytest.raises(error, match=message):
            ndw.pointwise_conv2d_grad(**given, grad=np.ones((1, 3, 4, 5), "f4"))


def test_a_wrong_grad():
    with pytest.raises(ValueError, match="grad must have the output's shape"):
        ndw.pointwise_conv2d_grad(X, K, X)


def test_an_out_that_overlaps(rng):
    k = np.ones((6, 6), np.float32)
    x = rng.standard_normal((1, 3, 4, 6)).astype("f4")
    for _ in range(2):
        with pytest.raises(ValueError, match="out must not overlap inputs"):
            ndw.pointwise_conv2d(x, k, out=x)
        both = rng.standard_normal((1, 3, 8, 6)).astype("f4")
        right = ndw.pointwise_conv2d(both[:, :, ::2], k)
        ndw.pointwise_conv2d(both[:, :, ::2], k, out=both[:, :, 1::2])
        assert_array_equal(both[:, :, 1::2], right)


def test_tiles_waste_least():
    widths = {choose_tiles(n * LANES, "f32", "linear")[0].width for n in (1, 2)}
    assert widths == {1, 2}
    for columns in range(1, 40 * LANES, 7):
        tile = choose_tiles(columns, "f32", "linear")[0]
        vectors = -(-columns // LANES)
        wide = [width for width in HEIGHT if width > 1 or vectors == 1]
        covered = [-(-vectors // width) * width for width in wide]
        assert -(-vectors // tile.width) * tile.width == min(covered)
        assert tile.kh == HEIGHT[tile.width]


def test_torch_agrees(rng):
    torch = pytest.importorskip("torch", reason="an outside witness")
    x, k, b, g = draw(rng, (2, 9, 11, 30, 50), True)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, k.T.copy(), b)]
    y = torch.nn.functional.conv2d(tensors[0], tensors[1][..., None, None], tensors[2])
    y = torch.relu(y)
    y.backward(torch.from_numpy(g))
    options = {"activation": "relu", "data_format": "channels_first"}
    result = ndw.pointwise_conv2d(x, k, b, **options)
    assert_allclose(result, y.detach().numpy(), rtol=1e-4, atol=1e-4)
    results = ndw.pointwise_conv2d_grad(x, k, g, bias=b, **options)
    right = [tensors[0].grad, tensors[1].grad.T, tensors[2].grad]
    for one, other in zip(results, right, strict=True):
        assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-3)
