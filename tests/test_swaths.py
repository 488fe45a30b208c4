"""Tiles that hardware prefetchers follow: swaths along the rows, strips of no tail."""

import numpy as np
import pytest
from cases import Case, assert_close, check, forget, lanes
from gradient_cases import check_gradients

import numbadw as ndw
from numbadw.cpu import plan_kernel_grad, plan_tiles, request
from numbadw.cpu.caches import Caches
from numbadw.cpu.label import ABSENT, MASKED, usual_tail
from numbadw.cpu.records import RECORDS, index

VECTOR_BYTES = lanes() * 4
FEW = pytest.mark.skipif(
    usual_tail(VECTOR_BYTES) != MASKED, reason="this CPU's tiles have no masks anyway"
)


@pytest.fixture
def plan_for(monkeypatch):
    """Return a function that makes images small or large for the caches."""

    def choose(second, **others):
        sizes = Caches(second=second, **others)
        for module in (plan_kernel_grad, plan_tiles, request):
            monkeypatch.setattr(module, "caches", lambda: sizes)
        forget()

    yield choose
    forget()


def tiles_used(case, plan=None):
    """Return the tiles that the strips of a case's plan take."""
    plan = plan or case.plan()
    at = plan.integers[index("plan.strips_at")] // 8
    step = len(RECORDS["strip"])
    count = plan.integers[index("plan.strips")]
    kinds = plan.integers[at : at + step * count : step].tolist()
    return {plan.tiles[kind] for kind in kinds}


