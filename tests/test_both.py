"""Both gradients in one pass: values, borders, what is not finite, bits, threads."""

import itertools

import numpy as np
import pytest
from cases import PADDINGS, Case, forget, lanes
from gradient_cases import assert_gradients_close, check_gradients, draw
from thread_cases import MOST, several

import numbadw as ndw
from numbadw import jit
from numbadw.cpu import backward, plan_both, request
from numbadw.cpu.caches import Caches
from numbadw.cpu.plan_both import WIDTH
from numbadw.cpu.records import index

pytestmark = pytest.mark.skipif(
    jit.target().registers < 32, reason="this CPU has too few vector registers for it"
)
VECTOR = lanes()
KERNELS = ((3, 3), (2, 2), (2, 4), (4, 2))


@pytest.fixture(autouse=True)
def small_caches(monkeypatch):
    """Plan as if L2 held nothing."""
    monkeypatch.setattr(plan_both, "caches", lambda: Caches(second=0))
    forget()
    yield
    forget()


def in_one_pass(case):
    """Tell whether a case's gradients come from one pass."""
    return case.gradient_plans()[0].feed == "both_grad"


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sizes_around_those_of_the_tile(kernel, dtype, rng):
    vector = lanes(dtype)
    least = vector // 2 + 1
    channels = itertools.cycle((vector, vector + 1, 2 * vector, least))
    near = {1, 2, *(n * WIDTH + d for n in (1, 2) for d in (-1, 0, 1))}
    for w, h in itertools.product(sorted(near), (1, 3, 8)):
        case = Case(h, w, next(channels), kernel=kernel, dtype=dtype, n=1 + w % 2)
        assert in_one_pass(case)
        check_gradients(case, rng)


@pytest.mark.parametrize("padding", ["valid", 1, (0, 1), *PADDINGS], ids=str)
def test_paddings(padding, rng):
    # Where there are more outputs than inputs some have no pixel of their own.
    one = Case(9, 9, VECTOR, padding=padding)
    assert in_one_pass(one) == (padding not in PADDINGS[2:])
    for w, dilation in itertools.product((9, 16, 22), ((1, 1), (2, 1), (1, 3))):
        case = Case(9, w, VECTOR + 2, padding=padding, dilation=dilation, n=2)
        check_gradients(case, rng)


@pytest.mark.parametrize(
    "other",
    [
        {"strides": (1, 2)},
        {"m": 2},
        {"kernel": (1, 3)},
        {"kernel": (5, 5)},
        {"c": VECTOR // 2},
        {"padding": 2},
        {"first": True},
    ],
    ids=str,
)
def test_what_goes_one_after_the_other(other):
    assert in_one_pass(Case(9, 16, 2 * VECTOR))
    assert not in_one_pass(Case(9, 16, 2 * VECTOR)._replace(**other))


def test_small_arrays_go_one_after_the_other(monkeypatch):
    monkeypatch.setattr(plan_both, "caches", lambda: Caches(second=1 << 20))
    assert not in_one_pass(Case(9, 16, 2 * VECTOR))
    assert in_one_pass(Case(112, 112, 64, n=2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("padding", ["same", "valid", ((0, 2), (2, 0))], ids=str)
def test_what_is_not_finite_reaches_its_sums_alone(bad, padding, rng):
    case = Case(6, 15, VECTOR + 3, padding=padding, n=2)
    assert in_one_pass(case)
    x, w, b, g = draw(case, rng)
    *_, oh, ow, c = g.shape
    places = itertools.product((0, 2, oh - 1), (0, 6, 7, ow - 1), (0, c - 1))
    for i, j, q in places:
        for array in (x, g):
            kept, array[1, i, j, q] = array[1, i, j, q], bad
            results = ndw.depthwise_conv2d_grad(x, w, g, **case.options)
            assert_gradients_close(results, x, w, g, b, **case.options)
            array[1, i, j, q] = kept
    w[0, 2, 1, 0] = bad
    results = ndw.depthwise_conv2d_grad(x, w, g, **case.options)
    assert_gradients_close(results, x, w, g, b, **case.options)


def test_the_gradient_at_the_inputs_has_the_bits_of_its_own_pass(rng):
    for w in (5, 14, 23):
        case = Case(11, w, 2 * VECTOR + 1, n=2)
        assert in_one_pass(case)
        x, k, _, g = draw(case, rng)
        both = ndw.depthwise_conv2d_grad(x, k, g, **case.options)
        alone = ndw.depthwise_conv2d_input_grad(g, k, x.shape, **case.options)
        np.testing.assert_array_equal(both[0], alone)


@several
@pytest.mark.usefixtures("all_threads")
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("last", [1, 1 << 30])
def test_the_same_bits_for_any_number_of_threads(activation, last, rng, monkeypatch):
    # With no cache at all rows are asked for ahead and results stored past it.
    case = Case(40, 29, 64 + (last > 1), n=6)
    x, w, b, g = draw(case, rng)
    options = {**case.options, "activation": activation, "bias": b}
    for module in (backward, plan_both, request):
        monkeypatch.setattr(module, "caches", lambda: Caches(last=last, second=0))
    forget()
    plan, *_ = case.gradient_plans()
    assert plan.feed == "both_grad"
    assert bool(plan.integers[index("plan.ahead")]) == (last == 1)
    assert bool(plan.integers[index("plan.stream")]) == (last == 1)
    with ndw.num_threads(1):
        serial = ndw.depthwise_conv2d_grad(x, w, g, **options)
    assert_gradients_close(serial, x, w, g, b, activation, **case.options)
    for n in range(2, MOST + 1):
        with ndw.num_threads(n):
            results = ndw.depthwise_conv2d_grad(x, w, g, **options)
        for result, same in zip(results, serial, strict=True):
            np.testing.assert_array_equal(result, same)
