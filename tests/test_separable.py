"""Separable convolution: one pass or two, gradients, messages."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import numbadw as ndw
from numbadw import dispatch
from numbadw.calls import Calls
from numbadw.cpu.separable import SCRATCH_BYTES, cut
from numbadw.geometry import make_geometry

# (shape, kernel, M, F, options): several bands, one, images of one band, dilation.
LARGE = ((1, 80, 81, 48), (3, 3), 1, 40, {"padding": "same"})
CASES = [
    LARGE,
    ((2, 70, 61, 64), (3, 3), 1, 70, {"padding": "same", "strides": 2}),
    ((3, 64, 64, 24), (5, 4), 2, 19, {"padding": ((4, 2), (0, 3)), "dilation_rate": 2}),
    ((1, 130, 96, 33), (7, 1), 1, 9, {"strides": (1, 2)}),
    ((9, 30, 31, 40), (3, 3), 1, 8, {"padding": "same"}),
    ((1, 9, 8, 5), (3, 3), 1, 4, {}),
    ((1, 70, 64, 32), (3, 3), 1, 8, {"padding": 40}),
]
NAMES = (
    "inputs_grad",
    "depthwise_kernel_grad",
    "pointwise_kernel_grad",
    "depthwise_bias_grad",
    "bias_grad",
)


@pytest.fixture(autouse=True)
def by_bands(monkeypatch):
    """Cut images of any size into bands, not only those where that pays."""
    monkeypatch.setattr("numbadw.cpu.separable.LEAST_BYTES", 0)
    dispatch.bind_separable.cache_clear()
    monkeypatch.setattr("numbadw.separable._calls", Calls())
    yield
    dispatch.bind_separable.cache_clear()


def draw(rng, case, first=False, dtype=np.float32):
    """Draw the five arrays of a call and what it is called with."""
    shape, kernel, m, f, options = case
    c = shape[3]
    if first:
        shape = (shape[0], c, *shape[1:3])
        options = {**options, "data_format": "channels_first"}
    shapes = shape, (*kernel, c, m), (1, 1, c * m, f), (f,), (c * m,)
    arrays = [rng.standard_normal(size).astype(dtype) for size in shapes]
    return arrays, options


def call(arrays, options, function=ndw.separable_conv2d, **more):
    x, dk, pk, b, db = arrays
    return function(x, dk, pk, bias=b, depthwise_bias=db, **options, **more)


def one_after_the_other(arrays, options, first, second):
    x, dk, pk, b, db = arrays
    layout = {"data_format": options.get("data_format", "channels_last")}
    middle = ndw.depthwise_conv2d(x, dk, db, activation=first, **options)
    return ndw.pointwise_conv2d(middle, pk, b, activation=second, **layout)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_the_bits_of_the_two(case, first, rng):
    arrays, options = draw(rng, case, first)
    for names in ((None, None), ("relu6", None), ("silu", "relu")):
        more = {"depthwise_activation": names[0], "activation": names[1]}
        right = one_after_the_other(arrays, options, *names)
        for _ in range(2):  # checked, then known
            assert_array_equal(call(arrays, options, **more), right)
        out = np.full_like(right, np.nan)
        assert call(arrays, options, out=out, **more) is out
        assert_array_equal(out, right)


def test_bands_are_cut_as_meant():
    def bands(case):
        shape, kernel, m, _, options = case
        given = {"strides": 1, "dilation_rate": 1, "padding": "valid", **options}
        steps = [
            s if isinstance(s, tuple) else (s, s)
            for s in (given["strides"], given["dilation_rate"])
        ]
        pads = given["padding"]
        pads = ((pads, pads),) * 2 if isinstance(pads, int) else pads
        size = (*kernel, shape[3], m)
        g = make_geometry(shape, size, steps[0], pads, steps[1], False)
        return g, cut(g, 4)

    for case in CASES[:5]:
        g, found = bands(case)
        assert g.n * len(found) > 3
        assert sum(band.outputs for *_, band in found) == g.oh
        for *_, band in found:
            assert band.outputs * g.ow * g.out_channels * 4 <= SCRATCH_BYTES
    for case in CASES[5:]:
        assert bands(case)[1] == []


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_gradients(case, first, rng):
    arrays, options = draw(rng, case, first)
    names = {"depthwise_activation": "silu", "activation": "leaky_relu"}
    grad = rng.standard_normal(call(arrays, options).shape).astype(np.float32)

    def gradients(arrays, grad, backend):
        return call(
            arrays,
            options,
            ndw.separable_conv2d_grad,
            grad=grad,
            backend=backend,
            **names,
        )

    results = gradients(arrays, grad, "cpu")
    wide = [array.astype(np.float64) for array in arrays]
    rights = gradients(wide, grad.astype(np.float64), "reference")
    for name, result, right in zip(NAMES, results, rights, strict=True):
        assert result.dtype == np.float32
        assert result.shape == right.shape
        # A few values beside the kink fall on its other side.
        far = abs(result - right) > 2e-4 * abs(right).max()
        assert far.mean() < 1e-3, name


def test_gradients_by_finite_differences(rng):
    case = ((2, 5, 4, 3), (3, 2), 2, 4, {"padding": "same", "strides": (1, 2)})
    arrays, options = draw(rng, case, dtype=np.float64)
    names = {"depthwise_activation": "tanh", "activation": "sigmoid"}
    grad = rng.standard_normal(call(arrays, options).shape)
    results = call(arrays, options, ndw.separable_conv2d_grad, grad=grad, **names)
    order = results[0], results[1], results[2], results[4], results[3]
    for array, result in zip(arrays, order, strict=True):
        step = rng.standard_normal(array.shape)
        sides = []
        for sign in (1, -1):
            array += sign * 1e-6 * step
            sides.append((grad * call(arrays, options, **names)).sum())
            array -= sign * 1e-6 * step
        slope = (sides[0] - sides[1]) / 2e-6
        assert_allclose((result * step).sum(), slope, rtol=1e-5)


def test_many_images_go_through_in_parts(rng, monkeypatch):
    monkeypatch.setattr("numbadw.separable.BAND_BYTES", 1)
    arrays, options = draw(rng, ((3, 6, 7, 5), (3, 3), 1, 4, {}))
    grad = rng.standard_normal((3, 4, 5, 4)).astype("f4")
    parts = call(arrays, options, ndw.separable_conv2d_grad, grad=grad)
    monkeypatch.undo()
    whole = call(arrays, options, ndw.separable_conv2d_grad, grad=grad)
    for part, one in zip(parts, whole, strict=True):
        assert_allclose(part, one, rtol=1e-4, atol=1e-5)


def test_small_images_go_one_after_the_other(monkeypatch, rng):
    g = make_geometry((1, 80, 81, 48), (3, 3, 48, 1), (1, 1), "same", (1, 1), False)
    assert cut(g, 4)
    monkeypatch.undo()
    assert cut(g, 4) == []


def test_the_same_bits_for_any_number_of_threads(rng):
    arrays, options = draw(rng, LARGE)
    grad = rng.standard_normal(call(arrays, options).shape).astype("f4")

    def run():
        grads = call(arrays, options, ndw.separable_conv2d_grad, grad=grad)
        return call(arrays, options), *grads

    with ndw.num_threads(1):
        alone = run()
    for one, other in zip(alone, run(), strict=True):
        assert_array_equal(one, other)


def test_arrays_of_any_strides(rng):
    arrays, options = draw(rng, LARGE)
    right = call(arrays, options)
    x = np.repeat(np.repeat(arrays[0], 2, 2), 2, 3)[:, :, ::2, ::2]
    assert_array_equal(call([x, *arrays[1:]], options), right)
    out = np.full((1, 80, 81, 80), 7.5, np.float32)
    call(arrays, options, out=out[..., ::2])
    assert_array_equal(out[..., ::2], right)
    assert (out[..., 1::2] == 7.5).all()


def test_an_empty_batch():
    x, dk, pk = (
        np.zeros((0, 6, 6, 3), "f4"),
        np.ones((3, 3, 3, 1), "f4"),
        np.ones((3, 2), "f4"),
    )
    assert ndw.separable_conv2d(x, dk, pk).shape == (0, 4, 4, 2)
    grads = ndw.separable_conv2d_grad(x, dk, pk, np.zeros((0, 4, 4, 2), "f4"))
    assert [g.shape for g in grads] == [(0, 6, 6, 3), (3, 3, 3, 1), (3, 2), (3,), (2,)]
    assert not any(g.any() for g in grads)


X, DK = np.ones((1, 6, 7, 4), np.float32), np.ones((3, 3, 4, 2), np.float32)
PK = np.ones((1, 1, 8, 5), np.float32)
WRONG = [
    ({"inputs": X[0]}, ValueError, "inputs must have 4 dimensions"),
    ({"depthwise_kernel": DK[0]}, ValueError, "depthwise_kernel must have 4 dim"),
    ({"depthwise_kernel": DK[:, :, :3]}, ValueError, "depthwise_kernel must have as"),
    ({"pointwise_kernel": PK[:, :, :4]}, ValueError, "pointwise_kernel .* C = 8"),
    ({"pointwise_kernel": PK.astype("f8")}, TypeError, "pointwise_kernel must be"),
    ({"bias": np.ones(8, "f4")}, ValueError, r"bias must have shape \(F,\) = \(5,\)"),
    ({"depthwise_bias": np.ones(5, "f4")}, ValueError, "depthwise_bias must have"),
    ({"depthwise_activation": 3}, TypeError, "depthwise_activation must be"),
    ({"activation": "x"}, ValueError, "activation must be"),
    ({"strides": 0}, ValueError, "strides"),
    ({"padding": "full"}, ValueError, "padding"),
    ({"data_format": 1}, TypeError, "data_format"),
    ({"backend": "gpu"}, ValueError, "backend"),
    ({"out": X}, ValueError, "out must have shape"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=str)
def test_wrong_arguments(change, error, message):
    given = {"inputs": X, "depthwise_kernel": DK, "pointwise_kernel": PK, **change}
    with pytest.raises(error, match=message):
        ndw.separable_conv2d(**given)
    if "out" not in change:
        with pytest.raises(error, match=message):
            ndw.separable_conv2d_grad(**given, grad=np.ones((1, 4, 5, 5), "f4"))


def test_a_wrong_grad_and_an_out_that_overlaps(rng):
    with pytest.raises(ValueError, match=r"grad must have .* \(1, 4, 5, 5\)"):
        ndw.separable_conv2d_grad(X, DK, PK, X)
    arrays, options = draw(rng, ((1, 8, 8, 5), (1, 1), 1, 5, {}))
    for _ in range(2):
        with pytest.raises(ValueError, match="out must not overlap inputs"):
            call(arrays, options, out=arrays[0])
