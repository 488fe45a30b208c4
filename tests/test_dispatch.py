"""Backends, and the look-up of calls seen before: it may never accept what is wrong."""

import subprocess
import sys

import numpy as np
import pytest
from cases import Case, assert_close, environment, lanes

import numbadw as ndw
from numbadw import calls, functional

SHAPE = (1, 6, 7, 19)
# Other forms of the options that a bad call may have equal ones of.
PAIRS = (
    {"strides": (1, 1)},
    {"dilation_rate": (1, 1)},
    {"padding": ((0, 0), (0, 0))},
    {"activation": ("leaky_relu", 1.0)},
)


@pytest.fixture
def arrays(rng):
    """Return inputs, kernel, bias and out of a call that was made once already."""
    x, k, b = Case(*SHAPE[1:]).arrays(rng)
    out = np.zeros((1, 4, 5, 19), "f4")
    for backend in ("auto", "cpu", "reference") * 2:
        for target in (None, out):
            for bias in (None, b):
                ndw.depthwise_conv2d(x, k, bias, padding=0, out=target, backend=backend)
            for pairs in PAIRS:
                options = {"padding": 0, "backend": backend, **pairs}
                ndw.depthwise_conv2d(x, k, b, out=target, **options)
        ndw.depthwise_conv2d(x, k, b, padding=1, backend=backend)
    return x, k, b, out


@pytest.mark.parametrize("again", [False, True])
def test_cuda_is_an_error_that_says_why(again, arrays):
    assert issubclass(ndw.BackendUnavailableError, RuntimeError)
    x, k, b, _ = arrays
    with pytest.raises(ndw.BackendUnavailableError, match=r"backend='cuda' .*'cpu'"):
        ndw.depthwise_conv2d(x, k, b, backend="CUDA" if again else "cuda")


@pytest.mark.parametrize("name", ["auto", "CPU", "Auto", "Reference"])
def test_backends_in_any_case(name, arrays):
    x, k, b, _ = arrays
    assert_close(ndw.depthwise_conv2d(x, k, b, backend=name), x, k, b)


def test_reference_rounds_once(arrays):
    x, k, b, _ = arrays
    exact = ndw.depthwise_conv2d(
        *(a.astype("f8") for a in (x, k, b)), backend="reference"
    )
    result = ndw.depthwise_conv2d(x, k, b, backend="reference")
    np.testing.assert_array_equal(result, exact.astype("f4"))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (TypeError, "strides", True),
        (TypeError, "strides", 1.0),
        (TypeError, "strides", (1, True)),
        (TypeError, "strides", (1.0, 1)),
        (TypeError, "strides", np.float32(1)),
        (TypeError, "strides", None),
        (TypeError, "dilation_rate", True),
        (TypeError, "dilation_rate", 1.0),
        (ValueError, "dilation_rate", (1, 1, 1)),
        (ValueError, "dilation_rate", 0),
        (TypeError, "padding", False),
        (TypeError, "padding", 0.0),
        (TypeError, "padding", ((0, 0), (0, 0.0))),
        (TypeError, "padding", ((False, 0), (0, 0))),
        (ValueError, "padding", -1),
        (ValueError, "padding", "full"),
        (TypeError, "data_format", None),
        (ValueError, "data_format", "NHWC"),
        (TypeError, "data_format", ["channels_last"]),
        (TypeError, "activation", 1),
        (ValueError, "activation", "reluu"),
        (TypeError, "activation", ("leaky_relu", [0.1])),
        (TypeError, "activation", ("leaky_relu", True)),
        (TypeError, "backend", 0),
        (ValueError, "backend", "gpu"),
    ],
)
def test_a_good_call_before_does_not_excuse_a_bad_one(
    error, name, value, backend, arrays
):
    x, k, b, out = arrays
    out[...] = 5
    options = {"backend": backend, "padding": 0, name: value}
    for result in (None, out):
        with pytest.raises(error, match=name):
            ndw.depthwise_conv2d(x, k, b, out=result, **options)
    assert (out == 5).all()


class Sub(np.ndarray):
    """A subclass that adds nothing."""


def bad_arrays(arrays):
    """Return (error, message, arguments) of calls whose arrays are wrong."""
    x, k, b, out = arrays
    frozen, self_overlap = out.copy(), np.broadcast_to(out[:, :, :1], out.shape)
    frozen.flags.writeable = False
    pool = np.zeros(x.size + out.size, "f4")
    inside = pool[: x.size].reshape(x.shape)
    beside = pool[x.size - 1 : x.size - 1 + out.size].reshape(out.shape)
    return {
        "masked inputs": (TypeError, "inputs .*mask", (np.ma.array(x), k, b, out)),
        "masked kernel": (TypeError, "kernel .*mask", (x, np.ma.array(k), b, out)),
        "masked bias": (TypeError, "bias .*mask", (x, k, np.ma.array(b), out)),
        "masked out": (TypeError, "out .*mask", (x, k, b, np.ma.array(out))),
        "list": (TypeError, "inputs", (x.tolist(), k, b, out)),
        "integers": (TypeError, "inputs", (x.astype("i4"), k, b, out)),
        "half": (TypeError, "inputs", (x.astype("f2"), k, b, out)),
        "wide kernel": (TypeError, "kernel", (x, k.astype("f8"), b, out)),
        "bool kernel": (TypeError, "kernel", (x, k > 0, b, out)),
        "wide bias": (TypeError, "bias", (x, k, b.astype("f8"), out)),
        "complex bias": (TypeError, "bias", (x, k, b.astype("c8"), out)),
        "bias shape": (ValueError, "bias", (x, k, b[:-1], out)),
        "bias ndim": (ValueError, "bias", (x, k, b[None], out)),
        "kernel channels": (ValueError, "kernel", (x, k[:, :, 1:], b, out)),
        "kernel ndim": (ValueError, "kernel", (x, k[0], b, out)),
        "too small": (ValueError, "output", (x[:, :2], k, b, out)),
        "out dtype": (TypeError, "out", (x, k, b, out.astype("f8"))),
        "out swapped": (TypeError, "out", (x, k, b, out.astype(">f4"))),
        "out shape": (ValueError, "out", (x, k, b, out[:, :-1])),
        "out read-only": (ValueError, "out .*read-only", (x, k, b, frozen)),
        "out broadcast": (ValueError, "out", (x, k, b, self_overlap)),
        "out list": (TypeError, "out", (x, k, b, out.tolist())),
        "out overlaps": (ValueError, "out .*inputs", (inside, k, b, beside)),
    }


