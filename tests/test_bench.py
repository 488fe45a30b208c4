"""The benchmark's own parts: workloads, rivals, oracle, timing, report."""

import numpy as np
import pytest

import numbadw
from numbadw.bench import report, table
from numbadw.bench.measure import interleaved, machine
from numbadw.bench.models import Unavailable
from numbadw.bench.oracle import Oracle
from numbadw.bench.passes import FORWARD, PASSES
from numbadw.bench.workloads import (
    IMAGES,
    Workload,
    aligned_copy,
    aligned_empty,
    load_layers,
    load_workloads,
    make_data,
    make_grad,
)

# Stride 2 on an even size: TensorFlow's "same" padding is asymmetric here.
STRIDED = Workload("small", 1, 14, 12, 20, 3, 3, 2, 2)
PICTURE = Workload("image", 1, 17, 23, 3, 5, 5)
MULTIPLIED = Workload("small", 2, 9, 8, 5, 3, 3, m=2)
# An even kernel: padded alike on both sides, the result is one larger.
EVEN = Workload("small", 6, 7, 9, 4, 4, 2, m=3)
GRADIENTS = ("gradients", "input_grad", "kernel_grad")


def test_layers_are_those_of_the_table():
    layers = load_layers()
    assert len(layers) == 37
    assert layers[1].id == "mobilenet_v1-112x112x64-k3x3-s2"
    assert layers[1].output_shape == (1, 56, 56, 64)
    assert layers[-1].id == "image_filter-256x256x16-k5x5-s1-m2"
    assert layers[-1].output_shape == (1, 256, 256, 32)
    assert load_layers(16) == [layer._replace(n=16) for layer in layers]


def test_workloads_have_distinct_ids():
    workloads = load_workloads()
    assert len({workload.id for workload in workloads}) == len(workloads) == 44
    assert sum(workload.n == 32 for workload in workloads) == 4
    assert set(IMAGES) <= set(workloads)


def test_sizes_of_a_workload():
    assert MULTIPLIED.flops == 2 * (2 * 9 * 8 * 10) * 9
    assert MULTIPLIED.bytes == 4 * (2 * 9 * 8 * 5 + 3 * 3 * 5 * 2 + 2 * 9 * 8 * 10)
    assert STRIDED.symmetric_padding() == ((1, 1), (1, 1))
    pads = STRIDED.geometry()
    assert (pads.pt, pads.pb, pads.pl, pads.pr) == (0, 1, 0, 1)


@pytest.mark.parametrize("offset", [0, 16])
def test_aligned_memory(offset):
    array = aligned_empty((3, 5), np.float32, offset=offset)
    assert array.shape == (3, 5)
    assert array.ctypes.data % 64 == offset
    values = np.arange(6.0).reshape(2, 3).T
    copy = aligned_copy(values, offset=offset)
    assert copy.ctypes.data % 64 == offset
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, values)


def test_data_is_seeded_and_images_share_a_kernel():
    inputs, kernel = make_data(PICTURE)
    again, _ = make_data(PICTURE)
    np.testing.assert_array_equal(inputs, again)
    assert (kernel == kernel[:, :, :1]).all()
    _, kernel = make_data(STRIDED)
    assert not (kernel == kernel[:, :, :1]).all()


@pytest.mark.parametrize(("n", "distinct"), [(1, 1), (2, 2), (7, 7), (9, 3), (16, 2)])
def test_images_of_a_batch_repeat(n, distinct):
    workload = STRIDED._replace(n=n)
    assert workload.distinct == distinct
    for images in (make_data(workload)[0], make_grad(workload, "same")):
        assert len(images) == n
        assert images.ctypes.data % 64 == 0
        assert len({image.tobytes() for image in images}) == distinct
        np.testing.assert_array_equal(images[0], images[n - distinct])


