"""Calls on sequences that are refused, and what the messages say."""

import numpy as np
import pytest

import numbadw as ndw

X, KERNEL = np.zeros((2, 9, 3), np.float32), np.zeros((4, 3, 2), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inputs": X[0]}, ValueError, "inputs must have 3 dimensions, got"),
        ({"inputs": X.astype(int)}, TypeError, "inputs must be float32 or float64"),
        ({"kernel": KERNEL[None]}, ValueError, "kernel must have 3 dimensions"),
        (
            {"kernel": KERNEL[:, :2]},
            ValueError,
            r"kernel \(k, C, M\) has C = 2 and inputs \(N, L, C\) has C = 3",
        ),
        ({"kernel": KERNEL[:0]}, ValueError, r"\(k, C, M\) with every size >= 1"),
        ({"bias": np.zeros(3, "f4")}, ValueError, r"bias must have shape .* \(6,\)"),
        ({"strides": 0}, ValueError, "strides must be a positive int or a tuple of"),
        ({"strides": (1, 1)}, ValueError, r"strides .* got \(1, 1\) of length 2"),
        ({"strides": True}, TypeError, "strides must be a positive int"),
        ({"dilation_rate": 1.0}, TypeError, "dilation_rate must be a positive int"),
        ({"padding": "full"}, ValueError, "padding must be 'valid', 'same', 'causal'"),
        ({"padding": -1}, ValueError, "padding must be 'valid'"),
        ({"padding": (1, 2, 3)}, ValueError, r"padding .* of length 3"),
        ({"padding": ((1, 1), (2, 2))}, TypeError, "padding must be"),
        ({"dilation_rate": 3}, ValueError, "at least one step, got 0: inputs has sh"),
        ({"data_format": "NLC"}, ValueError, "data_format must be one of"),
        ({"activation": "rely"}, ValueError, "activation"),
        ({"out": X}, ValueError, r"out must have shape \(2, 6, 6\)"),
        ({"backend": "gpu"}, ValueError, "backend must be one of"),
        ({"return_state": 1}, TypeError, "return_state must be a bool, got 1"),
    ],
)
def test_refused(changes, error, message):
    for _ in range(2):
        with pytest.raises(error, match=message):
            ndw.depthwise_conv1d(**{"inputs": X, "kernel": KERNEL} | changes)


def test_out_may_not_overlap(rng):
    memory = np.zeros(400, np.float32)
    x, out = memory[:60].reshape(1, 20, 3), memory[30:90].reshape(1, 20, 3)
    apart = memory[100:160].reshape(1, 20, 3)
    kernel = np.ones((2, 3, 1), np.float32)
    ndw.depthwise_conv1d(x, kernel, padding="causal", out=apart)
    for _ in range(2):
        with pytest.raises(ValueError, match="out must not overlap inputs"):
            ndw.depthwise_conv1d(x, kernel, padding="causal", out=out)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        ndw.depthwise_conv1d(x, kernel, padding="causal", out=out)


def test_images_do_not_know_causal():
    with pytest.raises(ValueError, match="padding must be 'valid', 'same', an int"):
        ndw.depthwise_conv2d(X[None], KERNEL[None], padding="causal")


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (X, ValueError, r"output's shape \(2, 6, 6\), got .* kernel has shape \(4, 3"),
        (X[0], ValueError, "grad must have 3 dimensions"),
        (X.astype("f8"), TypeError, "grad must be float32 as inputs"),
    ],
)
def test_gradients_refused(grad, error, message):
    with pytest.raises(error, match=message):
        ndw.depthwise_conv1d_grad(X, KERNEL, grad)