NAMES = list(
    bad_arrays(
        [np.zeros(SHAPE, "f4"), *map(np.zeros, [(3, 3, 19, 1), 19, (1, 4, 5, 19)])]
    )
)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_bad_arrays_after_a_good_call(name, backend, arrays):
    error, message, (x, k, b, out) = bad_arrays(arrays)[name]
    before = np.array(out)
    for _ in range(2):
        with pytest.raises(error, match=message):
            ndw.depthwise_conv2d(x, k, b, padding=0, out=out, backend=backend)
    np.testing.assert_array_equal(np.asarray(out), before)


def test_out_may_lie_between_the_inputs(arrays):
    # Their extents overlap but no element does: allowed, on the first call and later.
    x, k, _, _ = arrays
    for c in (2, lanes() + 1):
        both = np.zeros((2, 6, 7, c), "f4")
        both[0] = x[0, :, :, :1]
        inputs, out = both[:1], both[1:]
        woven = np.zeros((1, 6, 7, c, 2), "f4")
        woven[..., 0] = inputs
        kernel = np.ascontiguousarray(k[:, :, :1].repeat(c, 2))
        expected = ndw.depthwise_conv2d(inputs, kernel, padding=1)
        for _ in range(3):
            for source, target in ((inputs, out), (woven[..., 0], woven[..., 1])):
                target[...] = 0
                ndw.depthwise_conv2d(source, kernel, padding=1, out=target)
                np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_overlap_with_every_argument_is_seen_after_a_good_call(which, rng):
    # A 1x1 kernel of C = 36 makes kernel, bias and a result all of 36 elements.
    names = ("inputs", "kernel", "bias")
    x, k, b = Case(1, 1, 36, kernel=(1, 1)).arrays(rng)
    out = np.zeros((1, 1, 1, 36), "f4")
    for _ in range(2):
        ndw.depthwise_conv2d(x, k, b, out=out)
    pool = np.ones(60, "f4")
    arguments = [x, k, b]
    arguments[which] = pool[:36].reshape(arguments[which].shape)
    target = pool[20:56].reshape(out.shape)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"out must not overlap {names[which]}"):
            ndw.depthwise_conv2d(*arguments, out=target)
    assert (pool == 1).all()


def test_subclasses_and_byte_orders_after_a_good_call(arrays):
    x, k, b, out = arrays
    expected = ndw.depthwise_conv2d(x, k, b)
    for inputs in (x.view(Sub), x.astype(">f4")):
        for kernel in (k.view(Sub), k.astype(">f4")):
            result = ndw.depthwise_conv2d(inputs, kernel, b.astype(">f4"))
            np.testing.assert_array_equal(result, expected)
    returned = ndw.depthwise_conv2d(x, k, b, out=out.view(Sub))
    assert type(returned) is Sub
    np.testing.assert_array_equal(np.asarray(returned), expected)


def test_calls_seen_before_do_no_checks(arrays, monkeypatch):
    x, k, b, _ = arrays
    expected = ndw.depthwise_conv2d(x, k, b, strides=(1, 1), padding=((0, 1), (1, 0)))
    monkeypatch.setattr(functional, "_check", None)
    result = ndw.depthwise_conv2d(x, k, b, strides=[1, 1], padding=[[0, 1], [1, 0]])
    np.testing.assert_array_equal(result, expected)


def test_the_table_of_calls_stays_small(rng, monkeypatch):
    monkeypatch.setattr(calls, "MOST", 3)
    x, k, _ = Case(6, 40, 19).arrays(rng)
    for w in range(3, 12):
        piece = np.ascontiguousarray(x[:, :, :w])
        assert_close(ndw.depthwise_conv2d(piece, k), piece, k)
        assert len(functional._calls) <= 3


NO_JIT = """
import numpy as np
import numbadw as ndw
x, k = np.arange(96, dtype="f4").reshape(1, 4, 4, 6), np.ones((3, 3, 6, 2), "f4")
out = np.zeros((1, 4, 4, 12), "f4")
for backend in ("auto", "cpu"):
    y = ndw.depthwise_conv2d(x, k, padding="same", activation="relu", backend=backend)
    ndw.depthwise_conv2d(x, k, padding="same", activation="relu", out=out)
    expected = ndw.depthwise_conv2d(x, k, padding="same", backend="reference")
    assert np.array_equal(y, expected) and np.array_equal(out, expected)
layer = ndw.DepthwiseConv2D(3)
assert layer(x).shape == (1, 2, 2, 6)
print("fine")
"""


def test_without_numbas_jit_the_reference_answers():
    child = subprocess.run(
        [sys.executable, "-c", NO_JIT],
        env=environment(NUMBA_DISABLE_JIT="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.stdout == "fine\n", child.stderr
