"""Memory of the gradients beyond their results: bands of rows and the sums' parts."""

import tracemalloc
from collections import deque

import numpy as np
import pytest
from cases import Case

import numbadw as ndw
from numbadw import memory
from numbadw.cpu.records import index

IMAGE = Case(256, 256, 64)
BATCH = Case(28, 28, 64, n=80)
PARTS = 64
# Python's own objects; copies of a band: of inputs, gradients, results, derivatives.
OBJECTS, BANDS = 256 * 1024, 6 * 1024 * 1024


def apart(array):
    """Return the array with its channels no neighbours."""
    return np.repeat(array, 2, 3)[..., ::2]


def name(value):
    """Name a case or a function in a test's id."""
    return getattr(value, "label", None) or getattr(value, "__name__", None)


@pytest.mark.parametrize(
    ("case", "activation", "make", "room"),
    [
        (IMAGE, None, np.asarray, 0),
        (BATCH, None, np.asarray, 0),
        (IMAGE, "relu", np.asarray, BANDS),
        (BATCH, "relu", np.asarray, BANDS),
        (IMAGE, "relu", apart, BANDS),
        (IMAGE._replace(strides=(2, 2), first=True), None, np.asarray, BANDS),
        (IMAGE._replace(first=True, h=512, w=512, c=16), "relu", np.asarray, BANDS),
    ],
    ids=name,
)
def test_no_more_than_bands_and_parts(case, activation, make, room, monkeypatch):
    g = case.geometry
    x, grad = (make(np.ones(s, np.float32)) for s in (g.input_shape, g.output_shape))
    w = np.ones(g.kernel_shape, np.float32)

    def call():
        return ndw.depthwise_conv2d_grad(
            x, w, grad, activation=activation, **case.options
        )

    call()  # plans and code are kept
    monkeypatch.setattr(memory, "_kept", deque())  # no buffer comes from before
    tracemalloc.start()
    try:
        results = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sizes = [result.nbytes for result in results]
    assert sizes[0] > 3 * room / 2
    assert peak - sum(sizes) <= PARTS * sum(sizes[1:]) + OBJECTS + room


@pytest.mark.parametrize(
    "case",
    [
        IMAGE,
        BATCH,
        Case(2000, 2000, 1, n=4),
        Case(1, 100_000, 3),
        Case(4, 4, 16, n=10_000),
        Case(64, 64, 64, kernel=(31, 31)),
        Case(7, 7, 2048, kernel=(13, 13), n=8),
    ],
    ids=name,
)
def test_the_parts_are_few_and_small(case):
    g = case.geometry
    plans = case.gradient_plans("kernel")
    parts = max(int(plan.integers[index("plan.splits")]) for plan in plans)
    assert 1 <= parts <= PARTS
    kernel = 4 * (g.kh * g.kw + 1) * g.out_channels
    arrays = 4 * (np.prod(g.input_shape) + np.prod(g.output_shape))
    assert parts == 1 or parts * kernel <= arrays / 8
