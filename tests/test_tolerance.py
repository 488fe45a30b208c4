"""The bounds that all other tests measure by: right results pass, wrong ones do not."""

import numpy as np
import pytest
from cases import Case
from gradient_cases import draw

import numbadw as ndw
from numbadw import tolerance

CASE = Case(6, 7, 5, 2, n=2)


@pytest.fixture
def answer(rng):
    """Return the answer of a call and a result that is right."""
    x, k, b = CASE.arrays(rng)
    right = tolerance.forward(x, k, b, activation="silu", **CASE.options)
    return right, right.expected.astype("f4")


def test_a_right_result_has_no_fault(answer):
    right, result = answer
    assert right.fault(result) == ""
    assert right.fault(result + np.float32(0.5) * right.bound.astype("f4")) == ""
    assert right.fault(result.transpose(0, 2, 1, 3)) != ""


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e9])
def test_one_wrong_element_is_named(wrong, answer):
    right, result = answer
    result[1, 2, 3, 4] = wrong
    fault = right.fault(result)
    assert fault.startswith(f"1 of {result.size} results are off; at (1, 2, 3, 4) got")
    assert f"got {result[1, 2, 3, 4]}, expected" in fault


def test_ten_bounds_off_is_wrong(answer):
    right, result = answer
    assert right.fault(result.astype("f8") + 10 * right.bound) != ""
    assert (right.bound < 1e-4).all()


def test_nan_and_infinities_must_be_where_they_belong(rng):
    x, k, _ = CASE.arrays(rng)
    x[0, 2, 3, 1], x[1, 4, 4, 2] = np.nan, np.inf
    right = tolerance.forward(x, k, **CASE.options)
    result = right.expected.astype("f4")
    assert right.fault(result) == ""
    for find in (np.isnan, np.isposinf, np.isneginf):
        moved = result.copy()
        moved[find(moved)] = 0
        assert right.fault(moved) != ""


@pytest.mark.parametrize("activation", [None, "gelu", ("elu", 2.0)])
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_the_reference_in_float32_is_within_the_bounds_and_little_more_is_not(
    activation, first, rng
):
    case = CASE._replace(first=first)
    x, k, b, g = draw(case, rng)
    options = {**case.options, "activation": activation}
    given = {**options, "backend": "reference"}
    result = ndw.depthwise_conv2d(x, k, b, **given)
    assert not tolerance.forward(x, k, b, **options).fault(result)
    assert tolerance.forward(x, k, b, **options).fault(result + np.float32(1e-3))
    answers = tolerance.gradients(x, k, g, b, **options)
    results = ndw.depthwise_conv2d_grad(x, k, g, bias=b, **given)
    for right, gradient in zip(answers, results, strict=True):
        assert not right.fault(gradient)
        assert right.fault(gradient * np.float32(1.01))


def test_a_derivative_may_be_of_either_side_of_its_jump():
    x = np.full((1, 1, 1, 1), -3, "f4")
    k, g = np.ones((1, 1, 1, 1), "f4"), np.ones((1, 1, 1, 1), "f4")
    right = tolerance.gradients(x, k, g, activation="hard_silu")[0]
    for slope in (0.0, -0.49999997):
        assert not right.fault(np.full_like(x, slope))
    for slope in (0.51, -0.51):
        assert right.fault(np.full_like(x, slope))


def test_bounds_know_the_smallest_numbers():
    x = np.full((1, 3, 3, 1), 1e-44, "f4")
    k = np.full((3, 3, 1, 1), 0.3, "f4")
    result = ndw.depthwise_conv2d(x, k, padding="same", backend="cpu")
    assert not tolerance.forward(x, k, padding="same").fault(result)
