"""Prepared pointwise convolution: the bits of the function, weights of its own."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import numbadw as ndw
from numbadw import jit
from numbadw.cpu.plan import Steps
from numbadw.cpu.plan_pointwise import (
    Grid,
    choose_tiles,
    plan_product,
    product_of_pixels,
)
from numbadw.cpu.pointwise import DEPTH
from numbadw.cpu.records import index
from numbadw.prepared import MOST_CALLS, pack, unpack

LANES = jit.target().vector_bytes // 4
# Panels that are full and that are not, one row and many, one block of terms and more.
SIZES = [
    (1, 1, 1, 1),
    (1, 1, DEPTH + 3, 4 * LANES + 5),
    (3, 5, 7, 2 * LANES),
    (7, 7, DEPTH, 6 * LANES + 1),
    (9, 4, 2 * DEPTH + 1, 3 * LANES),
    (20, 31, 33, LANES - 1),
]

FORMATS = ["channels_last", "channels_first"]


def height(columns):
    """Return the rows of the tile for so many columns."""
    return choose_tiles(columns, "f32", "linear")[0].kh


def draw(rng, size, dtype="f4", data_format="channels_last", n=2):
    """Return inputs, kernel and bias."""
    h, w, c, f = size
    shape = (n, h, w, c) if data_format == "channels_last" else (n, c, h, w)
    shapes = shape, (c, f), (f,)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_bits_of_the_function(rng, size, dtype, data_format):
    x, k, b = draw(rng, size, dtype, data_format)
    for bias, activation in itertools.product((None, b), (None, "silu")):
        options = {"activation": activation, "data_format": data_format}
        right = ndw.pointwise_conv2d(x, k, bias, **options)
        for kernel in (k, k[None, None]):
            prepared = ndw.prepare_pointwise_conv2d(kernel, bias, **options)
            out = np.full_like(right, np.nan)
            for _ in range(3):  # bound, found, tried
                assert_array_equal(prepared(x), right)
                assert prepared(x, out) is out
                assert_array_equal(out, right)
                out[...] = np.nan


# Rows that outnumber columns and not; few panels, odd in number, which are halved.
SHARED = [
    (28, 28, 2 * DEPTH, 8 * LANES),
    (7, 7, DEPTH + 9, 10 * LANES),
    (14, 15, DEPTH, 6 * LANES),
    (30, 30, 24, 2 * LANES),
    (1, 40, 2 * DEPTH + 1, 14 * LANES - 3),
]


@pytest.mark.parametrize("size", SHARED, ids=str)
def test_the_same_bits_for_any_number_of_threads(rng, size):
    x, k, b = draw(rng, size, n=1)
    prepared = ndw.prepare_pointwise_conv2d(k, b)
    right = ndw.pointwise_conv2d(x, k, b)
    for threads in (1, 2, 3, 5):
        with ndw.num_threads(threads):
            assert_array_equal(prepared(x), right)


def test_halves_of_panels_are_planned():
    def record(rows, columns):
        grid = Grid(1, 1, rows, Steps(0, 0, 400, 4), Steps(0, 0, 4 * columns, 4))
        product = product_of_pixels(grid, 100, columns, (4 * columns, 4), 4, False)
        plan = plan_product(product._replace(b_panel=1 << 16), np.dtype("f4"))
        at = plan.integers[index("plan.products_at")] // 8
        names = ("units", "unit", "chunk", "chunks", "panels")
        found = {n: plan.integers[at + index(f"product.{n}")] for n in names}
        found["items"] = plan.items
        return found

    few = record(7 * height(10 * LANES), 10 * LANES)
    assert few["units"] == 2
    assert few["unit"] < few["chunk"] <= 2 * few["unit"]
    even = record(7 * height(8 * LANES), 8 * LANES)
    assert even["units"] == 1
    for found in (few, even, record(10**4, 2 * LANES)):
        parts = found["units"] * found["chunks"] * found["panels"]
        assert found["items"] == parts


def test_inputs_and_out_of_any_strides(rng):
    x, k, b = draw(rng, (6, 8, 11, 2 * LANES + 3))
    prepared = ndw.prepare_pointwise_conv2d(k, b)
    right = ndw.pointwise_conv2d(x, k, b)
    assert_array_equal(prepared(x[:, ::-2]), right[:, ::-2])
    assert_array_equal(prepared(np.asfortranarray(x)), right)
    swapped = x.astype(x.dtype.newbyteorder())
    assert_array_equal(prepared(swapped), right)
    n, h, w, f = right.shape
    for out in (
        np.empty((n, f, h, w), "f4").transpose(0, 2, 3, 1),
        np.empty((n, h, w, 2 * f), "f4")[..., ::2],
        np.empty((n, 2 * h, w, f), "f4")[:, ::-2],
    ):
        for _ in range(2):
            out[...] = np.nan
            assert prepared(x, out) is out
            np.testing.assert_allclose(out, right, rtol=1e-5, atol=1e-5)


def test_the_weights_are_copies(rng):
    x, k, b = draw(rng, (5, 5, 9, LANES + 2))
    prepared = ndw.prepare_pointwise_conv2d(k, b)
    right = prepared(x)
    k[...], b[...] = 0, np.nan
    assert_array_equal(prepared(x), right)


def test_more_kinds_of_arrays_than_are_kept(rng):
    x, k, b = draw(rng, (1, 2 * MOST_CALLS, 3, 5), n=1)
    prepared = ndw.prepare_pointwise_conv2d(k, b)
    right = ndw.pointwise_conv2d(x, k, b)
    for w in (*range(1, 2 * MOST_CALLS), 1):
        np.testing.assert_allclose(prepared(x[:, :, :w]), right[:, :, :w], rtol=1e-4)
        assert len(prepared._calls) <= MOST_CALLS


def test_the_reference(rng):
    x, k, b = draw(rng, SIZES[3])
    for data_format in FORMATS:
        y = x.transpose(0, 3, 1, 2) if data_format == "channels_first" else x
        options = {"backend": "reference", "data_format": data_format}
        right = ndw.pointwise_conv2d(y, k, b, **options)
        assert_array_equal(ndw.prepare_pointwise_conv2d(k, b, **options)(y), right)


def test_no_image(rng):
    x, k, b = draw(rng, (4, 4, 6, 7), n=0)
    assert ndw.prepare_pointwise_conv2d(k, b)(x).shape == (0, 4, 4, 7)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_packing_and_back(rng, dtype):
    for f in range(1, 8 * LANES, 5):
        kernel = rng.standard_normal((13, f)).astype(dtype)
        panels = pack(kernel)
        assert_array_equal(unpack(panels, f), kernel)
        assert np.count_nonzero(panels) == kernel.size


def test_what_is_refused(rng):
    x, k, b = draw(rng, (4, 5, 6, 7))
    prepared = ndw.prepare_pointwise_conv2d(k, b)
    with pytest.raises(TypeError, match="inputs must have the dtype that was prepared"):
        prepared(x.astype("f8"))
    with pytest.raises(ValueError, match="inputs must have 6 channels"):
        prepared(x[..., :5])
    with pytest.raises(TypeError, match="inputs must be"):
        prepared([1.0])
    with pytest.raises(ValueError, match="out must have shape"):
        prepared(x, np.empty((2, 4, 5, 8), "f4"))
    both = np.empty((2, 4, 5, 7), "f4")
    wide = ndw.prepare_pointwise_conv2d(np.eye(7, dtype="f4"))
    for _ in range(3):
        with pytest.raises(ValueError, match="out must not overlap inputs"):
            wide(both, both)
        wide(both, np.empty_like(both))
    fixed = np.empty((2, 4, 5, 7), "f4")
    prepared(x, fixed)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        prepared(x, fixed)
    with pytest.raises(TypeError, match="kernel must be"):
        ndw.prepare_pointwise_conv2d([[1.0]])
    with pytest.raises(TypeError, match="kernel"):
        ndw.prepare_pointwise_conv2d(np.ones((2, 2), int))
    with pytest.raises(ValueError, match="kernel must have shape"):
        ndw.prepare_pointwise_conv2d(np.ones((3, 3, 4, 5), "f4"))
    with pytest.raises(ValueError, match="kernel must have shape"):
        ndw.prepare_pointwise_conv2d(np.ones((4, 0), "f4"))
    with pytest.raises(ValueError, match="bias must have shape"):
        ndw.prepare_pointwise_conv2d(k, b[1:])
    with pytest.raises(ValueError, match="activation"):
        ndw.prepare_pointwise_conv2d(k, activation="nothing")


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_adding_to_what_out_holds(rng, size, data_format):
    x, k, b = draw(rng, size, "f8", data_format)
    options = {"data_format": data_format}
    for bias, activation in itertools.product((None, b), (None, "relu6")):
        plain = ndw.pointwise_conv2d(x, k, bias, **options)
        held = rng.standard_normal(plain.shape)
        right = held + plain
        if activation:
            right = np.clip(right, 0, 6)
        options["activation"] = activation
        for backend in ("cpu", "reference"):
            prepared = ndw.prepare_pointwise_conv2d(
                k, bias, accumulate=True, backend=backend, **options
            )
            for _ in range(3):  # bound, found, tried
                out = held.copy()
                assert prepared(x, out) is out
                assert_allclose(out, right, rtol=0, atol=1e-11)
        del options["activation"]
    with pytest.raises(TypeError, match="out must be an ndarray to accumulate in"):
        prepared(x)
    with pytest.raises(TypeError, match="accumulate must be a bool"):
        ndw.prepare_pointwise_conv2d(k, accumulate="yes")


def test_adding_has_the_same_bits_for_any_number_of_threads(rng):
    x, k, b = draw(rng, (7, 7, DEPTH + 9, 10 * LANES), n=1)
    prepared = ndw.prepare_pointwise_conv2d(k, b, accumulate=True)
    results = []
    for threads in (1, 2, 3):
        out = np.ones((1, 7, 7, 10 * LANES), "f4")
        with ndw.num_threads(threads):
            for _ in range(2):
                prepared(x, out)
        results.append(out)
    for result in results[1:]:
        assert_array_equal(result, results[0])
