"""Sequences on every backend: values, layouts, arrays of every kind, bits."""

import itertools

import numpy as np
import pytest
from cases import assert_close, lanes
from sequence_cases import FORMS, MANY, as_images, draw, image_options

import numbadw as ndw
from numbadw import activations
from numbadw.cpu import plan_forward, plan_tiles
from numbadw.cpu.caches import caches
from numbadw.cpu.request import LARGE_SHARE, Request
from numbadw.geometry import make_sequence_geometry

PADDINGS = ["valid", "same", "causal", 2, (0, 3), (4, 1)]


def check(x, kernel, bias, backend="cpu", **options):
    """Compare with the float64 answer and return the result."""
    first = options.get("data_format") == "channels_first"
    y = ndw.depthwise_conv1d(x, kernel, bias, backend=backend, **options)
    images = image_options(k=len(kernel), **options)
    assert_close(as_images(y, first), as_images(x, first), kernel[None], bias, **images)
    return y


def test_by_hand(backend):
    x = np.array([[[1.0], [2.0], [3.0], [4.0]]])
    kernel = np.array([[[10.0]], [[1.0]]])
    y = ndw.depthwise_conv1d(x, kernel, backend=backend)
    assert y[0, :, 0].tolist() == [12, 23, 34]
    y = ndw.depthwise_conv1d(x, kernel, padding="causal", backend=backend)
    assert y[0, :, 0].tolist() == [1, 12, 23, 34]
    y = ndw.depthwise_conv1d(x, kernel, padding="same", strides=2, backend=backend)
    assert y[0, :, 0].tolist() == [12, 34]


@pytest.mark.parametrize("dilation", [1, 3])
def test_against_numpy_convolve(dilation, backend, rng):
    x, kernel, _ = draw(rng, (2, 30, MANY), 4, dtype="float64")
    y = ndw.depthwise_conv1d(
        x, kernel, padding="causal", dilation_rate=dilation, backend=backend
    )
    for n, c in np.ndindex(2, MANY):
        taps = np.zeros(3 * dilation + 1)
        taps[::dilation] = kernel[::-1, c, 0]
        np.testing.assert_allclose(y[n, :, c], np.convolve(x[n, :, c], taps)[:30])


