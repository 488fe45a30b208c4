"""depthwise_conv2d on the CPU against the float64 oracle, sizes from the tiles."""

import numpy as np
import pytest
from cases import FORMS, Case, assert_close, check, grid, lanes, reference

import numbadw as ndw
from numbadw.activations import ACTIVATIONS, ALIASES
from numbadw.cpu.forward import FEEDS
from numbadw.memory import SMALL_BYTES

GRIDS = [
    ("3x3", "float32"),
    ("3x3", "float64"),
    ("3x3s2", "float32"),
    ("5x5", "float32"),
    ("5x5s2", "float32"),
    ("15x15", "float32"),
]


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize(("form", "dtype"), GRIDS)
def test_sizes_around_the_tiles(form, dtype, first, rng):
    for case in grid(form, dtype, first):
        check(case, rng)


def test_the_grid_reaches_every_feed_and_form():
    cases = [
        case for form, dtype in GRIDS for f in (False, True)
        for case in grid(form, dtype, f)
    ]
    plans = [case.plan() for case in cases]
    assert {plan.feed for plan in plans} == set(FEEDS)
    assert {"sweep", "rows", "wide", "flat"} <= {p.tiles[0].form for p in plans}
    for guarded in (False, True):
        kinds = {(p.feed, strip) for p in plans for strip in strip_kinds(p)}
        assert {feed for feed, kind in kinds if kind % 2 == guarded} == set(FEEDS)


def strip_kinds(plan):
    """Return which of its four tiles a plan uses (field 0 of the strip records)."""
    from numbadw.cpu.records import RECORDS, index

    at = plan.integers[index("plan.strips_at")] // 8
    step = len(RECORDS["strip"])
    count = plan.integers[index("plan.strips")]
    return set(plan.integers[at : at + step * count : step].tolist())
