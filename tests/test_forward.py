"""depthwise_conv2d on the CPU against the float64 oracle, sizes from the tiles."""

import numpy as np
import pytest
from cases import Case, assert_close, check, grid, lanes

import numbadw as ndw
from numbadw import dispatch, functional, jit
from numbadw.activations import ACTIVATIONS, ALIASES
from numbadw.cpu import plan_forward, plan_tiles, request
from numbadw.cpu.caches import LINE, Caches, caches
from numbadw.cpu.records import RECORDS, index
from numbadw.memory import aligned_empty

GRIDS = [
    ("3x3", "float32"),
    ("3x3", "float64"),
    ("3x3s2", "float32"),
    ("5x5", "float32"),
    ("5x5s2", "float32"),
    ("wide", "float32"),
]


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize(("form", "dtype"), GRIDS)
def test_sizes_around_the_tiles(form, dtype, first, rng):
    for case in grid(form, dtype, first):
        check(case, rng)


def test_the_grid_reaches_every_feed_and_form():
    plans = [
        case.plan()
        for form, dtype in GRIDS
        for first in (False, True)
        for case in grid(form, dtype, first)
    ]
    feeds = {"direct", "packed", "flat"}
    assert {plan.feed for plan in plans} == feeds
    assert {p.tiles[0].form for p in plans} >= {"block", "rows", "wide", "flat"}
    for guarded in (False, True):
        kinds = {(p.feed, strip) for p in plans for strip in strip_kinds(p)}
        assert {feed for feed, kind in kinds if kind % 2 == guarded} == feeds


def strip_kinds(plan):
    """Return which of its four tiles a plan uses (field 0 of the strip records)."""
    at = plan.integers[index("plan.strips_at")] // 8
    step = len(RECORDS["strip"])
    count = plan.integers[index("plan.strips")]
    return set(plan.integers[at : at + step * count : step].tolist())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 5, 7])
def test_pixels_that_share_sets_of_the_cache(side, stride, dtype, rng):
    """Channels of a wider array, 4 KiB from pixel to pixel: lines taken whole."""
    vector = lanes(dtype)
    kernel, strides = (side, side), (stride, stride)
    for c in (vector, 2 * vector, 2 * vector + 1, 7 * vector - 1):
        case = Case(9, 23, c, 1, kernel, strides, dtype=dtype, n=2)
        x, w, b = case.arrays(rng)
        wide = 4096 // x.itemsize
        inputs = np.full((*x.shape[:3], wide), np.nan, dtype)[..., :c]
        inputs[...] = x
        shape = case.geometry.output_shape
        results = np.full((*shape[:3], wide), np.nan, dtype)
        out = results[..., :c]
        ndw.depthwise_conv2d(inputs, w, b, out=out, **case.options)
        assert_close(out.copy(), x, w, b, **case.options)
        assert np.isnan(results[..., c:]).all()
        g, kind = case.geometry, np.dtype(dtype)
        r = request.Request(g, kind, inputs.strides, out.strides, "linear", 0.0)
        pairs = plan_tiles.line_tiles(r, plan_tiles.choose_tiles(r))
        assert bool(pairs) == plan_tiles.halves_lines(r)
        narrow = not pairs and side == 3 and stride == 2
        expected = {4, 5} if pairs else {2, 3, 4, 5} if narrow else {0, 1, 2, 3}
        assert strip_kinds(plan_forward.plan_direct(r)) <= expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [2, 3, 4, 7])