def test_against_scipy(rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    x, kernel, _ = draw(rng, (1, 50, 2), 5, dtype="float64")
    y = ndw.depthwise_conv1d(x, kernel, padding="same")
    for c in range(2):
        expected = ndimage.correlate1d(x[0, :, c], kernel[:, c, 0], mode="constant")
        np.testing.assert_allclose(y[0, :, c], expected)


@pytest.mark.parametrize("m", [1, 3])
def test_against_torch(m, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, kernel, bias = draw(rng, (2, 40, MANY), 4, m, "float64", first=True)
    y = ndw.depthwise_conv1d(
        x, kernel, bias, strides=2, padding=3, data_format="channels_first"
    )
    weight = kernel.transpose(1, 2, 0).reshape(MANY * m, 1, 4).copy()
    arrays = (torch.from_numpy(array) for array in (x, weight, bias))
    expected = torch.nn.functional.conv1d(*arrays, stride=2, padding=3, groups=MANY)
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("form", ["block", "rows", "flat"])
def test_paddings(form, padding, first, backend, rng):
    k, c = FORMS[form]
    layout = "channels_first" if first else "channels_last"
    for strides, dilation in ((1, 1), (2, 1), (1, 3), (2, 4), (3, 2)):
        x, kernel, bias = draw(rng, (2, 47, c), k, first=first)
        options = {"strides": strides, "dilation_rate": dilation, "padding": padding}
        check(x, kernel, bias, backend, data_format=layout, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
@pytest.mark.parametrize("form", FORMS)
def test_forms(form, first, dtype, rng):
    k, c = FORMS[form]
    layout = "channels_first" if first else "channels_last"
    for length, m in itertools.product((k, 2 * k + 90), (1, 2)):
        x, kernel, bias = draw(rng, (1, length, c), k, m, dtype, first)
        check(x, kernel, bias, padding="causal", data_format=layout)


@pytest.mark.parametrize("k", [4, 11])
def test_sizes_around_those_of_the_tiles(k, rng):
    """Lengths at strips and runs, one more and one fewer; channels at vectors."""
    vector = lanes()
    for c in (vector - 1, vector, vector + 1, 2 * vector + 3):
        for near in (4, 7, 14, 21, 28, 7 * 8, 7 * 16):
            for length in (near - 1, near, near + 1, near + k):
                x, kernel, bias = draw(rng, (1, length, c), k)
                check(x, kernel, bias, padding="causal")


def test_activations(rng):
    x, kernel, bias = draw(rng, (1, 37, MANY), 4)
    for activation in [*activations.ACTIVATIONS, ("leaky_relu", 0.1)]:
        check(x, kernel, bias, padding="causal", activation=activation)


@pytest.mark.parametrize("c", [1024, 1000], ids=["whole vectors", "tails"])
def test_larger_than_the_caches(c, rng):
    """Stores past the caches and asks ahead; a few steps compared, borders too."""
    length = caches().last // LARGE_SHARE // (8 * c) + 100
    x, kernel, bias = draw(rng, (1, length, c), 4)
    y = ndw.depthwise_conv1d(x, kernel, bias, padding="causal")
    for start in (0, 1, 500, length // 2, length - 60):
        part = ndw.depthwise_conv1d(
            x[:, max(0, start - 3) : start + 60], kernel, bias, padding="causal"
        )
        skip = min(start, 3)
        np.testing.assert_array_equal(y[:, start : start + 60], part[:, skip:])
    check(x[:, :300], kernel, bias, padding="causal")


def test_every_output_lies_in_one_run():
    """Runs cover all strips in order, and strips of a run are neighbours."""
    for length, k, d in itertools.product((1, 5, 50, 1000), (1, 4, 12), (1, 2)):
        g = make_sequence_geometry((1, length, 64), (k, 64, 1), 1, "causal", d, False)
        strides = (length * 256, 0, 256, 4)
        r = Request(g, np.dtype("float32"), strides, strides, "linear", 0.0)
        tiles = plan_tiles.choose_tiles(r)
        strips = plan_forward.strip_table(r, tiles, r.x.w, r.o.w)
        width = tiles[0].width
        walk = plan_forward.walk_along(r, strips, 4, width)
        found = []
        for *_, first, last, _, strip in walk.rows:
            assert (first, strips[strip][0] == 0 or last == 1) == (0, True)
            found += [strips[strip][2] + i * walk.o_row for i in range(last)]
        assert found == [strip[2] for strip in strips]


@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_layout_place_or_threads(form, rng):
    k, c = FORMS[form]
    x, kernel, bias = draw(rng, (2, k + 400, c), k)
    options = {"padding": "causal", "activation": "gelu"}
    y = ndw.depthwise_conv1d(x, kernel, bias, **options)
    with ndw.num_threads(1):
        one = ndw.depthwise_conv1d(x, kernel, bias, **options)
    np.testing.assert_array_equal(one, y)
    turned = x.transpose(0, 2, 1)
    for array in (turned, np.ascontiguousarray(turned)):
        other = ndw.depthwise_conv1d(
            array, kernel, bias, data_format="channels_first", **options
        )
        np.testing.assert_array_equal(other.transpose(0, 2, 1), y)
    spread = np.zeros((*x.shape, 2), x.dtype)
    spread[..., 0] = x
    odd = ndw.depthwise_conv1d(spread[..., 0], kernel, bias, **options)
    np.testing.assert_array_equal(odd, y)


@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
def test_out_is_written_and_nothing_round_it(first, backend, rng):
    x, kernel, bias = draw(rng, (2, 33, MANY), 4, first=first)
    layout = "channels_first" if first else "channels_last"
    options = {"padding": "causal", "data_format": layout, "backend": backend}
    expected = ndw.depthwise_conv1d(x, kernel, bias, **options)
    for _ in range(2):  # the second call knows the first
        frame = np.full([size + 4 for size in x.shape], np.nan, x.dtype)
        out = frame[2:-2, 2:-2, 2:-2]
        result = ndw.depthwise_conv1d(x, kernel, bias, out=out, **options)
        assert result is out
        np.testing.assert_array_equal(out, expected)
        assert np.isnan(frame).sum() == frame.size - out.size


def test_inputs_of_other_kinds(rng):
    x, kernel, bias = draw(rng, (2, 40, MANY), 4)
    expected = ndw.depthwise_conv1d(x, kernel, bias)
    swapped = ndw.depthwise_conv1d(x.astype(">f4"), kernel, bias)
    np.testing.assert_array_equal(swapped, expected)
    every = np.repeat(x, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(ndw.depthwise_conv1d(every, kernel, bias), expected)
    whole = ndw.depthwise_conv1d(x, (kernel * 8).astype(np.int16), bias.astype("f2"))
    assert whole.dtype == np.float32


def test_nan_reaches_its_windows_alone(backend, rng):
    x, kernel, _ = draw(rng, (1, 60, MANY), 4)
    x[0, 20, 3] = np.nan
    y = ndw.depthwise_conv1d(x, kernel, padding="causal", backend=backend)
    found = np.argwhere(np.isnan(y)).tolist()
    assert found == [[0, step, 3] for step in range(20, 24)]


def test_no_sequences(backend):
    x, kernel = np.zeros((0, 5, 3), np.float32), np.zeros((2, 3, 2), np.float32)
    assert ndw.depthwise_conv1d(x, kernel, backend=backend).shape == (0, 4, 6)


def test_no_steps_but_padding(backend):
    x, kernel = np.zeros((1, 0, 3), np.float32), np.ones((2, 3, 1), np.float32)
    y = ndw.depthwise_conv1d(x, kernel, np.ones(3, "f4"), padding=1, backend=backend)
    assert y.tolist() == [[[1.0] * 3]]


def test_padding_and_steps_in_every_spelling(rng):
    x, kernel, bias = draw(rng, (1, 30, MANY), 4)
    for same in ({"padding": "CAUSAL"}, {"padding": (3, 0)}, {"padding": [3, 0]}):
        np.testing.assert_array_equal(
            ndw.depthwise_conv1d(x, kernel, bias, **same),
            ndw.depthwise_conv1d(x, kernel, bias, padding="causal"),
        )
    np.testing.assert_array_equal(
        ndw.depthwise_conv1d(x, kernel, strides=(2,), dilation_rate=[2]),
        ndw.depthwise_conv1d(x, kernel, strides=2, dilation_rate=np.int64(2)),
    )
