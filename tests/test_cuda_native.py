"""The CUDA kernels' thread bodies over whole grids, on the CPU, against the oracle."""

import numpy as np
import pytest
from cases import Case
from cuda_native import KINDS, alignment, from_bf16, run, to_bf16

from numbadw import activations, tolerance
from numbadw.cuda import plan, plan_kernel_grad, shipped
from numbadw.cuda.kernels import FAMILIES

# Layers of MobileNet, EfficientNet and ConvNeXt, then sizes that fit no tile.
CASES = [
    Case(112, 112, 32, n=2),
    Case(56, 56, 128, strides=(2, 2)),
    Case(28, 28, 240, kernel=(5, 5)),
    Case(28, 28, 240, kernel=(5, 5), strides=(2, 2)),
    Case(14, 14, 384, kernel=(7, 7)),
    Case(14, 14, 64, kernel=(13, 11)),
    Case(13, 15, 3),
    Case(9, 21, 6, padding=((2, 0), (0, 3)), n=3),
    Case(11, 13, 6, m=2),
    Case(10, 9, 3, m=3, padding=2),
    Case(7, 8, 2, m=8),
    Case(17, 19, 4, strides=(3, 4), kernel=(4, 3)),
    Case(12, 13, 4, strides=(2, 1), dilation=(2, 3)),
    Case(9, 9, 5, m=2, dtype="float64"),
    Case(5, 6, 2, kernel=(40, 40), padding=19),
    Case(24, 60, 6, kernel=(9, 31), m=2, n=2),
    Case(23, 51, 4, kernel=(31, 14), strides=(2, 2), padding=(15, 3)),
    Case(21, 44, 3, kernel=(11, 29), first=True),
    Case(56, 56, 8, first=True, n=2),
    Case(32, 32, 3, kernel=(7, 7), m=2, first=True),
    Case(28, 28, 4, strides=(2, 2), padding=((0, 1), (0, 1)), first=True),
    Case(14, 14, 5, first=True),
    Case(9, 7, 3, kernel=(3, 2), dilation=(1, 2), first=True),
]


def problem(case, arrays):
    return plan.Problem(case.geometry, KINDS[case.dtype], alignment(arrays))


