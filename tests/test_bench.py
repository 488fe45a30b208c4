"""The benchmark's own parts: workloads, rivals, oracle, timing, report."""

import numpy as np
import pytest

import numbadw
from numbadw.bench import report
from numbadw.bench.measure import Oracle, interleaved, machine
from numbadw.bench.models import Unavailable
from numbadw.bench.rivals import RIVALS
from numbadw.bench.workloads import (
    IMAGES,
    Workload,
    aligned_copy,
    aligned_empty,
    load_layers,
    load_workloads,
    make_data,
)

# Stride 2 on an even size: TensorFlow's "same" padding is asymmetric here.
STRIDED = Workload("small", 1, 14, 12, 20, 3, 3, 2, 2)
PICTURE = Workload("image", 1, 17, 23, 3, 5, 5)
MULTIPLIED = Workload("small", 2, 9, 8, 5, 3, 3, m=2)


def test_layers_are_those_of_the_table():
    layers = load_layers()
    assert len(layers) == 37
    assert layers[1].id == "mobilenet_v1-112x112x64-k3x3-s2"
    assert layers[1].output_shape == (1, 56, 56, 64)
    assert layers[-1].id == "image_filter-256x256x16-k5x5-s1-m2"
    assert layers[-1].output_shape == (1, 256, 256, 32)


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


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "workload", [STRIDED, PICTURE, MULTIPLIED], ids=lambda workload: workload.id
)
@pytest.mark.parametrize("name", RIVALS)
def test_rival_agrees_with_the_reference(name, workload):
    inputs, kernel = make_data(workload)
    try:
        rival = RIVALS[name](workload, inputs, kernel, 1)
    except Unavailable as reason:
        pytest.skip(str(reason))
    Oracle(workload, inputs, kernel).check(name, rival.fetch(), rival.padding)


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
    with pytest.raises(ValueError, match=r"result \(1, 6, 6, 20\)"):
        oracle.check("rival", result[:, 1:], "same")


def test_interleaved_orders_callables_by_cost():
    def cheap():
        return sum(range(10))

    def dear():
        return sum(range(100_000))

    seconds = interleaved({"dear": dear, "cheap": cheap}, rounds=3, min_time=1e-4)
    assert list(seconds) == ["dear", "cheap"]
    assert 0 < seconds["cheap"] < seconds["dear"] < 1


def test_machine_names_versions():
    facts = machine(1)
    assert facts["threads"] == "1"
    assert facts["numpy"] == np.__version__
    assert facts["cpu"]


def test_report_rows_and_means():
    row = report.Row(STRIDED, 1, {"layer": 2e-6, "function": 3e-6, "peer": 8e-6}, [])
    loss = report.Row(MULTIPLIED._replace(n=1), 1, {"layer": 4e-6, "peer": 1e-6}, [])
    assert row.best_rival == "peer"
    assert report.geometric_mean([row.ratio, loss.ratio]) == pytest.approx(1.0)
    text = report.line(loss, ["layer", "peer"], 40)
    assert text.endswith("0.25 peer LOSS")
    assert any("losses: 1 of 2" in line for line in report.summary([row, loss]))


def test_report_runs(capsys, tmp_path):
    path = tmp_path / "times.csv"
    options = ["--threads", "1", "--rounds", "1", "--rivals", "", "--csv", str(path)]
    assert report.main(["--filter", "mobilenet_v1-7x7x1024-k3x3-s1", *options]) == 0
    printed = capsys.readouterr().out
    assert "mobilenet_v1-7x7x1024-k3x3-s1" in printed
    assert "function_16" in printed
    assert len(path.read_text().splitlines()) == 1 + len(report.OURS)
    assert report.main(["--filter", "no such layer"]) == 1
