"""The vector words, in compiled code, against NumPy's and math's in float64."""

import functools
import math
import re

import numpy as np
import pytest
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from numbadw.activations import ACTIVATIONS, apply, apply_derivative
from numbadw.cpu.simd import BYTES, Int, Simd
from numbadw.cpu.vecmath import VectorOps, emit_activation

INF, NAN = math.inf, math.nan
DTYPES = {"f32": np.float32, "f64": np.float64}
NAMES = sorted(ACTIVATIONS)
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def word(name):
    return lambda simd, p, x, y: getattr(VectorOps(simd), name)(x)


def pair(name):
    return lambda simd, p, x, y: getattr(VectorOps(simd), name)(x, y)


def activation(name):
    return lambda simd, p, x, y: emit_activation(simd, name, p, x)


def derivative(name):
    function = ACTIVATIONS[name].derivative
    return lambda simd, p, x, y: function(x, p, VectorOps(simd))


# Each entry becomes one loop of the compiled function, chosen by its position.
EMITTERS = {
    **{name: word(name) for name in ("exp", "expm1", "log1p", "tanh", "erfc")},
    **{name: pair(name) for name in ("maximum", "minimum")},
    "where": lambda simd, p, x, y: VectorOps(simd).where(x < y, 0.5, x),
    "floats": lambda simd, p, x, y: (2.0 - (1.0 + x) * 3.0) / (4.0 / (x - 5.0)),
    **{f"{name}()": activation(name) for name in NAMES},
    **{f"{name}'": derivative(name) for name in NAMES},
}
LABELS = list(EMITTERS)


@functools.cache
def compiled(dtype, lanes, labels=None):
    """Return `run(label's position, x, y, out, count, parameter)` over addresses."""
    chosen = LABELS if labels is None else labels

    @intrinsic
    def loops(typingctx, which, x, y, out, count, parameter):
        def codegen(context, builder, signature, arguments):
            simd = Simd(builder, dtype, lanes)
            which, x, y, out, count = (Int(builder, v) for v in arguments[:5])
            # The parameter as the tile gets it: a vector, known at run time only.
            spread = simd.load_parameter(Int(builder, arguments[5]))
            for position, label in enumerate(chosen):
                with (
                    simd.when(which.compare("==", position)),
                    simd.loop(simd.integer(0), count, lanes) as i,
                ):
                    at = i * BYTES[dtype]
                    a, b = simd.load(x + at), simd.load(y + at)
                    simd.store(EMITTERS[label](simd, spread, a, b), out + at)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    @njit("void(int64, int64, int64, int64, int64, int64)")
    def run(which, x, y, out, count, parameter):
        loops(which, x, y, out, count, parameter)

    return run