def test_gradient_at_the_result_follows_the_padding():
    assert make_grad(EVEN, "same").shape == (6, 7, 9, 12)
    padding = EVEN.symmetric_padding()
    assert padding == ((2, 2), (1, 1))
    assert make_grad(EVEN, padding).shape == (6, 8, 10, 12)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "workload", [STRIDED, PICTURE, MULTIPLIED], ids=lambda workload: workload.id
)
@pytest.mark.parametrize("name", PASSES[FORWARD].rivals)
def test_rival_agrees_with_the_reference(name, workload):
    check(FORWARD, name, workload)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "workload", [STRIDED, MULTIPLIED, EVEN], ids=lambda workload: workload.id
)
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in GRADIENTS for name in PASSES[kind].rivals],
)
def test_gradients_of_a_rival_agree_with_the_reference(kind, name, workload):
    check(kind, name, workload)


@pytest.mark.parametrize(
    "workload", [STRIDED, MULTIPLIED, EVEN], ids=lambda workload: workload.id
)
@pytest.mark.parametrize("kind", PASSES)
def test_numbadw_agrees_with_the_reference(kind, workload):
    for name in PASSES[kind].ours:
        check(kind, name, workload)


def check(kind, name, workload):
    """Prepare and check one call of a pass, as the report does before it times it."""
    try:
        report.Contest(PASSES[kind], workload).call(name, 1)
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_oracle_accepts_right_and_refuses_wrong_results():
    inputs, kernel = make_data(STRIDED)
    oracle = Oracle(STRIDED, inputs, kernel)
    result = numbadw.depthwise_conv2d(inputs, kernel, **STRIDED.options)
    oracle.check("numbadw", result, "same")
    for wrong in (np.float32(np.nan), result[0, 0, 0, 0] + np.float32(0.01)):
        spoilt = result.copy()
        spoilt[0, 0, 0, 0] = wrong
        with pytest.raises(ValueError, match=r"rival is wrong on small-14x12x20"):
            oracle.check("rival", spoilt, "same")
    with pytest.raises(ValueError, match=r"output has shape \(1, 6, 6, 20\)"):
        oracle.check("rival", result[:, 1:], "same")


@pytest.mark.parametrize("number", range(3))
def test_oracle_refuses_wrong_gradients(number):
    names, (inputs, kernel) = PASSES["gradients"].results, make_data(EVEN)
    oracle, grad = Oracle(EVEN, inputs, kernel), make_grad(EVEN, "same")
    options = {**EVEN.options, "backend": "reference"}
    right = numbadw.depthwise_conv2d_grad(inputs, kernel, grad, **options)
    oracle.check("numbadw", right, "same", names)
    for wrong in (np.nan, right[number].flat[-1] + np.abs(right[number]).max() / 10):
        spoilt = [result.copy() for result in right]
        spoilt[number].flat[-1] = wrong
        with pytest.raises(ValueError, match=f"rival is wrong.*{names[number]} has"):
            oracle.check("rival", tuple(spoilt), "same", names)
    with pytest.raises(
        ValueError, match=r"shape \(5, 7, 9, 4\), expected \(6, 7, 9, 4\)"
    ):
        oracle.check("rival", right[0][1:], "same", names[:1])


def test_interleaved_orders_callables_by_cost():
    def cheap():
        return sum(range(10))

    def dear():
        return sum(range(100_000))

    seconds = interleaved({"dear": dear, "cheap": cheap}, rounds=3, min_time=1e-4)
    assert list(seconds) == ["dear", "cheap"]
    assert 0 < seconds["cheap"] < seconds["dear"] < 1


def test_interleaved_drops_what_is_hopeless_beside_the_yardstick():
    def turns(yardstick):
        calls = []
        both = {"cheap": int, "dear": lambda: calls.append(sum(range(50_000)))}
        interleaved(both, rounds=6, min_time=0.0, settle=0.0, yardstick=yardstick)
        return len(calls)

    assert turns(None) < turns("dear")


def test_machine_names_versions():
    facts = machine(1)
    assert facts["threads"] == "1"
    assert facts["numpy"] == np.__version__
    assert facts["cpu"]


