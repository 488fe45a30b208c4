"""Geometries and views that nobody thought of, over a bounded set of kernels."""

import numpy as np
from cases import Case, assert_close, fits, lanes
from gradient_cases import assert_gradients_close, check_gradients, draw
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import numbadw as ndw

# Kernel, stride and multiplier: what a compiled kernel depends on (the taller kernels
# share tiles that know no height).  Dilation 2 turns stride 2 into stride 1.
COMPILED = [
    ((3, 3), 1, 1, "float32"),
    ((3, 3), 2, 1, "float32"),
    ((3, 3), 1, 2, "float32"),
    ((3, 3), 1, 4, "float32"),
    ((5, 5), 1, 1, "float32"),
    ((13, 5), 1, 1, "float32"),
    ((13, 30), 1, 1, "float32"),
    ((3, 3), 1, 1, "float64"),
]
# What the kernels of the gradients depend on.
BACKWARD = [
    ((3, 3), 1, 1, "float32"),
    ((3, 3), 2, 1, "float32"),
    ((3, 3), 1, 2, "float32"),
    ((3, 3), 2, 3, "float32"),
    ((3, 3), 1, 8, "float32"),
    ((5, 5), 1, 1, "float32"),
    ((5, 5), 2, 1, "float32"),
    ((7, 7), 1, 1, "float32"),
    ((2, 4), 1, 1, "float32"),
    ((2, 2), 3, 1, "float32"),
    ((3, 3), 1, 1, "float64"),
    ((3, 3), 1, 2, "float64"),
]
pads = st.tuples(st.integers(0, 6), st.integers(0, 6))
paddings = st.one_of(
    st.sampled_from(["same", "valid"]), st.integers(0, 4), pads, st.tuples(pads, pads)
)
sizes = st.one_of(st.integers(1, 20), st.sampled_from([28, 57, 112]))
channels = st.one_of(st.integers(1, 2 * lanes() + 2), st.just(5 * lanes() + 3))


@st.composite
def cases(draw, compiled=COMPILED):
    """Draw a case whose kernel is in the set."""
    kernel, stride, m, dtype = draw(st.sampled_from(compiled))
    d = draw(st.sampled_from([1, 1, 2, 3] if stride == 1 else [1, 1, 3, 2]))
    case = Case(
        draw(sizes),
        draw(sizes),
        draw(channels),
        m,
        kernel,
        (stride, stride),
        draw(paddings),
        (d, d),
        draw(st.booleans()),
        dtype,
        draw(st.integers(1, 3)),
    )
    assume(fits(case))
    assume(case.n * case.h * case.w * case.c < 40_000)
    return case


def strided(draw, x):
    """Return x in a larger array of NaN: any order of axes, steps and directions."""
    order = draw(st.permutations(range(4)))
    steps = draw(st.tuples(*[st.sampled_from([1, 1, 1, 2, -1, -3])] * 4))
    margin = draw(st.integers(0, 2))
    shape = [abs(s) * n + margin for n, s in zip(x.shape, steps, strict=True)]
    big = np.full([shape[axis] for axis in order], np.nan, x.dtype)
    view = big.transpose(np.argsort(order))
    view = view[tuple(slice(None, None, step) for step in steps)]
    view = view[tuple(slice(n) for n in x.shape)]
    view[...] = x
    return view


rules = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@settings(rules, max_examples=300)
@given(cases(), st.integers(0, 2**32 - 1), st.booleans())
@example(Case(1, 1, 1), 0, True)
def test_geometries(case, seed, biased):
    x, k, b = case.arrays(np.random.default_rng(seed))
    b = b if biased else None
    result = ndw.depthwise_conv2d(x, k, b, **case.options)
    assert_close(result, x, k, b, **case.options)


@settings(rules, max_examples=200)
@given(cases(), st.data())
def test_views_in_and_out(case, data):
    x, k, b = case.arrays(np.random.default_rng(case.h))
    inputs = strided(data.draw, x)
    out = strided(data.draw, np.zeros(case.geometry.output_shape, case.dtype))
    result = ndw.depthwise_conv2d(inputs, k, b, out=out, **case.options)
    assert result is out
    assert_close(result, x, k, b, **case.options)


@settings(rules, max_examples=100)
@given(cases(), st.data())
def test_one_bad_pixel_reaches_its_windows_only(case, data):
    x, k, _ = case.arrays(np.random.default_rng(case.w))
    at = tuple(data.draw(st.integers(0, size - 1)) for size in x.shape)
    clean = ndw.depthwise_conv2d(x, k, **case.options)
    x[at] = data.draw(st.sampled_from([np.nan, np.inf]))
    result = ndw.depthwise_conv2d(x, k, **case.options)
    marks = np.zeros_like(x)
    marks[at] = 1
    hit = ndw.depthwise_conv2d(
        marks, np.ones_like(k), backend="reference", **case.options
    )
    np.testing.assert_array_equal(~np.isfinite(result), hit != 0)
    np.testing.assert_array_equal(result[hit == 0], clean[hit == 0])


@settings(rules, max_examples=100)
@given(cases(BACKWARD), st.integers(0, 2**32 - 1))
@example(Case(1, 1, 1), 0)
def test_gradients(case, seed):
    check_gradients(case, np.random.default_rng(seed))


@settings(rules, max_examples=100)
@given(cases(BACKWARD), st.data())
def test_gradients_of_views(case, data):
    x, k, _, g = draw(case, np.random.default_rng(case.h))
    out = strided(data.draw, np.zeros_like(x))
    inputs, grad = strided(data.draw, x), strided(data.draw, g)
    x_grad = ndw.depthwise_conv2d_input_grad(grad, k, x.shape, out=out, **case.options)
    assert x_grad is out
    w_grad = ndw.depthwise_conv2d_kernel_grad(inputs, grad, k.shape, **case.options)
    assert_gradients_close((x_grad, w_grad, None), x, k, g, **case.options)
    both = ndw.depthwise_conv2d_grad(inputs, k, grad, **case.options)
    assert_gradients_close(both, x, k, g, **case.options)


@settings(rules, max_examples=50)
@given(cases(BACKWARD), st.data())
def test_one_bad_value_reaches_only_what_it_meets(case, data):
    arrays = x, k, _, g = draw(case, np.random.default_rng(case.w))
    clean = ndw.depthwise_conv2d_grad(x, k, g, **case.options)
    target = arrays[data.draw(st.sampled_from([0, 3]))]
    at = tuple(data.draw(st.integers(0, size - 1)) for size in target.shape)
    target[at] = data.draw(st.sampled_from([np.nan, np.inf]))
    results = ndw.depthwise_conv2d_grad(x, k, g, **case.options)
    assert_gradients_close(results, x, k, g, **case.options)
    for result, before in zip(results, clean, strict=True):
        finite = np.isfinite(result)
        np.testing.assert_array_equal(result[finite], before[finite])
