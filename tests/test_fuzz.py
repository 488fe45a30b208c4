"""Thousands of calls with something wrong: a right result or an error that names it.

Every call is a good one with one or two arguments replaced.  It must give the right
result or raise a TypeError or ValueError that names what was replaced; whatever it
does, it warns of nothing, leaves its inputs alone, and writes no `out` before it
raises.  Results that no memory holds are MemoryErrors.
"""

import array
import collections
import decimal
import fractions
import functools
import re

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from views import VIEWS, Plain

import numbadw as ndw
from numbadw import tolerance

CALLS = 1600  # of each function
SENTINEL = 7.25
# What else an error may call an argument.
ALSO = {"input_shape": "inputs", "kernel_shape": "kernel"}


class Arraylike:
    """Something that turns into an array if asked."""

    def __array__(self, dtype=None, copy=None):
        """Give ones."""
        return np.ones((1, 5, 6, 3), dtype)


class Hostile:
    """Something of which even the attributes fail."""

    def __getattr__(self, name):
        raise AttributeError(name)

    def __len__(self):
        raise ValueError("no length")

    def __iter__(self):
        raise ValueError("no items")


THINGS = [
    None, True, False, 0, 1, -1, 3.5, float("nan"), 1j, "same", "", b"same", (), [], {},
    {1, 2}, range(4), slice(None), ..., object(), object, np.ndarray, int, len,
    Hostile(), Arraylike(), fractions.Fraction(1), decimal.Decimal(1), np.float32(1),
    np.int64(1),
    np.bool_(True), np.array(1), np.array(1.0, "f4"), np.array("a"), np.array(None),
    memoryview(b"abcd"), bytearray(4), array.array("f", [1, 2]), np.datetime64("2020"),
    collections.deque([1, 1]), np.ma.masked, np.random.default_rng(0), lambda: 1,
]  # fmt: skip
HUGE = [2**31, 2**31 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 2**200]
NUMBERS = [
    *HUGE, 0, -1, -(2**63), -(2**200), np.int8(1), np.uint8(2), np.uint64(2**63),
    np.int8(-1), np.float64(1), np.bool_(True), 1.0, 2.5, True, "1", (1,), [2, 1],
    (1, 2),
    (1, 1, 1), (1, (1, 1)), ((1, 1), 1), ([1], [1]), (1, "1"), (1, None), (1, 1.0),
    (True, 1), (1, -1), (0, 1), (1, 2**200), np.array([1, 1]), (np.int16(2), 1),
]  # fmt: skip
PADDINGS = [
    *NUMBERS, "same", "VALID", "full", "causal", "", b"same", np.str_("same"),
    ((1, 2), (0, 3)), [[0, 0], [1, 0]], ((1, 1),), ((1, 1), (1, 1), (1, 1)),
    ((1, -1), (0, 0)), ((0, 2**62), (0, 0)), ((1.0, 1), (1, 1)), ((1, True), (1, 1)),
    ((1, 1), (1,)), (("a", 1), (1, 1)), ((2**63, 0), (0, 2**63)), (0, 2**40), 2, 5,
]  # fmt: skip
WORDS = [
    "channels_last", "CHANNELS_FIRST", "channels", "NHWC", "", "cpu", "CPU", "gpu",
    "reference", "Auto", b"cpu", np.str_("cpu"), "relu", "ReLU", "relu ", "leaky_relu",
    "none", ("leaky_relu", 0.1), ("leaky_relu", "a"), ("leaky_relu", np.nan),
    ("leaky_relu", True),
    ("leaky_relu", 10**400), ("relu", 0.1), ("elu",), ("elu", 1, 2), ("nope", 1),
    ["leaky_relu", np.float32(0.1)], (None, 1), ("leaky_relu", -(10**400)), ("elu", 1j),
]  # fmt: skip
SHAPES = [
    (1, 5, 6, 3), (3, 3, 3, 2), [1, 5, 6, 3], (1, 5, 6), (1, 5, 6, 3, 1), (1, 5, 6, 4),
    (0, 5, 6, 3), (1, 0, 6, 3), (1, -5, 6, 3), (1, 5.0, 6, 3), (1, True, 6, 3),
    ("1", 5, 6, 3), (1, 2**40, 6, 3), (2**62, 5, 6, 3), (1, 5, 6, 2**200), (3, 3, 3, 0),
    (np.int64(1), np.uint8(5), 6, 3), np.array((1, 5, 6, 3)), (None,) * 4,
    ((1, 5), 6, 3, 1),
    (3, 3, 3, -1), (2**200, 3, 3, 2), (1, 1, 3, 2),
]  # fmt: skip
DTYPES = [
    "f2", "f4", "f8", "g", "i1", "i4", "i8", "u1", "u8", "?", "c8", "O", "S3", "U2",
    "M8[s]", "m8[s]", [("a", "f4")], ">f4", ">f8", "V4",
]  # fmt: skip


