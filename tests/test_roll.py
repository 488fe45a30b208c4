"""Strips that read each row once for three output rows, and groups taken together."""

import numpy as np
import pytest
from cases import Case, check, lanes
from test_swaths import FEW, forget, tiles_used

import numbadw as ndw
from numbadw.cpu import plan_tiles
from numbadw.cpu.records import RECORDS, index


@pytest.fixture
def block_instead(monkeypatch):
    """Return a function that has images planned for the usual strips."""

    def choose():
        monkeypatch.setattr(plan_tiles, "ROLL_CROWD", 0)
        forget()

    yield choose
    forget()


def forms(case):
    return {tile.form for tile in tiles_used(case)}


HEIGHTS = (1, 2, 3, 4, 7, 8, 9, 17, 40)


@FEW
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", [(3, 1), (3, 2), (3, 3)])
def test_each_row_once_has_the_bits_of_strips(kernel, dtype, block_instead):
    vector = lanes(dtype)
    pads = ("same", ((2, 14), (4, 1)), ((15, 0), (0, 6)))
    cases = []
    for i, h in enumerate(HEIGHTS):
        c = (vector + 1, 3 * vector + 1, 20 * vector, 17 * vector - 1)[i % 4]
        dilation = (1, 1) if i % 3 else (2, 3)
        pad = pads[i % 3]
        case = Case(h, 5 + 3 * i, c, 1, kernel, (1, 1), pad, dilation, dtype=dtype)
        cases.append(case._replace(n=1 + i % 2))
    rolled = []
    for i, case in enumerate(cases):
        assert forms(case) == {"roll"}, case.label
        rolled.append(check(case, np.random.default_rng(i)))
    block_instead()
    for i, (case, result) in enumerate(zip(cases, rolled, strict=True)):
        assert forms(case) == {"block"}
        strips = check(case, np.random.default_rng(i))
        np.testing.assert_array_equal(result, strips)


@FEW
def test_which_images_are_read_once():
    base = Case(28, 28, 4 * lanes() + 1)
    assert forms(base) == {"roll"}
    others = (
        base._replace(strides=(2, 2)),
        base._replace(kernel=(2, 3)),
        base._replace(kernel=(3, 4)),
        base._replace(kernel=(4, 1)),
        base._replace(c=lanes() - 1),
        base._replace(c=lanes() * 8),  # pixels 512 bytes apart
        base._replace(m=2),
    )
    for case in others:
        assert "roll" not in forms(case), case.label


def test_items_in_one_piece_are_taken_together(rng):
    """Any cut of the items, across strips, blocks and images, has the same bits."""
    for kernel in ((3, 3), (5, 5)):
        case = Case(33, 19, 37 * lanes() + 3, kernel=kernel, n=2)
        plan = case.plan()
        runs, groups = (plan.integers[index(f"plan.{f}")] for f in ("run", "groups"))
        assert groups > 1
        assert runs == groups or kernel == (3, 3)  # all but the block tile
        results = []
        for threads in (1, 2, 3, 7):
            with ndw.num_threads(threads):
                results.append(check(case, np.random.default_rng(0)))
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other)


@FEW
def test_nan_reaches_its_windows_alone():
    c = 2 * lanes()
    x, w = np.ones((1, 21, 21, c), "f4"), np.ones((3, 3, c, 1), "f4")
    w[1, 0] = np.inf
    x[0, 10, 8, 3] = np.nan
    x[0, 0, 20, 5] = np.nan
    assert forms(Case(21, 21, c)) == {"roll"}
    result = ndw.depthwise_conv2d(x, w, padding="same")
    reached = ndw.depthwise_conv2d(
        np.isnan(x).astype("f4"), np.ones_like(w), padding="same"
    )
    np.testing.assert_array_equal(np.isnan(result), reached > 0)


def test_blocks_of_rows_are_of_one_height():
    """Of unequal ones one thread would get more than the other."""
    for h in (7, 14, 16, 20, 27, 28, 30, 56, 57):
        case = Case(h, 57, 37 * lanes(), kernel=(5, 5))
        plan = case.plan()
        at = plan.integers[index("plan.rows_at")] // 8
        step, count = len(RECORDS["rows"]), plan.integers[index("plan.rows")]
        rows = plan.integers[at : at + step * count].reshape(count, step)
        heights = rows[:, index("rows.last")] - rows[:, index("rows.first")]
        assert heights.sum() == h
        assert heights.max() <= 16
        assert heights.max() - heights.min() <= 4
        assert h <= 16 or heights.max() >= 8
