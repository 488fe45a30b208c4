"""The gradients on every backend: values, non-finite ones, bits."""

import itertools

import numpy as np
import pytest
from cases import FORMS, PADDINGS, Case, grid, reference
from gradient_cases import FEW, MANY, assert_gradients_close, check_gradients, draw

import numbadw as ndw
from numbadw import activations

ACTIVATIONS = [*activations.ACTIVATIONS, ("leaky_relu", 0.1), ("elu", 2.0)]
# One of every kind of call.
KINDS = {
    "3x3": Case(9, 14, MANY, n=2),
    "few channels": Case(9, 30, FEW, n=2),
    "one channel": Case(12, 40, 1),
    "stride 2": Case(10, 15, MANY, strides=(2, 2), n=2),
    "stride 3 beyond the kernel": Case(11, 13, 5, 1, (2, 2), (3, 3)),
    "unequal strides": Case(10, 13, MANY, strides=(1, 2)),
    "unequal dilation": Case(13, 17, 5, dilation=(1, 3)),
    "stride and dilation": Case(15, 16, MANY, 1, (3, 3), (2, 2), "same", (2, 2)),
    "coprime stride and dilation": Case(15, 17, 5, 1, (3, 3), (2, 3), 3, (3, 2)),
    "multiplier 2": Case(9, 11, MANY, 2),
    "multiplier 3": Case(9, 11, 5, 3, strides=(2, 2)),
    "multiplier 8": Case(8, 9, 6, 8),
    "5x5": Case(12, 16, MANY, 1, (5, 5)),
    "5x5 stride 2": Case(13, 16, MANY, 1, (5, 5), (2, 2)),
    "7x7": Case(14, 16, MANY, 1, (7, 7)),
    "even": Case(9, 10, MANY, 1, (2, 4)),
    "1x5": Case(5, 16, MANY, 1, (1, 5)),
    "1x1": Case(5, 7, MANY, 1, (1, 1)),
    "larger than the image": Case(4, 5, MANY, 1, (9, 9)),
    "wide": Case(9, 40, 5, 1, FORMS["wide"][0]),
}
TINY = Case(7, 8, 2, 2, padding=2, dtype="float64")


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, backend, rng):
    check_gradients(KINDS[kind], rng, backend=backend)


@pytest.mark.parametrize(
    "kind",
    [
        "3x3",
        "few channels",
        "one channel",
        "stride 2",
        "coprime stride and dilation",
        "multiplier 3",
        "5x5",
        "wide",
    ],
)
def test_kinds_channels_first(kind, backend, rng):
    check_gradients(KINDS[kind]._replace(first=True), rng, backend=backend)


@pytest.mark.parametrize("kind", ["3x3", "few channels", "multiplier 2"])
def test_kinds_in_float64(kind, backend, rng):
    check_gradients(KINDS[kind]._replace(dtype="float64"), rng, backend=backend)


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("form", ["3x3", "3x3s2", "5x5"])
def test_sizes_around_those_of_the_tiles(form, first, rng):
    for case in itertools.islice(grid(form, "float32", first), 0, None, 5):
        check_gradients(case, rng)


@pytest.mark.parametrize(
    "padding", ["valid", "same", 1, (0, 2), *PADDINGS, ((5, 4), (6, 7))], ids=str
)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_paddings(padding, strides, backend, rng):
    for c, first in itertools.product((FEW, MANY), (False, True)):
        case = Case(7, 9, c, 1, (3, 3), strides, padding, first=first, n=2)
        check_gradients(case, rng, backend=backend)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation, backend, rng):
    check_gradients(Case(6, 9, MANY, n=2), rng, activation, backend)


@pytest.mark.parametrize("kind", ["few channels", "stride 2", "multiplier 2"])
def test_activations_of_other_kinds(kind, backend, rng):
    for first in (False, True):
        check_gradients(KINDS[kind]._replace(first=first), rng, "gelu", backend)


