"""The one formula per activation, against `math`, limits and finite differences."""

import math

import numpy as np
import pytest

from numbadw.activations import (
    ACTIVATIONS,
    ALIASES,
    apply,
    apply_derivative,
    resolve,
)

INF, NAN = math.inf, math.nan
NAMES = sorted(ACTIVATIONS)


def relu6(x):
    return min(max(x, 0.0), 6.0)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)


def selu(x):
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return scale * (x if x > 0 else alpha * math.expm1(x))


# The definitions as Keras 3 documents them, one float at a time.
ORACLE = {
    "linear": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "relu6": relu6,
    "leaky_relu": lambda x: x if x > 0 else 0.2 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": selu,
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: relu6(x + 3) / 6,
    "silu": lambda x: x * sigmoid(x),
    "hard_silu": lambda x: x * relu6(x + 3) / 6,
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "tanh": math.tanh,
    "softplus": lambda x: (
        x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))
    ),
}
# name: value at -inf, at +inf, derivative at -inf, at +inf.
LIMITS = {
    "linear": (-INF, INF, 1, 1),
    "relu": (0, INF, 0, 1),
    "relu6": (0, 6, 0, 0),
    "leaky_relu": (-INF, INF, 0.2, 1),
    "elu": (-1, INF, 0, 1),
    "selu": (-1.0507009873554805 * 1.6732632423543772, INF, 0, 1.0507009873554805),
    "sigmoid": (0, 1, 0, 0),
    "hard_sigmoid": (0, 1, 0, 0),
    "silu": (0, INF, 0, 1),
    "hard_silu": (0, INF, 0, 1),
    "gelu": (0, INF, 0, 1),
    "tanh": (-1, 1, 0, 0),
    "softplus": (0, INF, 0, 1),
}
KINKS = [
    ("relu", None, 0.0, 0.0),
    ("relu6", None, 0.0, 0.0),
    ("relu6", None, 6.0, 0.0),
    ("hard_sigmoid", None, -3.0, 0.0),
    ("hard_sigmoid", None, 3.0, 0.0),
    ("hard_silu", None, -3.0, 0.0),
    ("hard_silu", None, 3.0, 0.0),
    ("leaky_relu", 0.2, 0.0, 0.2),
    ("leaky_relu", -0.5, 0.0, -0.5),
    ("elu", 1.0, 0.0, 1.0),
]


def default(name):
    return ACTIVATIONS[name].parameter or 0.0


def test_tables_cover_every_activation():
    assert set(ORACLE) == set(LIMITS) == set(ACTIVATIONS)
    assert all(row.name == name for name, row in ACTIVATIONS.items())


