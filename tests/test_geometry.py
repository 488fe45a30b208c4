"""Every padding and output-size rule of Geometry, and its messages."""

import dataclasses
import itertools

import pytest

from numbadw.geometry import Geometry, make_geometry, output_size

ONES = (1, 1)


def positions(size, k, s, d, before, after):
    """Count the kernel's positions by walking them: the plain twin of the formula."""
    start = range(-before, size + after, s)
    return sum(first + (k - 1) * d < size + after for first in start)


@pytest.mark.parametrize(
    ("size", "k", "s", "d", "before", "after"),
    list(itertools.product((1, 2, 5, 8), (1, 2, 3), (1, 2, 3), (1, 2), (0, 1), (0, 2))),
)
def test_explicit_output_size_counts_positions(size, k, s, d, before, after):
    expected = positions(size, k, s, d, before, after)
    if expected == 0:
        with pytest.raises(ValueError, match="must be at least 1"):
            output_size(size, k, s, d, (before, after))
    else:
        assert output_size(size, k, s, d, (before, after)) == expected


@pytest.mark.parametrize(
    ("size", "k", "s", "d"),
    list(itertools.product((1, 2, 5, 6, 7), (1, 2, 3, 5), (1, 2, 3), (1, 2))),
)
def test_same_is_tensorflows_rule(size, k, s, d):
    g = make_geometry((1, size, 9, 1), (k, 1, 1, 1), (s, 1), "same", (d, 1), False)
    assert g.oh == -(-size // s) == output_size(size, k, s, d, "same")
    assert g.pb - g.pt in (0, 1)
    assert positions(size, k, s, d, g.pt, g.pb) == g.oh
    if g.pt + g.pb:
        assert positions(size, k, s, d, g.pt, g.pb - 1) == g.oh - 1


def test_same_puts_the_odd_pixel_at_the_bottom_and_right():
    g = make_geometry((1, 224, 4, 1), (3, 2, 1, 1), (2, 1), "same", ONES, False)
    assert (g.pt, g.pb, g.pl, g.pr) == (0, 1, 0, 1)
    assert (g.oh, g.ow) == (112, 4)


def test_every_field_channels_last():
    g = make_geometry(
        (2, 9, 11, 3), (3, 2, 3, 4), (2, 3), ((1, 2), (3, 0)), (1, 2), False
    )
    assert dataclasses.astuple(g) == (
        *(2, 9, 11, 3, 4, 3, 2, 2, 3, 1, 2, 1, 2, 3, 0),
        *(5, 4, False),
    )
    assert g.input_shape == (2, 9, 11, 3)
    assert g.kernel_shape == (3, 2, 3, 4)
    assert g.output_shape == (2, 5, 4, 12)
    assert g.out_channels == 12
    assert g.flops == 2 * (2 * 5 * 4 * 12) * (3 * 2)


def test_channels_first_differs_only_in_layout():
    args = ((3, 2, 3, 4), (2, 3), ((1, 2), (3, 0)), (1, 2))
    last = make_geometry((2, 9, 11, 3), *args, False)
    first = make_geometry((2, 3, 9, 11), *args, True)
    assert first == dataclasses.replace(last, channels_first=True)
    assert first.input_shape == (2, 3, 9, 11)
    assert first.output_shape == (2, 12, 5, 4)


def test_is_hashable_frozen_and_slotted():
    args = ((1, 4, 4, 1), (3, 3, 1, 1), ONES, "valid", ONES, False)
    g = make_geometry(*args)
    assert len({g, make_geometry(*args)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        g.n = 2
    assert not hasattr(g, "__dict__")
    assert isinstance(g, Geometry)


def test_no_images_is_fine():
    g = make_geometry((0, 5, 5, 2), (3, 3, 2, 1), ONES, "same", ONES, False)
    assert g.output_shape == (0, 5, 5, 2)
    assert g.flops == 0


@pytest.mark.parametrize(
    ("input_shape", "pads", "expected"),
    [
        ((1, 0, 3, 2), ((1, 1), (0, 0)), (1, 2, 3, 2)),
        ((1, 3, 0, 2), ((0, 0), (2, 1)), (1, 3, 3, 2)),
        ((1, 0, 0, 2), ((1, 0), (0, 1)), (1, 1, 1, 2)),
    ],
)
def test_empty_image_with_room_in_the_padding(input_shape, pads, expected):
    g = make_geometry(input_shape, (1, 1, 2, 1), ONES, pads, ONES, False)
    assert g.output_shape == expected


@pytest.mark.parametrize(
    ("input_shape", "kernel_shape", "pads", "dilation"),
    [
        ((1, 2, 9, 1), (3, 3, 1, 1), "valid", (1, 1)),
        ((1, 9, 2, 1), (3, 3, 1, 1), "valid", (1, 1)),
        ((1, 4, 4, 1), (3, 3, 1, 1), "valid", (2, 2)),
        ((1, 4, 4, 1), (7, 7, 1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((1, 0, 4, 1), (1, 1, 1, 1), "valid", (1, 1)),
        ((1, 0, 4, 1), (1, 1, 1, 1), "same", (1, 1)),
        ((0, 0, 4, 1), (3, 3, 1, 1), "same", (1, 1)),
    ],
)
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_empty_output_names_all_shapes(
    input_shape, kernel_shape, pads, dilation, stride
):
    with pytest.raises(ValueError, match="at least one row and one column") as caught:
        make_geometry(
            input_shape, kernel_shape, (stride, stride), pads, dilation, False
        )
    for part in (input_shape, kernel_shape, (stride, stride), pads, dilation):
        assert str(part) in str(caught.value)


@pytest.mark.parametrize(
    ("channels_first", "kernel_c"), [(False, 4), (True, 2), (True, 5)]
)
def test_kernel_channels_must_match(channels_first, kernel_c):
    with pytest.raises(ValueError, match="kernel must have as many") as caught:
        make_geometry(
            (2, 4, 5, 3), (1, 1, kernel_c, 1), ONES, "valid", ONES, channels_first
        )
    for part in ("inputs", "(2, 4, 5, 3)", f"(1, 1, {kernel_c}, 1)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("bad", [(3, 3, 1), (3, 3, 1, 0), (0, 3, 1, 1), (3, 0, 1, 1)])
def test_kernel_shape_is_checked(bad):
    with pytest.raises(ValueError, match=r"kernel must have shape \(kh, kw, C, M\)"):
        make_geometry((1, 4, 4, 1), bad, ONES, "valid", ONES, False)


def test_no_channels_is_an_error():
    with pytest.raises(ValueError, match="every size >= 1"):
        make_geometry((1, 4, 4, 0), (3, 3, 0, 1), ONES, "valid", ONES, False)


@pytest.mark.parametrize("bad", [(4, 4, 1), (1, 4, 4, 1, 1), (-1, 4, 4, 1)])
def test_input_shape_is_checked(bad):
    with pytest.raises(ValueError, match=r"inputs must have shape \(N, C, H, W\)"):
        make_geometry(bad, (3, 3, 1, 1), ONES, "valid", ONES, True)


@pytest.mark.parametrize("pads", ["same", "valid", (1, 2)])
def test_unknown_size_stays_unknown(pads):
    assert output_size(None, 3, 2, 1, pads) is None