@pytest.mark.parametrize(
    ("activation", "backend"),
    [
        *[(activation, "reference") for activation in ACTIVATIONS],
        # Of the CPU's, float32 stands for the others: see `test_activations`.
        *[(activation, "cpu") for activation in (None, "gelu", ("elu", 2.0))],
    ],
    ids=str,
)
def test_finite_differences(activation, backend, rng):
    case = TINY._replace(h=4, w=3)
    x, w, b, g = draw(case, rng)
    options = {**case.options, "activation": activation}
    results = ndw.depthwise_conv2d_grad(x, w, g, bias=b, backend=backend, **options)
    step = 1e-5
    for array, result in zip((x, w, b), results, strict=True):
        for at in np.ndindex(array.shape):
            value, ends = array[at], []
            for array[at] in (value + step, value - step):
                ends.append((g * reference(x, w, b, **options)).sum())
            array[at] = value
            # The third derivative times step ** 2, and rounding over the step.
            assert abs((ends[0] - ends[1]) / (2 * step) - result[at]) < 1e-8


LARGE = {
    "3x3": Case(56, 57, 40, n=2),
    "stride and dilation": Case(57, 60, 33, 1, (3, 3), (2, 2), "same", (2, 2)),
    "unequal strides": Case(60, 61, 35, 1, (3, 3), (1, 2), ((2, 1), (0, 3)), n=2),
    "multiplier 2": Case(40, 41, 19, 2),
    "multiplier 3": Case(40, 41, 19, 3, strides=(2, 2)),
    "multiplier 8": Case(33, 34, 7, 8, padding="valid"),
    "7x7": Case(40, 43, 35, 1, (7, 7)),
    "image": Case(130, 151, 3, 1, (5, 5), n=2),
}


@pytest.mark.parametrize(
    ("name", "first", "dtype"),
    [
        *itertools.product(LARGE, (False, True), ["float32"]),
        *itertools.product(["3x3", "multiplier 2", "image"], [False], ["float64"]),
    ],
)
def test_adjoint_identity(name, first, dtype, backend, rng):
    # <grad, conv(x)> = <input_grad, x> = <kernel_grad, w>: no oracle but the forward.
    case = LARGE[name]._replace(first=first, dtype=dtype)
    x, w, _, g = draw(case, rng)
    options = {**case.options, "backend": backend}
    y = reference(x, w, **case.options)
    x_grad = ndw.depthwise_conv2d_input_grad(g, w, x.shape, **options)
    w_grad = ndw.depthwise_conv2d_kernel_grad(x, g, w.shape, **options)
    pairs = (g, y), (x_grad, x), (w_grad, w)
    products = [np.sum(a.astype(np.float64) * b) for a, b in pairs]
    sizes = reference(np.abs(x), np.abs(w), **case.options)
    total = np.sum(np.abs(g, dtype=np.float64) * sizes)
    taps, outputs = w[:, :, 0, 0].size, y.size / y.shape[1 if first else 3]
    for product, terms in zip(products[1:], (taps * case.m, outputs), strict=True):
        bound = 4 * np.finfo(dtype).eps * np.sqrt(terms) * total
        assert abs(product - products[0]) < bound