SWATHS = [
    ((3, 3), (2, 2), (1, 1)),
    ((3, 3), (2, 1), (1, 1)),
    ((2, 4), (2, 2), (1, 1)),
    ((3, 3), (2, 3), (1, 1)),
    ((3, 2), (2, 2), (3, 1)),
    ((3, 3), (2, 2), (1, 2)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kernel", "strides", "dilation"), SWATHS)
def test_swaths_have_the_bits_of_strips(
    kernel, strides, dilation, dtype, rng, plan_for
):
    vector = lanes(dtype)
    pads = ("same", "valid", ((0, 3), (4, 1)))
    for i, oh in enumerate((24, 25, 27, 30, 33)):
        h, w = oh * strides[0] + 2, (9 + 4 * i) * strides[1]
        c = (vector, vector + 1, 2 * vector, 3 * vector + 2, 5 * vector - 1)[i]
        case = Case(
            h,
            w,
            c,
            1,
            kernel,
            strides,
            pads[i % 3],
            dilation,
            False,
            dtype,
            n=1 + i % 2,
        )
        plan_for(2**40)
        strips = check(case, np.random.default_rng(i))
        assert "swath" not in {tile.form for tile in tiles_used(case)}
        plan_for(0)
        swaths = check(case, np.random.default_rng(i))
        if usual_tail(VECTOR_BYTES) == MASKED:
            assert {tile.form for tile in tiles_used(case)} == {"swath"}
        np.testing.assert_array_equal(swaths, strips)


@FEW
def test_which_images_go_in_swaths(plan_for):
    plan_for(0)
    strided = Case(33, 33, 4 * lanes(), strides=(2, 2))
    assert {tile.form for tile in tiles_used(strided)} == {"swath"}
    others = (
        strided._replace(h=5),  # fewer output rows than a swath has
        strided._replace(c=lanes() - 1),
        strided._replace(m=2),
        strided._replace(kernel=(1, 3)),
        strided._replace(kernel=(5, 5)),
        strided._replace(strides=(3, 3)),
        strided._replace(strides=(1, 2)),
    )
    for case in others:
        assert "swath" not in {tile.form for tile in tiles_used(case)}, case.label


@FEW
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_groups_of_lane_vectors_come_one_after_the_other(threads, rng, plan_for):
    """Many channels go in even groups, unless memory holds the image: that at once."""
    for vectors, most in ((41, 14), (20, 10), (19, 19), (9, 9)):
        case = Case(17, 11, vectors * lanes() - 3, strides=(2, 2), n=3)
        for last, group in ((2**40, most), (0, vectors)):
            plan_for(0, ways=12, last=last)
            with ndw.num_threads(threads):
                check(case, rng)
            plan = case.plan().integers
            assert plan[index("plan.group")] == group
            assert bool(plan[index("plan.ahead")]) == (last == 0)
            assert plan[index("plan.items")] % -(-vectors // group) == 0


def test_threads_share_strips_and_rows_from_memory(rng, plan_for):
    """The outermost of an image's work items is what threads get parts of."""
    case = Case(40, 45, 3 * lanes(), kernel=(5, 5))
    for last, outer, inner in ((2**40, "strip", "row"), (0, "row", "strip")):
        plan_for(2**40, last=last)
        plan = case.plan().integers
        counts = [plan[index(f"plan.{name}s")] for name in (outer, inner)]
        spans = [plan[index(f"plan.{name}_span")] for name in ("n", outer, inner)]
        assert min(counts) > 1
        assert spans[0] == counts[0] * spans[1] == counts[0] * counts[1] * spans[2]
        with ndw.num_threads(2):
            check(case, rng)


@pytest.mark.parametrize("n", [1, 3])
def test_threads_share_a_single_strip_by_rows(n, rng):
    case = Case(9, 4, 33 * lanes() + 1, n=n, kernel=(2, 2))
    plan = case.plan().integers
    names = ("strips", "rows", "row_span", "group_span", "groups")
    strips, rows, *spans, groups = (plan[index(f"plan.{name}")] for name in names)
    assert (strips, rows) == (1, 2 if n == 1 else 1)
    assert spans == [groups, 1]
    for count in (1, 2):
        with ndw.num_threads(count):
            check(case, rng)


@FEW
def test_one_kernel_for_all_images():
    strided = Case(200, 200, 4 * lanes(), strides=(2, 2))
    for base in (strided, strided._replace(strides=(1, 1))):
        others = (base, base._replace(h=9, w=9), base._replace(c=lanes() - 1))
        assert len({case.plan().tiles for case in others}) == 1
        assert len({frozenset(tiles_used(case)) for case in others}) > 1


@FEW
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_last_lanes_of_strips_without_masks(dtype, rng):
    """The last vector shares lanes with the one before: none is lost, none is more."""
    vector = lanes(dtype)
    for c in (vector, vector + 1, 2 * vector - 1, 2 * vector, 3 * vector + 2):
        for kernel in ((3, 3), (2, 2), (4, 4), (9, 2)):
            case = Case(17, 23, c, kernel=kernel, dtype=dtype, n=2)
            assert {tile.tail for tile in tiles_used(case)} == {ABSENT}
            x, w, b = case.arrays(rng)
            wide = np.full((*case.geometry.output_shape[:3], c + 3), np.nan, dtype)
            out = wide[..., 1 : c + 1]
            ndw.depthwise_conv2d(x, w, b, out=out, **case.options)
            assert_close(out.copy(), x, w, b, **case.options)
            assert np.isnan(wide[..., 0]).all()
            assert np.isnan(wide[..., c + 1 :]).all()


def test_nan_reaches_its_windows_alone_in_swaths(plan_for):
    plan_for(0)
    x, w = np.ones((1, 21, 21, lanes()), "f4"), np.ones((3, 3, lanes(), 1), "f4")
    w[1, 0] = np.inf
    x[0, 10, 8, 3] = np.nan
    result = ndw.depthwise_conv2d(x, w, strides=2, padding="same")
    nan = np.isnan(result[0, :, :, 3])
    reached = ndw.depthwise_conv2d(
        np.isnan(x).astype("f4"), np.ones_like(w), strides=2, padding="same"
    )
    np.testing.assert_array_equal(nan, reached[0, :, :, 3] > 0)
    assert not np.isnan(np.delete(result, 3, axis=3)).any()


GRADIENTS = [
    # strides, dilation, kernel
    ((1, 1), (1, 1), (3, 3)),
    ((2, 2), (1, 1), (3, 3)),
    ((2, 1), (1, 1), (2, 4)),
    ((1, 2), (2, 1), (3, 2)),
    ((2, 3), (1, 2), (3, 3)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("strides", "dilation", "kernel"), GRADIENTS)
def test_kernel_gradients_in_swaths(strides, dilation, kernel, dtype, rng, plan_for):
    """Whole swaths, some of fewer rows, sides, and longer rows than one chain."""
    plan_for(0)
    forms = set()
    c = 4 * lanes(dtype)
    pads = ("same", "valid", ((0, 3), (4, 1)), ((9, 0), (0, 8)))
    for i, (oh, ow) in enumerate(((28, 28), (31, 40), (34, 30), (57, 70), (28, 97))):
        h, w = oh * strides[0] * dilation[0] + 3, ow * strides[1] + 2 * dilation[1]
        case = Case(h, w, c, 1, kernel, strides, pads[i % 4], dilation, dtype=dtype)
        check_gradients(case._replace(n=1 + i % 2), rng)
        plan, *_ = case.gradient_plans("kernel")
        forms |= {tile.form for tile in tiles_used(case, plan)}
    check_gradients(case, rng, "relu")
    if usual_tail(VECTOR_BYTES) == MASKED:
        assert forms == {"tswath", "tedge"}


@FEW
def test_kernel_gradients_that_ask_for_what_comes_next(rng, plan_for):
    plan_for(0, last=0)
    for strides in ((1, 1), (2, 2)):
        case = Case(57, 41, 5 * lanes(), strides=strides, n=2)
        check_gradients(case, rng)
        plan, *_ = case.gradient_plans("kernel")
        assert plan.integers[index("plan.ahead")] > 0
        assert {"tswath"} <= {tile.form for tile in tiles_used(case, plan)}


@FEW
def test_kernel_gradients_take_the_lane_vectors_that_l1_holds(rng, plan_for):
    # A step of stride 2 takes 61 of its 512 lines, and 7 of 20 vectors are even groups.
    case = Case(28, 28, 20 * lanes(), strides=(2, 2))
    for last, group in ((2**40, 7), (0, 20)):
        plan_for(0, last=last)
        check_gradients(case, rng)
        plan, *_ = case.gradient_plans("kernel")
        assert plan.integers[index("plan.group")] == group


@FEW
def test_kernel_gradients_of_short_rows_in_swaths(rng, plan_for):
    plan_for(0)
    for ow in (1, 2, 3, 14):
        case = Case(27, 2 * ow, 4 * lanes(), strides=(2, 2), n=3)
        check_gradients(case, rng)
        plan, *_ = case.gradient_plans("kernel")
        assert {tile.form for tile in tiles_used(case, plan)} == {"tswath"}
    for other in ({"c": 4 * lanes() + 1}, {"c": lanes()}, {"h": 25}, {"m": 2}):
        changed = case._replace(**other)
        plan, *_ = changed.gradient_plans("kernel")
        assert {tile.form for tile in tiles_used(changed, plan)} == {"taps"}


def test_gradients_in_swaths_have_the_same_bits_for_all_threads(rng, plan_for):
    plan_for(0)
    case = Case(61, 99, 4 * lanes(), n=3)
    x, w, _ = case.arrays(rng)
    g = rng.standard_normal(case.geometry.output_shape).astype("f4")
    results = []
    for threads in (1, 2, 3):
        with ndw.num_threads(threads):
            results.append(ndw.depthwise_conv2d_grad(x, w, g, **case.options))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_nan_reaches_its_taps_alone_in_swaths(plan_for):
    """A corner pixel is read by one tap of a padded image with stride 2: the first."""
    plan_for(0)
    c = 4 * lanes()
    x, g = np.ones((1, 56, 56, c), "f4"), np.ones((1, 28, 28, c), "f4")
    x[0, 0, 0, 5] = np.nan
    g[0, 3, 4] = 0
    w_grad = ndw.depthwise_conv2d_kernel_grad(
        x, g, (3, 3, c, 1), strides=2, padding="same"
    )
    nan = np.isnan(w_grad[..., 0])
    assert nan[0, 0, 5]
    assert nan.sum() == 1


def test_a_part_of_large_results_goes_past_the_caches(plan_for, rng):
    case = Case(28, 30, 32, strides=(2, 2), n=4)
    x, k, _ = case.arrays(rng)
    g = rng.standard_normal(case.geometry.output_shape).astype(np.float32)
    expected = ndw.depthwise_conv2d_input_grad(g, k, x.shape, **case.options)
    # Half of all bytes are to stay, five eighths of the results not.
    plan_for(1 << 20, last=x.nbytes + g.nbytes)
    (plan,) = case.gradient_plans("input")
    assert plan.integers[index("plan.stream")] == 5
    result = ndw.depthwise_conv2d_input_grad(g, k, x.shape, **case.options)
    np.testing.assert_array_equal(result, expected)
    forward = case._replace(strides=(1, 1)).plan()
    assert forward.integers[index("plan.stream")] == 8