@pytest.mark.parametrize("name", NAMES)
def test_matches_the_definition(name):
    x = np.concatenate([np.linspace(-12, 12, 97), [-600.0, -36.5, 30.0, 600.0, -1e-9]])
    expected = [ORACLE[name](float(value)) for value in x]
    # The argument of exp and erfc carries eps * x, hence the relative slack.
    np.testing.assert_allclose(
        apply(x, name, default(name)), expected, rtol=4e-13, atol=1e-300
    )


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_and_close(name):
    x = np.linspace(-30, 30, 241, dtype=np.float32)
    y = apply(x, name, default(name))
    assert y.dtype == apply_derivative(x, name, default(name)).dtype == np.float32
    expected = apply(x.astype(np.float64), name, default(name))
    # A float32 step of the argument moves gelu's and silu's tails by x * x * eps.
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits_and_nan(name, dtype):
    x = np.array([-INF, INF, NAN], dtype)
    low, high, slope_low, slope_high = LIMITS[name]
    y = apply(x, name, default(name))
    np.testing.assert_allclose(y, [low, high, NAN], rtol=1e-6)
    slopes = apply_derivative(x[:2], name, default(name))
    np.testing.assert_allclose(slopes, [slope_low, slope_high], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_huge_values_do_not_overflow(name):
    x = np.array([-1e30, -1e4, -90.0, 90.0, 1e4, 1e30], np.float32)
    assert np.isfinite(apply(x, name, default(name))).all()
    assert np.isfinite(apply_derivative(x, name, default(name))).all()


@pytest.mark.parametrize("name", NAMES)
def test_derivative_of_nan_is_nan_where_x_enters(name):
    slope = apply_derivative(np.array([NAN]), name, default(name))[0]
    assert slope == 1 if name == "linear" else np.isnan(slope)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parameter", [None, 0.3, 2.5])
def test_derivative_is_the_finite_difference(name, parameter):
    if parameter is not None and ACTIVATIONS[name].parameter is None:
        parameter = None  # It takes none: the default case again.
    p = default(name) if parameter is None else parameter
    x = np.linspace(-7.3, 7.3, 128)  # No kink (0, +-3, 6) within h of a point.
    h = 1e-5
    difference = (apply(x + h, name, p) - apply(x - h, name, p)) / (2 * h)
    np.testing.assert_allclose(
        apply_derivative(x, name, p), difference, rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu", "gelu", "softplus"])
def test_tails_keep_their_relative_accuracy(name):
    exact = {
        "sigmoid": lambda x: math.exp(x) / (1 + math.exp(x)) ** 2,
        "tanh": lambda x: 1 / math.cosh(x) ** 2,
        "silu": lambda x: math.exp(x) * (1 + x),
        "gelu": lambda x: (
            math.erfc(-x / math.sqrt(2)) / 2
            + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        ),
        "softplus": lambda x: math.exp(x) / (1 + math.exp(x)),
    }[name]
    x = np.array([-36.0, -25.0])
    if name == "silu":  # The oracle's own leading term only.
        x -= 4
    expected = [exact(float(value)) for value in x]
    rtol = 1e-10 if name == "gelu" else 1e-12
    np.testing.assert_allclose(apply_derivative(x, name, 0.0), expected, rtol=rtol)


@pytest.mark.parametrize(("name", "parameter", "x", "slope"), KINKS)
def test_kinks(name, parameter, x, slope):
    value = apply_derivative(np.array([x, -x if x == 0 else x]), name, parameter or 0.0)
    np.testing.assert_array_equal(value, [slope, slope])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ("linear", 0.0)),
        ("ReLU", ("relu", 0.0)),
        ("swish", ("silu", 0.0)),
        ("Hard_Swish", ("hard_silu", 0.0)),
        ("leaky_relu", ("leaky_relu", 0.2)),
        ("elu", ("elu", 1.0)),
        (("leaky_relu", 0.1), ("leaky_relu", 0.1)),
        (["ELU", 2], ("elu", 2.0)),
        (("elu", 0), ("elu", 0.0)),
        (("leaky_relu", np.float32(0.5)), ("leaky_relu", 0.5)),
        (("leaky_relu", np.int64(2)), ("leaky_relu", 2.0)),
        (("leaky_relu", 0.0), ("relu", 0.0)),
    ],
)
def test_resolve(value, expected):
    name, parameter = resolve(value)
    assert (name, parameter) == expected
    assert type(name) is str
    assert type(parameter) is float


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("softmax", ValueError, "activation must be one of linear, relu, .*'softmax'"),
        (("prelu", 0.1), ValueError, "must be one of .* hard_swish; got 'prelu'"),
        (("relu", 0.1), ValueError, "relu takes no parameter"),
        (("swish", 1.0), ValueError, "silu takes no parameter"),
        (("elu", INF), ValueError, "parameter of activation must be finite, got inf"),
        (("elu", NAN), ValueError, "must be finite, got nan"),
        (("elu", 10**400), ValueError, "must be finite"),
        (("elu",), ValueError, r"a name or \(name, number\)"),
        ((), ValueError, r"a name or \(name, number\)"),
        (("elu", 1.0, 2.0), ValueError, r"a name or \(name, number\)"),
        (("elu", True), TypeError, "must be a real number, got True of type bool"),
        (("elu", np.bool_(1)), TypeError, "must be a real number"),
        (("elu", "1"), TypeError, "must be a real number, got '1' of type str"),
        (("elu", None), TypeError, "must be a real number"),
        (("elu", 1j), TypeError, "must be a real number"),
        ((1.0, "elu"), TypeError, "activation must be None, a name or"),
        (np.tanh, TypeError, "activation must be None, a name or .*ufunc"),
        (3, TypeError, "got 3 of type int"),
    ],
)
def test_resolve_errors(value, error, message):
    with pytest.raises(error, match=message):
        resolve(value)


def test_resolve_names_the_argument():
    with pytest.raises(ValueError, match="depthwise_activation must be one of"):
        resolve("nope", "depthwise_activation")


def test_aliases_lead_to_names():
    assert set(ALIASES.values()) <= set(ACTIVATIONS)


def test_empty_arrays():
    assert all(apply(np.zeros((0, 3)), name, 0.5).shape == (0, 3) for name in NAMES)