def test_rows_of_few_channels_picked_apart(stride, dtype, rng):
    """Rows of every length round whole vectors; rows in between that no tap reads."""
    vector = lanes(dtype)
    for c in range(1, vector // 2 + 1):
        for w in (1, stride, 2 * vector // c, stride * vector + c, 199):
            for rows in (1, stride):
                case = Case(
                    11, w, c, 1, (2, 3), (rows, stride), ((1, 2), (2, 3)), dtype=dtype
                )
                plan = case.plan()
                assert plan.feed == "flat"
                if jit.target().vector_bytes == 64:  # never element by element there
                    assert plan.integers[index("plan.picks")] > 0
                check(case, rng)
                check(case._replace(kernel=(4, 3), n=2, dilation=(1, 2)), rng)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_of_one_column_take_lanes_along_the_row(dtype, rng):
    vector = lanes(dtype)
    for c, m in ((vector // 2 + 1, 1), (vector, 1), (vector // 3, 3)):
        base = Case(13, 21, c, m, (3, 1), (2, 1), dtype=dtype, n=2)
        for case in (base, base._replace(kernel=(15, 1)), base._replace(w=1)):
            check(case, rng)
            assert case.plan().feed == "flat"
        for other in ({"c": vector + 1, "m": 1}, {"strides": (1, 2)}):
            check(base._replace(**other), rng)
        assert base._replace(strides=(1, 2)).plan().feed == "direct"


SIDES = (1, 2, 3, 4, 5, 7, 9, 13, 14, 15, 31, 63)
KERNELS = [
    *((k, k) for k in SIDES),
    *((1, k) for k in SIDES[1:] if k != 9),
    *((k, 1) for k in SIDES[1:]),
    (2, 3),
    (6, 3),
    (4, 10),
    (3, 14),
    (63, 5),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k[0]}x{k[1]}")
def test_every_kernel_size(kernel, rng):
    vector = lanes()
    base = Case(h=11, w=17, c=vector + 1, kernel=kernel)
    large = base._replace(h=kernel[0] + 2, w=kernel[1] + 16, padding="valid")
    check(base, rng)
    check(large, rng)
    # A few channels and one plane at a time take one compiled tile for all kernels.
    check(base._replace(c=3), rng)
    check(large._replace(c=1, h=2, padding=kernel), rng)


@pytest.mark.parametrize("kernel", KERNELS[1::5], ids=lambda k: f"{k[0]}x{k[1]}")
def test_kernel_sizes_in_the_packed_feed(kernel, rng):
    case = Case(11, 17, lanes() + 1, kernel=kernel, first=True)
    check(case, rng)
    check(case._replace(w=2 * lanes() + 1, padding=kernel), rng)


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("kernel", [(1, 2), (4, 1), (2, 2), (3, 3)], ids=str)
def test_channels_first_without_packing(kernel, m, rng):
    vector = lanes()
    light = kernel != (3, 3)
    for c, planes in ((vector + 1, light or m == 1), (2 * vector, light)):
        for w in (2 * vector, 5 * vector + 3):
            case = Case(9, w, c, m, kernel, first=True, n=2)
            assert (case.plan().feed == "flat") == planes
            check(case, rng)
    strided = Case(9, 5 * vector, 2 * vector, m, kernel, (2, 2), first=True)
    assert strided.plan().feed == "packed"
    dilated = strided._replace(strides=(1, 1), dilation=(6, 6))
    assert dilated.plan().feed == "packed"


@pytest.mark.parametrize("kernel", [(2, 1), (4, 4), (14, 3), (40, 31)])
def test_a_kernel_larger_than_the_image(kernel, rng):
    for h, w in ((1, 1), (3, 2), (1, 20)):
        for c in (1, lanes() + 1):
            case = Case(h, w, c, kernel=kernel)
            check(case, rng)
            check(case._replace(padding=kernel, first=c > 1), rng)


@pytest.mark.parametrize("kernel", [(13, 2), (20, 13), (31, 31), (90, 1)], ids=str)
def test_tall_kernels_of_few_channels(kernel, rng):
    # A block's first and last input rows serve some of its output rows, in any image.
    for h in (1, 3, 8, 9, 15, 16, 40):
        case = Case(h, 3 * lanes() + 1, 3, kernel=kernel)
        for padding in ("same", ((kernel[0] - 1, 0), (5, 5)), ((2, kernel[0]), (0, 3))):
            check(case._replace(padding=padding, w=kernel[1] + 40), rng)
        for strides in ((2, 1), (3, 2), (4, 4), (5, 1)):
            check(case._replace(w=kernel[1] + 40, strides=strides), rng)
    check(Case(kernel[0] + 9, 50, 1, kernel=kernel, padding="valid", first=True), rng)


def test_rows_of_tall_kernels_have_the_same_bits_anywhere_in_a_block(rng):
    x, w, _ = Case(40, 70, 3, kernel=(14, 5)).arrays(rng)
    whole = ndw.depthwise_conv2d(x, w)
    for top in range(1, 10):
        part = ndw.depthwise_conv2d(x[:, top:], w)
        np.testing.assert_array_equal(part, whole[:, top:])


STRIDES = [(1, 1), (2, 2), (3, 3), (2, 1), (1, 2), (3, 2)]
DILATIONS = [(1, 1), (2, 2), (3, 3), (1, 4), (6, 1), (5, 2)]


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("c", [2, lanes() + 1])
def test_strides_with_dilation(strides, c, rng):
    # Within a phase the stride is s / gcd(s, d), so few kernels serve them all.
    for dilation in DILATIONS:
        for padding in ("same", 5, ((4, 12), (8, 0))):
            case = Case(13, 22, c, 1, (3, 3), strides, padding, dilation)
            check(case, rng)


@pytest.mark.parametrize("strides", [(2, 2), (3, 1)])
def test_strides_with_dilation_in_planes(strides, rng):
    for dilation in DILATIONS:
        for w in (9, 5 * lanes() + 3):
            case = Case(9, w, lanes() - 1, 1, (3, 3), strides, 6, dilation, True)
            check(case, rng)


@pytest.mark.parametrize(
    "padding",
    ["valid", "SAME", 0, 2, (1, 3), [2, 0], ((1, 2), (3, 4)), np.int32(2), (40, 50)],
    ids=str,
)
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_every_padding_form(padding, first, rng):
    for c in (1, lanes() + 1):
        for strides in ((1, 1), (2, 2)):
            check(Case(7, 10, c, 1, (3, 3), strides, padding, first=first), rng)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7, 8, 17])
def test_every_depth_multiplier(m, rng):
    vector = lanes()
    for c in (1, 2, 3, vector - 1, 2 * vector):
        check(Case(5, 9, c, m), rng)


@pytest.mark.parametrize("m", [4, 8])
def test_a_bank_of_filters_on_colour_images(m, rng):
    # 12 or 24 channels fill three vectors every few pixels: a tile of its own.
    for w in (1, 2, 3, 4, 15, 16, 17, 18, 31, 32, 33, 50):
        check(Case(6, w, 3, m), rng)
        check(Case(7, w + 4, 3, m, (3, 3), (2, 2)), rng)
        check(Case(7, w, 3, m, (3, 3), (1, 1), 4, (2, 3)), rng)


@pytest.mark.parametrize("m", [2, 5])
def test_depth_multipliers_in_float64(m, rng):
    check(Case(5, 9, lanes("float64") + 1, m, dtype="float64"), rng)
    check(Case(5, 9, 1, m, dtype="float64"), rng)


@pytest.mark.parametrize("m", [2, 3, 17])
def test_depth_multipliers_channels_first(m, rng):
    for w in (6, 4 * lanes() + 1):
        for c in (1, 3, lanes() + 1):
            check(Case(5, w, c, m, first=True), rng)


ACTIVATED = [*ACTIVATIONS, *ALIASES, ("leaky_relu", 0.1), ("elu", 0.5), "ReLU"]


@pytest.mark.parametrize("activation", ACTIVATED, ids=str)
def test_every_activation_after_the_bias(activation, rng):
    case = Case(6, 8, lanes() + 3)
    check(case, rng, activation=activation)
    check(case, rng, bias=False, activation=activation)


@pytest.mark.parametrize("activation", ["relu6", "gelu", ("leaky_relu", -0.5)], ids=str)
def test_activations_in_every_feed_and_dtype(activation, rng):
    check(Case(6, 9, 3), rng, activation=activation)
    check(Case(6, 7, lanes() + 3, first=True), rng, activation=activation)
    check(Case(6, 7, lanes() + 3, dtype="float64"), rng, activation=activation)
    check(Case(6, 7, lanes() + 3, kernel=(5, 5)), rng, activation=activation)


def test_a_parameter_is_not_remembered_for_the_next_call(rng):
    x, w, _ = Case(4, 4, lanes()).arrays(rng)
    for slope in (0.1, 0.3, 0.1):
        activation = ("leaky_relu", slope)
        result = ndw.depthwise_conv2d(x, w, activation=activation)
        assert_close(result, x, w, activation=activation)


def constants(count, rng):
    """Return values whose running sums all round in their own way."""
    return rng.uniform(0.5, 1.0, count).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel", "strides"),
    [
        ((31, 31), 1),
        ((33, 33), 1),
        ((63, 63), 1),
        ((13, 13), 1),
        ((63, 13), 1),
        ((120, 9), 1),
        ((63, 18), 3),
        ((1, 1500), 1),
        ((1500, 1), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("c", [3, 128])
def test_constant_images_stay_in_the_bound(kernel, strides, c, rng):
    # Equal summands round the same way at every step: one float32 sum would drift.
    image = np.broadcast_to(constants(c, rng), (1, kernel[0] + 1, kernel[1] + 1, c))
    w = np.broadcast_to(constants(c, rng)[:, None], (*kernel, c, 1))
    result = ndw.depthwise_conv2d(image.copy(), w.copy(), strides=strides)
    assert_close(result[:, :1, :1], image[:, :-1, :-1], w, strides=strides)


def test_large_planes_of_constants_stay_in_the_bound(rng):
    image = np.broadcast_to(constants(20, rng)[:, None, None], (1, 20, 63, 100))
    w = np.full((40, 40, 20, 1), np.float32(0.3))
    result = ndw.depthwise_conv2d(image.copy(), w, data_format="channels_first")
    assert_close(result, image, w, data_format="channels_first")


@pytest.fixture
def tiny_caches(monkeypatch):
    """Plan as if every array were larger than the last cache."""

    def forget():
        functional._calls.clear()
        dispatch.bind_forward.cache_clear()

    forget()
    monkeypatch.setattr(request, "caches", lambda: Caches(last=16))
    yield
    forget()


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.usefixtures("tiny_caches")
def test_stores_past_the_caches(first, m, rng):
    streams = []
    for c, w in ((2 * lanes(), 20), (1, 4 * lanes()), (2, 4 * lanes()), (3, 64)):
        case = Case(20, w, c, m, first=first, n=2)
        streams.append(case.plan().integers[index("plan.stream")])
        check(case, rng)
        nan = np.full(case.geometry.output_shape, np.nan, "f4")
        for offset in (0, 4, 1):
            memory = aligned_empty((nan.nbytes + LINE,), np.uint8)
            out = memory[offset : offset + nan.nbytes].view("f4").reshape(nan.shape)
            out[...] = nan
            memory[:offset], memory[offset + nan.nbytes :] = 77, 77
            check(case, rng, out=out)
            assert (memory[:offset] == 77).all()
            assert (memory[offset + nan.nbytes :] == 77).all()
    # Three outputs a channel fill no whole vectors of neighbouring channels.
    assert any(streams) or (m == 3 and not first)


def test_results_larger_than_the_caches(rng):
    # Past the last-level cache stores may take another way; the bits may not differ.
    x = rng.standard_normal((24, 112, 112, 2 * lanes())).astype(np.float32)
    w = rng.standard_normal((3, 3, 2 * lanes(), 1)).astype(np.float32)
    result = ndw.depthwise_conv2d(x, w, padding="same", activation="relu")
    for n in (0, 11, 23):
        one = ndw.depthwise_conv2d(x[n : n + 1], w, padding="same", activation="relu")
        np.testing.assert_array_equal(result[n : n + 1], one)
    assert_close(one, x[n:], w, padding="same", activation="relu")


def scipy_answer(ndimage, x, w):
    """Correlate every plane with scipy."""
    y = np.empty_like(x, np.float64)
    for n, c in np.ndindex(x.shape[0], x.shape[3]):
        plane = x[n, :, :, c].astype(np.float64)
        y[n, :, :, c] = ndimage.correlate(plane, w[:, :, c, 0], mode="constant")
    return y


@pytest.mark.parametrize("c", [1, 3, 20])
@pytest.mark.parametrize("k", [3, 5, 15])
def test_scipy_agrees(c, k, rng):
    ndimage = pytest.importorskip("scipy.ndimage")
    x, w, _ = Case(21, 34, c, 1, (k, k), n=2, dtype="float64").arrays(rng)
    result = ndw.depthwise_conv2d(x, w, padding="same")
    np.testing.assert_allclose(result, scipy_answer(ndimage, x, w), rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize(
    ("strides", "dilation"), [((1, 1), (1, 1)), ((2, 2), (3, 3)), ((2, 1), (1, 2))]
)
def test_torch_agrees(strides, dilation, m, first, rng):
    torch = pytest.importorskip("torch")
    for c in (2, 17):
        case = Case(15, 21, c, m, (3, 3), strides, (2, 3), dilation, first, n=2)
        x, w, b = case.arrays(rng)
        images = torch.from_numpy(x if first else x.transpose(0, 3, 1, 2).copy())
        weight = torch.from_numpy(w.transpose(2, 3, 0, 1).reshape(-1, 1, 3, 3).copy())
        expected = torch.nn.functional.conv2d(
            images, weight, torch.from_numpy(b), strides, (2, 3), dilation, groups=c
        ).numpy()
        expected = expected if first else expected.transpose(0, 2, 3, 1)
        result = ndw.depthwise_conv2d(x, w, b, **case.options)
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5)


def test_caches_as_the_system_tells_them(tmp_path):
    known = {
        "index0": ("1", "Data", "48K", "12", "64"),
        "index1": ("1", "Instruction", "32K", "4", "128"),
        "index2": ("3", "Unified", "32M", "16", "32768"),
    }
    names = "level", "type", "size", "ways_of_associativity", "number_of_sets"
    for folder, values in known.items():
        (tmp_path / folder).mkdir()
        for name, value in zip(names, values, strict=True):
            (tmp_path / folder / name).write_text(value + "\n")
    assert caches(tmp_path) == Caches(32 * 1024 * 1024, 12, 64)
    assert caches(tmp_path / "none") == Caches()