def frozen(a):
    """Return a copy that may not be written."""
    a = a.copy()
    a.flags.writeable = False
    return a


RESHAPED = [
    lambda a: a[None], lambda a: a[0], lambda a: a.ravel(), lambda a: a.reshape(-1, 1),
    lambda a: a[:0], lambda a: a[:, :0], lambda a: a[..., :0], lambda a: a[..., :1],
    lambda a: a[..., :-1], lambda a: np.concatenate([a, a], -1), lambda a: a.T,
    lambda a: np.concatenate([a, a]), lambda a: a[:1], lambda a: np.moveaxis(a, -1, 1),
    lambda a: np.broadcast_to(a.flat[0], a.shape), lambda a: a[()], lambda a: a.flat[0],
    lambda a: as_strided(a, a.shape, (0,) * a.ndim, writeable=True),
]  # fmt: skip
RETYPED = [
    lambda a: a.tolist(), lambda a: iter(a), lambda a: (row for row in a), list, tuple,
    np.ma.array, lambda a: np.ma.array(a, mask=a > 0), lambda a: a.view(Plain),
    lambda a: memoryview(np.ascontiguousarray(a)), lambda a: a.view(np.recarray), bytes,
    lambda a: a.dtype, lambda a: a.shape, lambda a: a.flat, frozen, str,
    lambda a: np.ascontiguousarray(a).view("i1"), np.asfortranarray,
]  # fmt: skip
VALUES = [np.nan, np.inf, -np.inf, 1e36, -1e36, 1e-45, -0.0, 0.0]


