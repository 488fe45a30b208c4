"""Sequences in pieces and step by step: the bits of the whole, whatever the split."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import numbadw as ndw
from numbadw.cpu.tile import CHAIN

MANY, FEW = 19, 3
# Kernel width, channels, multiplier, dilation, dtype.
KINDS = {
    "width 4": (4, MANY, 1, 1, "float32"),
    "few channels": (4, FEW, 1, 1, "float32"),
    "one channel": (3, 1, 1, 2, "float32"),
    "multiplier 2": (4, MANY, 2, 1, "float32"),
    "dilation": (3, MANY, 1, 5, "float32"),
    "float64": (5, MANY, 1, 2, "float64"),
    "one tap": (1, MANY, 1, 1, "float32"),
    "long": (CHAIN + 40, MANY, 1, 1, "float32"),
    "long, few channels": (CHAIN + 40, 12, 1, 1, "float32"),
}
LENGTH = 90


def draw(rng, kind, n=2, length=LENGTH):
    k, c, m, dilation, dtype = KINDS[kind]
    x = rng.standard_normal((n, length, c)).astype(dtype)
    kernel = rng.standard_normal((k, c, m)).astype(dtype)
    bias = rng.standard_normal(c * m).astype(dtype)
    return x, kernel, bias, {"dilation_rate": dilation, "activation": "silu"}


def in_pieces(x, kernel, bias, cuts, first, state=None, **options):
    """Return the outputs of the pieces between the cuts, and the last state."""
    results = []
    layout = "channels_first" if first else "channels_last"
    for start, stop in itertools.pairwise([0, *sorted(cuts), x.shape[1]]):
        piece = x[:, start:stop]
        y, state = ndw.depthwise_conv1d(
            piece.transpose(0, 2, 1) if first else piece,
            kernel,
            bias,
            padding="causal",
            data_format=layout,
            initial_state=state,
            return_state=True,
            **options,
        )
        results.append(y.transpose(0, 2, 1) if first else y)
    return np.concatenate(results, axis=1), state


@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=8), n=st.integers(1, 3))
def test_any_split_gives_the_bits_of_the_whole(kind, first, cuts, n):
    x, kernel, bias, options = draw(np.random.default_rng(n), kind, n)
    whole = ndw.depthwise_conv1d(x, kernel, bias, padding="causal", **options)
    pieces, state = in_pieces(x, kernel, bias, cuts, first, **options)
    np.testing.assert_array_equal(pieces, whole)
    size = (len(kernel) - 1) * options["dilation_rate"]
    padded = np.concatenate([np.zeros((n, size, x.shape[2]), x.dtype), x], axis=1)
    np.testing.assert_array_equal(state, padded[:, padded.shape[1] - size :])


@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
@pytest.mark.parametrize("kind", ["width 4", "long, few channels"])
def test_long_pieces_beside_short_ones(kind, first, rng):
    """Long enough for threads, for lanes along the sequence and for runs of strips."""
    x, kernel, bias, options = draw(rng, kind, 2, 3000)
    whole = ndw.depthwise_conv1d(x, kernel, bias, padding="causal", **options)
    for cuts in ([1], [2999], [1, 2, 3], [700, 705, 2000]):
        pieces, _ = in_pieces(x, kernel, bias, cuts, first, **options)
        np.testing.assert_array_equal(pieces, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_the_bits_of_the_whole(kind, rng):
    x, kernel, bias, options = draw(rng, kind)
    whole = ndw.depthwise_conv1d(x, kernel, bias, padding="causal", **options)
    size = (len(kernel) - 1) * options["dilation_rate"]
    state = np.zeros((len(x), size, x.shape[2]), x.dtype)
    for step in range(x.shape[1]):
        before = state.copy()
        y, after = ndw.depthwise_conv1d_update(
            state, x[:, step], kernel, bias, **options
        )
        np.testing.assert_array_equal(y, whole[:, step])
        np.testing.assert_array_equal(state, before)
        assert after.shape == state.shape
        state = after
    _, expected = in_pieces(x, kernel, bias, [], False, **options)
    np.testing.assert_array_equal(state, expected)


def test_steps_and_pieces_take_turns(rng):
    x, kernel, bias, options = draw(rng, "width 4")
    whole = ndw.depthwise_conv1d(x, kernel, bias, padding="causal", **options)
    head, state = in_pieces(x[:, :40], kernel, bias, [7], False, **options)
    y, state = ndw.depthwise_conv1d_update(state, x[:, 40], kernel, bias, **options)
    tail, _ = in_pieces(x[:, 41:], kernel, bias, [], True, state, **options)
    pieces = np.concatenate([head, y[:, None], tail], axis=1)
    np.testing.assert_array_equal(pieces, whole)


def test_a_state_of_the_users_own(backend, rng):
    """Equal to what stands before the rest of a longer sequence."""
    x, kernel, bias, options = draw(rng, "dilation")
    options |= {"padding": "causal", "backend": backend}
    whole = ndw.depthwise_conv1d(x, kernel, bias, **options)
    y = ndw.depthwise_conv1d(
        x[:, 30:], kernel, bias, initial_state=x[:, 20:30], **options
    )
    np.testing.assert_array_equal(y, whole[:, 30:])
    halves = (x[:, 20:30] * 2**10).astype(np.float16)
    y = ndw.depthwise_conv1d(x[:, 30:], kernel, bias, initial_state=halves, **options)
    exact = halves.astype(x.dtype)
    z = ndw.depthwise_conv1d(x[:, 30:], kernel, bias, initial_state=exact, **options)
    np.testing.assert_array_equal(y, z)


def test_an_empty_piece_changes_nothing(rng):
    x, kernel, bias, _ = draw(rng, "width 4")
    state = x[:, :3]
    y, after = ndw.depthwise_conv1d(
        x[:, :0],
        kernel,
        bias,
        padding="causal",
        initial_state=state,
        return_state=True,
    )
    assert (y.shape, y.dtype) == ((2, 0, MANY), x.dtype)
    np.testing.assert_array_equal(after, state)
    assert not np.shares_memory(after, x)
    with pytest.raises(ValueError, match="at least one step"):
        ndw.depthwise_conv1d(x[:, :0], kernel, padding="causal")


@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
@pytest.mark.parametrize("length", [2, 3, 50])
def test_out_and_inputs_left_alone(length, first, rng):
    x, kernel, bias, options = draw(rng, "width 4", 2, length + 3)
    piece, state = x[:, 3:], x[:, :3]
    copies = [array.copy() for array in (x, kernel, bias)]
    shape = (2, MANY, length) if first else (2, length, MANY)
    frame = np.full([size + 2 for size in shape], np.nan, x.dtype)
    out = frame[1:-1, 1:-1, 1:-1]
    y, _ = ndw.depthwise_conv1d(
        piece.transpose(0, 2, 1) if first else piece,
        kernel,
        bias,
        padding="causal",
        data_format="channels_first" if first else "channels_last",
        initial_state=state,
        return_state=True,
        out=out,
        **options,
    )
    assert y is out
    whole = ndw.depthwise_conv1d(x, kernel, bias, padding="causal", **options)
    y = y.transpose(0, 2, 1) if first else y
    np.testing.assert_array_equal(y, whole[:, 3:])
    assert np.isnan(frame).sum() == frame.size - out.size
    for array, copy in zip((x, kernel, bias), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


X, KERNEL = np.zeros((2, 9, 3), np.float32), np.zeros((4, 3, 2), np.float32)
STATE = np.zeros((2, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"padding": "valid"},
            ValueError,
            "need padding 'causal' and strides 1, got p",
        ),
        ({"padding": (3, 0)}, ValueError, "need padding 'causal'"),
        ({"strides": 2}, ValueError, "strides 1, got padding 'causal' and strides 2"),
        ({"initial_state": STATE[:, 1:]}, ValueError, r"initial_state .*\(2, 3, 3\)"),
        ({"initial_state": STATE[0]}, ValueError, "initial_state must have 3 dimens"),
        ({"initial_state": STATE > 0}, TypeError, "initial_state must be float32 as"),
        ({"initial_state": STATE.astype("f8")}, TypeError, "initial_state must be"),
        ({"initial_state": [0]}, TypeError, "initial_state must be a NumPy array"),
        ({"bias": np.zeros(3, "f4")}, ValueError, "bias must have shape"),
        ({"activation": "rely"}, ValueError, "activation"),
        ({"out": np.zeros((2, 9, 3), "f4")}, ValueError, r"out .* \(2, 9, 6\)"),
        ({"backend": "gpu"}, ValueError, "backend must be one of"),
    ],
)
def test_pieces_refused(changes, error, message):
    arguments = {
        "inputs": X,
        "kernel": KERNEL,
        "padding": "causal",
        "initial_state": STATE,
    }
    with pytest.raises(error, match=message):
        ndw.depthwise_conv1d(**arguments | changes)
    if changes.keys() <= {"padding", "strides"}:
        with pytest.raises(error, match=message):
            ndw.depthwise_conv1d(
                **{"inputs": X, "kernel": KERNEL, "return_state": True}
                | ({"padding": "causal"} | changes)
            )


def test_out_may_not_overlap_the_state():
    memory = np.zeros((1, 20, 2), np.float32)
    x, kernel = np.ones((1, 5, 2), np.float32), np.ones((4, 2, 1), np.float32)
    with pytest.raises(ValueError, match="out must not overlap initial_state"):
        ndw.depthwise_conv1d(
            x,
            kernel,
            padding="causal",
            initial_state=memory[:, 3:6],
            out=memory[:, 5:10],
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X}, ValueError, "x must have 2 dimensions"),
        ({"x": X[:, 0].astype(int)}, TypeError, "x must be float32 or float64"),
        ({"state": STATE[:, 1:]}, ValueError, r"state must have shape .*\(2, 3, 3\)"),
        ({"state": STATE.astype("f8")}, TypeError, "state must be float32 as x"),
        ({"dilation_rate": 2}, ValueError, r"state must have .* \(2, 6, 3\)"),
        ({"dilation_rate": True}, TypeError, "dilation_rate must be a positive int"),
        ({"kernel": KERNEL[:, :2]}, ValueError, "as many input channels as inputs"),
        ({"bias": np.zeros(3, "f4")}, ValueError, "bias must have shape"),
        ({"activation": 3}, TypeError, "activation"),
    ],
)
def test_steps_refused(changes, error, message):
    arguments = {"state": STATE, "x": X[:, 0], "kernel": KERNEL}
    ndw.depthwise_conv1d_update(**arguments)
    with pytest.raises(error, match=message):
        ndw.depthwise_conv1d_update(**arguments | changes)


def test_steps_of_other_kinds_of_arrays(rng):
    x, kernel, bias, options = draw(rng, "width 4")
    y, after = ndw.depthwise_conv1d_update(x[:, :3], x[:, 3], kernel, bias, **options)
    kinds = {
        "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
        "Fortran": np.asfortranarray,
        "every other": lambda array: np.repeat(array, 2, axis=0)[::2],
    }
    for name, kind in kinds.items():
        arrays = map(kind, (x[:, :3], x[:, 3], kernel, bias))
        for result, expected in zip(
            ndw.depthwise_conv1d_update(*arrays, **options), (y, after), strict=True
        ):
            assert result.dtype == np.float32, name
            np.testing.assert_array_equal(result, expected, name)