@pytest.mark.parametrize(
    ("case", "activation", "backend"),
    [
        *itertools.product(
            [KINDS["3x3"], KINDS["coprime stride and dilation"]],
            [None],
            ["cpu", "reference"],
        ),
        (TINY, "gelu", "cpu"),
        *[(TINY, name, "reference") for name in ACTIVATIONS[1:-2]],
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_torch_agrees(case, activation, backend, rng):
    torch = pytest.importorskip("torch")
    case = case._replace(dtype="float64", padding=2)
    x, w, b, g = draw(case, rng)
    leaves = [
        torch.tensor(array, requires_grad=True)
        for array in (x.transpose(0, 3, 1, 2), ndw.kernel_to_torch(w), b)
    ]
    y = torch.nn.functional.conv2d(
        *leaves, case.strides, case.padding, case.dilation, groups=case.c
    )
    names = {"hard_sigmoid": "hardsigmoid", "hard_silu": "hardswish"}
    slope = (0.2,) if activation == "leaky_relu" else ()
    if activation is not None:
        function = names.get(activation, activation)
        y = getattr(torch.nn.functional, function)(y, *slope)
    y.backward(torch.tensor(g.transpose(0, 3, 1, 2)))
    x_grad, w_grad, b_grad = ndw.depthwise_conv2d_grad(
        x, w, g, bias=b, activation=activation, backend=backend, **case.options
    )
    results = x_grad.transpose(0, 3, 1, 2), ndw.kernel_to_torch(w_grad), b_grad
    # PyTorch's sixths are float32.
    atol = 1e-5 if activation in names else 1e-12
    for result, leaf in zip(results, leaves, strict=True):
        np.testing.assert_allclose(result, leaf.grad.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_without_images_or_pixels(activation, first, backend, rng):
    for c, m in ((1, 1), (FEW, 2), (MANY, 1)):
        case = Case(5, 6, c, m, first=first, n=0)
        x_grad, w_grad, b_grad = check_gradients(case, rng, activation, backend)
        assert x_grad.size == 0
        assert not w_grad.any()
        assert not b_grad.any()
        for h, w in ((0, 6), (5, 0), (0, 0)):
            case = Case(h, w, c, m, padding=2, first=first, n=2)
            check_gradients(case, rng, activation, backend)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "kind",
    [
        "3x3",
        "few channels",
        "one channel",
        "stride 2",
        "stride and dilation",
        "multiplier 2",
        "5x5",
        "larger than the image",
    ],
)
def test_non_finite_values_reach_only_what_they_meet(kind, bad, backend, rng):
    for first in (False, True):
        case = KINDS[kind]._replace(first=first)
        x, k, _, g = draw(case, rng)
        options = {**case.options, "backend": backend}
        clean = ndw.depthwise_conv2d_grad(x, k, g, **options)
        for name, corner in itertools.product("xg", (False, True)):
            arrays = {"x": x.copy(), "g": g.copy()}
            size = arrays[name].shape
            arrays[name][(0,) * 4 if corner else tuple(rng.integers(0, size))] = bad
            results = ndw.depthwise_conv2d_grad(arrays["x"], k, arrays["g"], **options)
            assert_gradients_close(results, arrays["x"], k, arrays["g"], **case.options)
            for result, before in zip(results, clean, strict=True):
                finite = np.isfinite(result)
                np.testing.assert_array_equal(result[finite], before[finite])


def test_infinite_weights_and_biases_stay_in_their_channel(backend, rng):
    for c in (FEW, MANY):
        x, k, b, g = draw(Case(6, 9, c, padding="valid"), rng)
        options = {"activation": "gelu", "bias": b, "backend": backend}
        clean = ndw.depthwise_conv2d_grad(x, k, g, **options)
        k[1, 1, 1], b[2] = np.inf, np.nan
        results = ndw.depthwise_conv2d_grad(x, k, g, **options)
        others = ~np.isin(np.arange(c), (1, 2))
        for result, before, axis in zip(results, clean, (3, 2, 0), strict=True):
            kept, was = (array.compress(others, axis) for array in (result, before))
            np.testing.assert_array_equal(kept, was)
        assert np.isnan(results[2][2])


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("name", LARGE)
def test_the_same_bits_for_any_number_of_threads_and_on_every_run(name, first, rng):
    case = LARGE[name]._replace(first=first)
    x, k, b, g = draw(case, rng)
    activation = "gelu" if name == "3x3" else None

    def run():
        return ndw.depthwise_conv2d_grad(
            x, k, g, bias=b, activation=activation, **case.options
        )

    with ndw.num_threads(1):
        serial = run()
    for _ in range(3):
        for result, one in zip(run(), serial, strict=True):
            np.testing.assert_array_equal(result, one)


def test_long_sums_stay_in_the_bound(backend):
    # A constant image drifts most: every partial sum is rounded the same way.
    x, g = np.full((4, 160, 160, 2), 0.1, "f4"), np.full((4, 160, 160, 2), 0.3, "f4")
    k = np.full((3, 3, 2, 1), 0.7, "f4")
    results = ndw.depthwise_conv2d_grad(x, k, g, padding="same", backend=backend)
    assert_gradients_close(results, x, k, g, padding="same")