def test_report_rows_and_means():
    row = table.Row(STRIDED, 1, {"layer": 2e-6, "function": 3e-6, "peer": 8e-6}, [])
    loss = table.Row(MULTIPLIED._replace(n=1), 1, {"layer": 4e-6, "peer": 1e-6}, [])
    assert row.best_rival == "peer"
    assert table.geometric_mean([row.ratio, loss.ratio]) == pytest.approx(1.0)
    text = table.line(loss, ["layer", "peer"], 40)
    assert text.endswith("0.25 peer LOSS")
    assert any("losses: 1 of 2" in line for line in table.summary([row, loss]))


def test_report_of_gradients():
    kind, wide = PASSES["gradients"], STRIDED._replace(model="wide", kh=5, kw=5)
    large = STRIDED._replace(model="replknet_31b")
    times = {"gradients": 4e-6, "forward": 1e-6, "input_grad": 2e-6}
    rows = [
        table.Row(workload, 1, times | {"kernel_grad": 3e-6, "torch": peer}, [], kind)
        for workload, peer in ((STRIDED, 4e-6), (wide, 16e-6), (large, 24e-6))
    ]
    names = [*kind.ours, "torch"]
    heads, cells = table.header(names, 40).split(), table.line(rows[0], names, 40)
    assert heads[8:11] == ["GFLOP/s", "GB/s", "input_grad/fwd"]
    rates = [2 * STRIDED.flops / 4e3, kind.bytes(STRIDED) / 4e3, 2, 3, 1]
    assert [float(cell) for cell in cells.split()[6:11]] == pytest.approx(rates, 5e-3)
    text = "\n".join(table.summary(rows))
    assert "layers without replknet: geometric mean 2.00x" in text
    assert "5x5 and 7x7 of these: geometric mean 4.00x" in text
    assert "  replknet_31b-14x12x20-k3x3-s2: 6.00 (torch)" in text
    assert "below 1.5x: 1 of 3\n  small-14x12x20-k3x3-s2: 1.00 (torch)" in text
    assert "input_grad: geometric mean 2.00 times the forward" in text
    assert "2.00 to 2.00; above 2: 0 of 3" in text
    assert "3.00 to 3.00; above 2: 3 of 3\n  small-14x12x20-k3x3-s2: 3.00" in text


def test_sizes_of_a_pass():
    gradients, single = PASSES["gradients"], PASSES["input_grad"]
    assert gradients.flops(MULTIPLIED) == 2 * MULTIPLIED.flops
    assert single.flops(MULTIPLIED) == MULTIPLIED.flops
    inputs, kernel, outputs = 2 * 9 * 8 * 5, 3 * 3 * 5 * 2, 2 * 9 * 8 * 10
    assert gradients.bytes(MULTIPLIED) == 4 * (2 * inputs + 2 * kernel + outputs + 10)
    assert single.bytes(MULTIPLIED) == MULTIPLIED.bytes


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("batch", [1, 3])
def test_report_runs(kind, batch, capsys, tmp_path):
    path = tmp_path / "times.csv"
    options = ["--threads", "1", "--rounds", "1", "--rivals", "", "--csv", str(path)]
    options += ["--pass", kind, "--batch", str(batch)]
    assert report.main(["--filter", "mobilenet_v1-7x7x1024-k3x3-s1", *options]) == 0
    printed = capsys.readouterr().out
    label = "mobilenet_v1-7x7x1024-k3x3-s1" + ("-n3" if batch == 3 else "")
    assert f"\n{label} " in printed
    assert all(name in printed for name in PASSES[kind].ours)
    assert ("geometric mean" in printed) == (kind != FORWARD)
    rows = path.read_text().splitlines()
    assert len(rows) == 1 + len(PASSES[kind].ours)
    assert rows[1].startswith(f"{label},1,{kind},{PASSES[kind].main},")
    assert report.main(["--filter", "no such layer"]) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--pass backward", "invalid choice: 'backward'"),
        ("--batch 0", "--batch must be at least 1, got 0"),
        ("--rivals torch", "rivals of --pass forward are torch_channels_last, "),
        ("--pass gradients --rivals litert", "torch_contiguous; got 'litert'"),
        ("--pass gradients --readme README.md", "the forward pass at batch 1"),
    ],
)
def test_wrong_options_are_explained(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(line.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