def evaluate(label, x, y=None, lanes=16, parameter=0.0):
    dtype = "f32" if x.dtype == np.float32 else "f64"
    padded = np.zeros(-(-x.size // 16) * 16, x.dtype)
    other, out = padded.copy(), padded.copy()
    padded[: x.size] = x
    other[: x.size] = 0 if y is None else y
    p = np.array([parameter])
    addresses = (array.ctypes.data for array in (padded, other, out))
    run = compiled(dtype, lanes)
    run(LABELS.index(label), *addresses, out.size, p.ctypes.data)
    return out[: x.size]


def ulps(got, exact, dtype):
    """Return the largest error in units of the last place of the exact result."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(dtype)
        # Of the largest number itself NumPy gives an infinite spacing.
        below = np.nextafter(np.finfo(dtype).max, dtype(0))
        unit = np.spacing(np.minimum(abs(rounded), below))
        error = abs(got.astype(np.float64) - exact) / unit.astype(np.float64)
    # An infinity where rounding gives one is right, as is every equal value.
    return float(np.max(np.where(got == rounded, 0.0, error)))


def uniform(low, high, count=20_000):
    return np.random.default_rng(1).uniform(low, high, count)


def tiny():
    """Return both signs of every binade, down to the last float64 subnormal."""
    powers = 1.3 * 2.0 ** np.arange(-1070, -3)
    return np.concatenate([powers, -powers])


# word: oracle, arguments, and the allowed error in ulp for float32 and float64.
WORDS = [
    ("exp", np.exp, [tiny(), uniform(-760, 720), uniform(-110, 90)], 1.5, 2),
    ("expm1", np.expm1, [tiny(), uniform(-50, 720), uniform(-20, 90)], 2, 3),
    ("log1p", np.log1p, [tiny(), uniform(-0.999, 1), uniform(0, 1e6)], 2, 2),
    ("tanh", np.tanh, [tiny(), uniform(-25, 25), uniform(-1, 1)], 3, 4),
    ("erfc", erfc, [tiny(), uniform(-7, 28), uniform(-2, 11)], 6, 8),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lanes", [4, 16])
@pytest.mark.parametrize(("name", "oracle", "grids", "single", "double"), WORDS)
def test_words_are_accurate(name, oracle, grids, single, double, lanes, dtype):
    x = np.concatenate(grids).astype(DTYPES[dtype])
    with np.errstate(all="ignore"):
        exact = oracle(x.astype(np.float64))
    worst = ulps(evaluate(name, x, lanes=lanes), exact, x.dtype.type)
    assert worst <= (single if dtype == "f32" else double)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("exp", {0: 1, INF: INF, -INF: 0, 1e30: INF, -1e30: 0}),
        ("expm1", {0: 0, INF: INF, -INF: -1, 1e30: INF, -1e30: -1}),
        ("log1p", {0: 0, 1: math.log(2)}),
        ("tanh", {0: 0, INF: 1, -INF: -1, 1e30: 1, -1e30: -1}),
        ("erfc", {0: 1, INF: 0, -INF: 2, 1e30: 0, -1e30: 2}),
    ],
)
def test_limits(name, limits, dtype):
    x = np.array([*limits, -0.0, NAN], DTYPES[dtype])
    expected = np.array([*limits.values(), limits[0], NAN], x.dtype)
    np.testing.assert_array_equal(evaluate(name, x), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_graceful_at_both_ends(dtype):
    info = np.finfo(DTYPES[dtype])
    top = math.log(float(info.max))
    bottom = math.log(float(info.tiny))
    x = np.array([top - 1e-3, top + 1e-3, bottom - 3, bottom - 60], info.dtype)
    y = evaluate("exp", x)
    assert np.isfinite(y[0])
    assert y[1] == INF
    assert 0 < y[2] < info.tiny
    assert y[3] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd(dtype):
    x = uniform(0, 12).astype(DTYPES[dtype])
    np.testing.assert_array_equal(evaluate("tanh", -x), -evaluate("tanh", x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("oracle", [np.maximum, np.minimum])
def test_extremes_keep_nan_of_either_side(oracle, dtype):
    values = np.array([NAN, -INF, -1, 0, 2, INF], DTYPES[dtype])
    x, y = (side.ravel() for side in np.meshgrid(values, values))
    got = evaluate(oracle.__name__, x, y)
    np.testing.assert_array_equal(got, oracle(x, y))


@pytest.mark.parametrize("dtype", DTYPES)
def test_floats_stand_on_either_side(dtype):
    x = uniform(-4, 4, 64).astype(DTYPES[dtype])
    expected = (2 - (1 + x) * 3) / (4 / (x - 5))
    rtol = 8 * np.finfo(x.dtype).eps
    np.testing.assert_allclose(evaluate("floats", x), expected, rtol=rtol, atol=rtol)
    np.testing.assert_array_equal(
        evaluate("where", x, -x), np.where(x < -x, x.dtype.type(0.5), x)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mark", "oracle"), [("()", apply), ("'", apply_derivative)])
def test_activations_follow_their_formulas(mark, oracle, name, dtype):
    row = ACTIVATIONS[name]
    special = [0, -3, 3, 6, INF, -INF, NAN]
    x = np.concatenate([uniform(-90, 90), uniform(-6, 6), special])
    x = x.astype(DTYPES[dtype])
    eps, tiny = np.finfo(x.dtype).eps, np.finfo(x.dtype).tiny
    # gelu rounds its argument of exp and erfc, so a fused multiply-add moves the
    # result by x**2 eps; near the zeros of silu' and gelu' two terms cancel.
    near = np.nan_to_num(abs(x), nan=0.0, posinf=0.0)
    rtol = eps * (16 + (near**2 if name == "gelu" else 0))
    atol = np.where(near < 3, 2 * eps, tiny)
    for lanes, parameter in ((4, row.parameter or 0.0), (16, 0.3)):
        got = evaluate(f"{name}{mark}", x, lanes=lanes, parameter=parameter)
        expected = oracle(x, name, parameter)
        with np.errstate(invalid="ignore"):
            close = abs(got - expected) <= atol + rtol * abs(expected)
        right = close | (got == expected) | (np.isnan(got) & np.isnan(expected))
        assert right.all(), (x[~right], got[~right], expected[~right])


LIBM = r"(exp|exp2|expm1|log|log1p|log2|tanh|erf|erfc|pow|ldexp|scalbn|fma"
LIBM += r"|rint|nearbyint|round|roundeven|floor)"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lanes", [4, 16])
def test_machine_code_calls_no_library(dtype, lanes):
    (asm,) = compiled(dtype, lanes).inspect_asm().values()
    assert not re.findall(rf"[\s$_,]{LIBM}f?(?=[\s,@]|$)", asm, re.MULTILINE)


@pytest.mark.parametrize("lanes", [1, 2, 8, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_lane_count_gives_the_same_bits(dtype, lanes):
    x = uniform(-8, 8, 64).astype(DTYPES[dtype])
    y, out, p = np.zeros_like(x), np.zeros_like(x), np.zeros(1)
    addresses = (array.ctypes.data for array in (x, y, out))
    compiled(dtype, lanes, ("gelu()",))(0, *addresses, x.size, p.ctypes.data)
    np.testing.assert_array_equal(out, evaluate("gelu()", x))