def forward(case, x, w, b, out, activation=None):
    """Run the forward pass into `out`; return the kernels' labels."""
    name, parameter = activations.resolve(activation)
    given = problem(case, [a for a in (x, w, b, out) if a is not None])
    launches = plan.forward(given, x.strides, out.strides, name)
    run(launches, {"x": x, "w": w, "b": b, "o": out}, parameter)
    return [step.spec.label for step in launches]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_pass(case, rng):
    x, w, b = case.arrays(rng)
    g = case.geometry
    grad = rng.standard_normal(g.output_shape).astype(case.dtype)
    # What is not written stays NaN, and so does all that is made of it.
    out, x_grad, w_grad, b_grad = (
        np.full(shape, np.nan, case.dtype)
        for shape in (g.output_shape, g.input_shape, g.kernel_shape, g.out_channels)
    )
    forward(case, x, w, b, out)
    fault = tolerance.forward(x, w, b, **case.options).fault(out)
    assert not fault, f"forward: {fault}"
    given = problem(case, [x, w, grad, x_grad])
    run(
        plan.input_grad(given, x_grad.strides, grad.strides),
        {"w": w, "g": grad, "x_grad": x_grad},
    )
    launches, size = plan_kernel_grad.kernel_grad(given, x.strides, grad.strides)
    parts = np.full(size, 255, np.uint8)
    arrays = {"x": x, "g": grad, "w_grad": w_grad, "b_grad": b_grad, "part": parts}
    run(launches, arrays)
    answers = tolerance.gradients(x, w, grad, **case.options)
    for answer, result in zip(answers, (x_grad, w_grad, b_grad), strict=True):
        fault = answer.fault(result)
        assert not fault, f"gradient of shape {result.shape}: {fault}"


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_and_their_derivatives(name, rng):
    case = Case(9, 10, 4)
    x, w, b = case.arrays(rng)
    x[0, 0, 0] = np.nan
    x[0, 8, 9] = np.inf
    out = np.zeros_like(x)
    forward(case, x, w, b, out, name)
    fault = tolerance.forward(x, w, b, activation=name, **case.options).fault(out)
    assert not fault, fault
    x[np.isnan(x) | np.isinf(x)] = 3
    grad = rng.standard_normal(out.shape).astype("f4")
    inner = np.full_like(out, np.nan)
    given = problem(case, [x, w, b, grad, inner])
    strides = x.strides, inner.strides, name, grad.strides
    arrays = {"x": x, "w": w, "b": b, "o": inner, "g": grad}
    run(plan.forward(given, *strides), arrays, activations.resolve(name)[1])
    before = tolerance.forward(x, w, b, **case.options).expected
    exact = activations.apply_derivative(before, *activations.resolve(name)) * grad
    np.testing.assert_allclose(inner, exact, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("first", [False, True])
def test_half_storage_sums_in_float32(kind, first, rng):
    case = Case(16, 16, 8, first=first)
    x, w, b = case.arrays(rng)
    if kind == "float16":
        given = [array.astype("f2") for array in (x, w, b)]
        exact = [array.astype("f4") for array in given]
        out = np.full(case.geometry.output_shape, np.nan, "f2")
    else:
        both = [to_bf16(array) for array in (x, w, b)]
        given, exact = zip(*both, strict=True)
        out = np.full(case.geometry.output_shape, 0x7FC0, np.uint16)
    labels = forward(case._replace(dtype=kind), *given, out)
    assert "v8" in labels[0] or "c8" in labels[0]
    answer = tolerance.forward(*exact, **case.options)
    # The sums are float32's; storing them rounds once more.
    eps = 2.0**-11 if kind == "float16" else 2.0**-8
    bound = answer.bound + eps * np.abs(answer.expected) + 2.0**-24
    result = out.astype("f4") if kind == "float16" else from_bf16(out)
    fault = answer._replace(bound=bound).fault(result)
    assert not fault, fault


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_storage_keeps_nan_and_infinities(kind):
    case = Case(1, 8, 1, kernel=(1, 1), dtype=kind)
    numbers = np.array([np.nan, np.inf, -np.inf, 1e-6, 70000, -1, 0, 1.00390625])
    x = numbers.astype("f4").reshape(1, 1, 8, 1)
    one = np.ones((1, 1, 1, 1), "f4")
    with np.errstate(over="ignore"):
        half = [a.astype("f2") for a in (x, one)]
    arrays = half if kind == "float16" else [to_bf16(a)[0] for a in (x, one)]
    out = np.zeros_like(arrays[0])
    forward(case, *arrays, None, out)
    if kind == "bfloat16":
        arrays[0], out = from_bf16(arrays[0]), from_bf16(out)
    np.testing.assert_array_equal(out, arrays[0])


def test_a_slice_of_a_larger_array_is_read_and_written_in_place(rng):
    case = Case(9, 11, 8)
    x, w, b = case.arrays(rng)
    big = np.full((1, 13, 20, 16), np.nan, "f4")
    source, target = big[:, 2:11, 3:14, :8], big[:, 2:11, 3:14, 8:]
    source[...] = x
    forward(case, source, w, b, target)
    assert not tolerance.forward(x, w, b, **case.options).fault(target)
    target[...] = np.nan
    source[...] = np.nan
    assert np.isnan(big).all(), "something was written beside the result"


def test_the_kernel_gradient_ignores_nan_beyond_the_windows(rng):
    # Columns and rows that no output reads, and a ragged tile beside them.
    case = Case(12, 12, 4, strides=(2, 2), padding="valid")
    x, _, _ = case.arrays(rng)
    x[:, 11], x[:, :, 11] = np.nan, np.nan
    g = case.geometry
    grad = rng.standard_normal(g.output_shape).astype("f4")
    given = problem(case, [x, grad])
    launches, size = plan_kernel_grad.kernel_grad(given, x.strides, grad.strides)
    w_grad = np.full(g.kernel_shape, np.nan, "f4")
    parts = np.full(size, 255, np.uint8)
    run(launches, {"x": x, "g": grad, "w_grad": w_grad, "part": parts})
    x[np.isnan(x)] = 0
    w = np.zeros(g.kernel_shape, "f4")
    fault = tolerance.gradients(x, w, grad, **case.options)[1].fault(w_grad)
    assert not fault, fault


@pytest.mark.parametrize(
    "case",
    [
        Case(60, 61, 12, n=4),
        Case(17, 40, 4, kernel=(5, 13), first=True, n=32),
        Case(12, 13, 4, strides=(2, 1), dilation=(2, 3)),
    ],
    ids=lambda case: case.label,
)
def test_the_order_of_threads_and_blocks_does_not_matter(case, rng):
    x, _, _ = case.arrays(rng)
    g = case.geometry
    grad = rng.standard_normal(g.output_shape).astype("f4")
    given = problem(case, [x, grad])
    launches, size = plan_kernel_grad.kernel_grad(given, x.strides, grad.strides)
    assert launches[0].grid[1] > 1, "several groups"
    results = []
    for backwards in (False, True):
        w_grad, b_grad = np.full(g.kernel_shape, np.nan, "f4"), np.zeros(12, "f4")
        parts = np.full(size, 255, np.uint8)
        arrays = {"x": x, "g": grad, "w_grad": w_grad, "b_grad": b_grad, "part": parts}
        run(launches, arrays, backwards=backwards)
        results.append(w_grad.tobytes() + b_grad.tobytes())
    assert results[0] == results[1]


def test_grids_too_large_for_one_launch_go_in_pieces(monkeypatch, rng):
    monkeypatch.setattr(plan, "GRID", 3)
    case = Case(16, 9, 4, n=5)
    x, w, b = case.arrays(rng)
    out = np.full(case.geometry.output_shape, np.nan, "f4")
    assert len(forward(case, x, w, b, out)) == 6
    assert not tolerance.forward(x, w, b, **case.options).fault(out)


def test_groups_follow_from_the_shape_and_fill_a_device():
    steps = list(shipped.launches("f32", 3, 1, 1, 1, False, (112, 96)))
    (sums,) = [step for step in steps if step.spec.family == "kernel_grad_tile"]
    blocks, groups, _ = sums.grid
    assert blocks * groups >= 1000
    assert sums.sizes.groups == groups


def test_sizes_that_int32_cannot_hold_are_refused():
    case = Case(2**20, 2**12, 1, kernel=(1, 1), n=2**12)
    given = plan.Problem(case.geometry, "f32", 16)
    strides = plan.dense(case.geometry.input_shape, 4)
    with pytest.raises(ValueError, match="too large for CUDA"):
        plan.forward(given, strides, strides, "linear")


def test_labels_name_every_kernel_once():
    specs = shipped.specs()
    assert len({spec.label for spec in specs}) == len(specs)
    assert {spec.family for spec in specs} == set(FAMILIES)
