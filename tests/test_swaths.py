"""Tiles that hardware prefetchers follow: swaths along the rows, strips of no tail."""

import numpy as np
import pytest
from cases import Case, assert_close, check, lanes

import numbadw as ndw
from numbadw import dispatch, functional
from numbadw.cpu import plan_tiles
from numbadw.cpu.caches import Caches
from numbadw.cpu.label import ABSENT, MASKED, usual_tail
from numbadw.cpu.records import RECORDS, index

VECTOR_BYTES = lanes() * 4
FEW = pytest.mark.skipif(
    usual_tail(VECTOR_BYTES) != MASKED, reason="this CPU's tiles have no masks anyway"
)


def forget():
    """Let every call be planned anew."""
    functional._calls.clear()
    dispatch.bind_forward.cache_clear()


@pytest.fixture
def plan_for(monkeypatch):
    """Return a function that makes images small or large for a second cache."""

    def choose(second):
        monkeypatch.setattr(plan_tiles, "caches", lambda: Caches(second=second))
        forget()

    yield choose
    forget()


def tiles_used(case):
    """Return the tiles that the strips of a case's plan take."""
    plan = case.plan()
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
        for kernel in ((3, 3), (2, 2), (4, 4), (15, 1)):
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