def filled(value, a):
    """Return a copy with one value, which may be odd, in one place."""
    a = a.copy()
    a.flat[a.size // 2] = value
    return a


def as_type(dtype, a):
    """Return the array in another dtype, zeros where it cannot be."""
    try:
        with np.errstate(all="ignore"):
            return a.astype(dtype)
    except (TypeError, ValueError):
        return np.zeros(a.shape, dtype)


ARRAYS = [
    *RESHAPED, *RETYPED,
    *(functools.partial(as_type, dtype) for dtype in DTYPES),
    *(functools.partial(filled, value) for value in 2 * VALUES),
    *(lambda a, make=make: make(a) if a.ndim == 4 else a for make in VIEWS.values()),
    *(lambda a, make=make: make(a) if a.ndim == 4 else -a for make in VIEWS.values()),
    *(lambda a, thing=thing: thing for thing in THINGS),
]  # fmt: skip
OPTIONS = {
    "strides": NUMBERS + THINGS,
    "dilation_rate": NUMBERS + THINGS,
    "padding": PADDINGS + THINGS,
    "data_format": WORDS + THINGS,
    "activation": WORDS + THINGS,
    "backend": WORDS + THINGS,
    "input_shape": SHAPES + THINGS,
    "kernel_shape": SHAPES + THINGS,
}
COMMON = {"strides": 1, "padding": "same", "dilation_rate": 1}
WORDED = {"data_format": "channels_last", "backend": "auto"}
FUNCTIONS = {
    ndw.depthwise_conv2d: ("inputs", "kernel", "bias"),
    ndw.depthwise_conv2d_input_grad: ("grad", "kernel"),
    ndw.depthwise_conv2d_kernel_grad: ("inputs", "grad"),
    ndw.depthwise_conv2d_grad: ("inputs", "kernel", "grad", "bias"),
}


def good_call(function, rng):
    """Return the arguments of a call that is right, `out` among them where it can."""

    def draw(*shape):
        return rng.standard_normal(shape).astype("f4")

    arrays = {
        "inputs": draw(1, 5, 6, 3),
        "kernel": draw(3, 3, 3, 2),
        "bias": draw(6),
        "grad": draw(1, 5, 6, 6),
    }
    given = {name: arrays[name] for name in FUNCTIONS[function]} | COMMON | WORDED
    if function in (ndw.depthwise_conv2d, ndw.depthwise_conv2d_grad):
        given["activation"] = None
    shape = arrays["grad"].shape
    if function is ndw.depthwise_conv2d_input_grad:
        given["input_shape"] = shape = arrays["inputs"].shape
    if function is ndw.depthwise_conv2d_kernel_grad:
        given["kernel_shape"] = shape = arrays["kernel"].shape
    if function is not ndw.depthwise_conv2d_grad:
        given["out"] = np.full(shape, SENTINEL, "f4") if rng.integers(3) else None
    return given


def mutate(given, name, rng):
    """Replace one argument."""
    value = given[name]
    if name == "out":
        given[name] = mutate_out(given, rng)
    elif isinstance(value, np.ndarray):
        given[name] = mutate_array(value, rng)
    elif name in OPTIONS:
        given[name] = OPTIONS[name][rng.integers(len(OPTIONS[name]))]


def mutate_array(value, rng):
    """Return another array, or something that is none."""
    change = ARRAYS[rng.integers(len(ARRAYS))]
    try:
        return change(value)
    except (IndexError, TypeError, ValueError):  # not with so many dimensions
        return value[..., :0]


def mutate_out(given, rng):
    """Return an `out` that may be wrong in any way, overlaps above all."""
    if given["out"] is None:
        return THINGS[rng.integers(len(THINGS))]
    if rng.integers(3):
        return mutate_array(given["out"], rng)
    # It lies in one piece of memory with what the call reads, or with itself.
    arrays = [name for name, value in given.items() if type(value) is np.ndarray]
    victim = str(rng.choice(arrays))
    pool = np.full(2000, SENTINEL, "f4")
    value = given[victim]
    if value.dtype == pool.dtype and victim != "out":
        given[victim] = pool[100 : 100 + value.size].reshape(value.shape)
        given[victim][...] = value
    steps = tuple(int(step) for step in rng.choice([0, 4, 8, 24, 60, 144, 720], 4))
    start = pool[rng.integers(0, 300) :]
    return as_strided(start, given["out"].shape, steps, writeable=True)


def answers_of(function, given):
    """Give the right results of a call that returned."""
    options = {name: given[name] for name in (*COMMON, "data_format")}
    if function is ndw.depthwise_conv2d:
        options["activation"] = given["activation"]
        arrays = (given[name] for name in FUNCTIONS[function])
        return (tolerance.forward(*arrays, **options),)
    options["activation"] = given.get("activation")
    x, k, g = (given.get(name) for name in ("inputs", "kernel", "grad"))
    dtype = (g if x is None else x).dtype
    x = np.zeros(given["input_shape"], dtype) if x is None else x
    k = np.zeros(given["kernel_shape"], dtype) if k is None else k
    answers = tolerance.gradients(x, k, g, given.get("bias"), **options)
    first = {ndw.depthwise_conv2d_input_grad: 0, ndw.depthwise_conv2d_kernel_grad: 1}
    if function in first:
        return answers[first[function] : first[function] + 1]
    return answers


def snapshot(given):
    """Return the bytes of every array of a call."""
    return {
        name: np.ma.getdata(value).tobytes()
        for name, value in given.items()
        if isinstance(value, np.ndarray) and not value.dtype.hasobject
    }


def make_call(function, given):
    """Call, and give the results or the error."""
    positional = [given[name] for name in FUNCTIONS[function] if name != "bias"]
    positional += [
        given[name] for name in ("input_shape", "kernel_shape") if name in given
    ]
    named = (*COMMON, *WORDED, "activation", "bias", "out")
    options = {name: given[name] for name in named if name in given}
    try:
        results = function(*positional, **options)
    except (TypeError, ValueError, MemoryError, ndw.BackendUnavailableError) as error:
        return None, error
    return results if isinstance(results, tuple) else (results,), None


def check_call(function, given, changed):
    """Make a call and check all that is promised of it; tell whether it returned."""
    before = snapshot(given)
    results, error = make_call(function, given)
    after = snapshot(given)
    if error is not None:
        assert after == before
        if isinstance(error, MemoryError):
            assert any(name not in FUNCTIONS[function] for name in changed)
            return False
        names = {*changed, *(ALSO[name] for name in changed if name in ALSO)}
        named = re.search(rf"\b({'|'.join(names)})\b", str(error))
        # Of two arguments that do not fit together either may be named.
        fit = re.match(
            r"(\w+) must have (as many|shape|the output's|dtype)", str(error)
        )
        assert named or {fit and fit[1], f"{fit and fit[1]}_shape"} & {*given}, error
        return False
    out = given.get("out")
    if out is not None:
        assert results[0] is out
        del before["out"], after["out"]
    assert after == before
    for result, answer in zip(results, answers_of(function, given), strict=True):
        assert type(result) is np.ndarray or result is out
        fault = answer.fault(np.asarray(result))
        assert not fault, fault
    return True


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_calls_with_something_wrong(function):
    returned = 0
    for number in range(CALLS):
        rng = np.random.default_rng([number, len(FUNCTIONS[function])])
        given = good_call(function, rng)
        changed = rng.choice(list(given), 1 + int(rng.integers(4) == 0), replace=False)
        for name in changed:
            mutate(given, name, rng)
        try:
            returned += check_call(function, given, set(map(str, changed)))
        except Exception as error:
            shown = {name: given[name] for name in changed}
            raise AssertionError(f"call {number}: {shown!r}") from error
    assert CALLS / 10 < returned < CALLS / 2


def test_there_are_enough_calls():
    assert CALLS * len(FUNCTIONS) >= 5000
