"""The benchmark's own parts: workloads, peers, oracle, timing, ceilings."""

import itertools
import time

import numpy as np
import pytest

import numbadw
from numbadw import jit
from numbadw.bench import ceilings, measure, peers, sittings, tasks
from numbadw.bench.ceilings import Ceilings
from numbadw.bench.contest import Contest
from numbadw.bench.measure import core_seconds, interleaved, machine
from numbadw.bench.oracle import Oracle
from numbadw.bench.passes import FORWARD, GRADIENTS, PASSES
from numbadw.bench.peers.prepared import Prepared, Unavailable
from numbadw.bench.workloads import (
    IMAGES,
    Workload,
    aligned_copy,
    aligned_empty,
    load_layers,
    make_data,
    make_grad,
)

# Stride 2 on an even size: TensorFlow's "same" padding is asymmetric here.
STRIDED = Workload("small", 1, 14, 12, 20, 3, 3, 2, 2)
PICTURE = Workload("image", 1, 17, 23, 3, 5, 5)
MULTIPLIED = Workload("small", 2, 9, 8, 5, 3, 3, m=2)
# An even kernel: padded alike on both sides, the result is one larger.
EVEN = Workload("small", 6, 7, 9, 4, 4, 2, m=3)
DILATED = Workload("small", 1, 13, 12, 8, 3, 3, dh=2, dw=3)
FORWARD_CASES = (STRIDED, PICTURE, MULTIPLIED, DILATED)
GRADIENT_CASES = (STRIDED, MULTIPLIED, EVEN, DILATED)
GRADIENT_PASSES = (GRADIENTS, "input_grad", "kernel_grad")


def test_layers_are_those_of_the_table():
    layers = load_layers()
    assert len(layers) == 37
    assert layers[1].id == "mobilenet_v1-112x112x64-k3x3-s2"
    assert layers[1].output_shape == (1, 56, 56, 64)
    assert layers[-1].id == "image_filter-256x256x16-k5x5-s1-m2"
    assert layers[-1].output_shape == (1, 256, 256, 32)
    assert load_layers(16) == [layer._replace(n=16) for layer in layers]


def test_every_task_has_its_own_place():
    full = tasks.select_tasks(full=True)
    places = {(task.group, task.kind, task.workload.id) for task in full}
    assert len(places) == len(full) == 133
    quick = tasks.select_tasks(full=False)
    assert set(quick) < set(full)
    assert {task.group for task in quick} == {task.group for task in full}
    assert len(quick) == 37
    workloads = [task.workload for task in full]
    assert {*IMAGES, *load_layers()} <= set(workloads)
    dilated = [w for w in workloads if (w.dh, w.dw) != (1, 1)]
    assert len(dilated) == 3
    assert {w.n for w in workloads} == {1, 2, 4, 8, 16, 32}


@pytest.mark.parametrize(
    ("options", "group", "number"),
    [
        ({"full": True, "kind": GRADIENTS}, "gradients", 67),
        ({"full": True, "kind": "input_grad"}, "input_grad, batch 1", 37),
        ({"full": False, "kind": "kernel_grad"}, "kernel_grad, batch 1", 13),
        ({"full": True, "batch": 16}, "forward, batch 16", 37),
        ({"full": False, "text": "tiny"}, "call overhead", 2),
        ({"full": False, "text": "no such layer"}, None, 0),
    ],
)
def test_tasks_are_chosen(options, group, number):
    chosen = tasks.select_tasks(**options)
    assert len(chosen) == number
    assert not chosen or chosen[0].group == group
    kinds = {options["kind"]} if "kind" in options else set(PASSES)
    assert {task.kind for task in chosen} <= kinds


def test_sizes_of_a_workload():
    assert MULTIPLIED.flops == 2 * (2 * 9 * 8 * 10) * 9
    assert MULTIPLIED.bytes == 4 * (2 * 9 * 8 * 5 + 3 * 3 * 5 * 2 + 2 * 9 * 8 * 10)
    assert STRIDED.symmetric_padding() == ((1, 1), (1, 1))
    # 12 rows of output, 12 x 3 taps less the two beyond the edges; 12 columns, too.
    assert Workload("small", 1, 12, 12, 5, 3, 3).needed == 2 * 5 * 34 * 34
    # The last of 7 and of 6 windows reaches over the edge by one tap.
    assert STRIDED.needed == 2 * 20 * (7 * 3 - 1) * (6 * 3 - 1)
    assert PASSES[GRADIENTS].needed(STRIDED) == 2 * STRIDED.needed
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
@pytest.mark.parametrize("workload", FORWARD_CASES, ids=lambda workload: workload.id)
@pytest.mark.parametrize("name", PASSES[FORWARD].peers)
def test_peer_agrees_with_the_reference(name, workload):
    check(FORWARD, name, workload)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("workload", GRADIENT_CASES, ids=lambda workload: workload.id)
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in GRADIENT_PASSES for name in PASSES[kind].peers],
)
def test_gradients_of_a_peer_agree_with_the_reference(kind, name, workload):
    check(kind, name, workload)


@pytest.mark.parametrize("workload", GRADIENT_CASES, ids=lambda workload: workload.id)
@pytest.mark.parametrize("kind", PASSES)
def test_numbadw_agrees_with_the_reference(kind, workload):
    for name in PASSES[kind].ours:
        check(kind, name, workload)


def check(kind, name, workload):
    """Prepare and check one call of a pass, as the report does before it times it."""
    try:
        Contest(PASSES[kind], workload).call(name, 1)
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
        with pytest.raises(ValueError, match=r"peer is wrong on small-14x12x20"):
            oracle.check("peer", spoilt, "same")
    with pytest.raises(ValueError, match=r"output has shape \(1, 6, 6, 20\)"):
        oracle.check("peer", result[:, 1:], "same")


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
        with pytest.raises(ValueError, match=f"peer is wrong.*{names[number]} has"):
            oracle.check("peer", tuple(spoilt), "same", names)
    with pytest.raises(
        ValueError, match=r"shape \(5, 7, 9, 4\), expected \(6, 7, 9, 4\)"
    ):
        oracle.check("peer", right[0][1:], "same", names[:1])


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


def test_interleaved_times_what_is_slow_by_an_order_once():
    calls = []

    def slow():
        calls.append(time.sleep(0.11))

    both = {"slow": slow, "fast": int}
    seconds = interleaved(both, rounds=5, min_time=0.0, settle=0.0, yardstick="fast")
    assert len(calls) == 2
    assert 0.11 <= seconds["slow"] < 3


def test_time_without_a_core_is_read_from_the_system(tmp_path):
    ran, waited = core_seconds()
    assert ran >= 0 <= waited
    path = tmp_path / "schedstat"
    assert core_seconds(path) == (0, 0)
    path.write_text("2500000000 500000000 12\n")
    assert core_seconds(path) == (2.5, 0.5)


def test_machine_names_versions():
    facts = machine()
    assert facts["numpy"] == np.__version__
    assert facts["cpu"]


def test_sizes_of_a_pass():
    gradients, single = PASSES["gradients"], PASSES["input_grad"]
    assert gradients.flops(MULTIPLIED) == 2 * MULTIPLIED.flops
    assert single.flops(MULTIPLIED) == MULTIPLIED.flops
    inputs, kernel, outputs = 2 * 9 * 8 * 5, 3 * 3 * 5 * 2, 2 * 9 * 8 * 10
    assert gradients.bytes(MULTIPLIED) == 4 * (2 * inputs + 2 * kernel + outputs + 10)
    assert single.bytes(MULTIPLIED) == MULTIPLIED.bytes


def test_peers_that_are_missing_are_named_with_what_installs_them(monkeypatch):
    assert set(peers.MODULES) == set(peers.PEERS) >= set(peers.gradient_peers())
    needed = {module for modules in peers.MODULES.values() for module in modules}
    assert needed == set(peers.PACKAGES)
    monkeypatch.setitem(peers.MODULES, "jax", ("no_such_module",))
    monkeypatch.setitem(peers.PACKAGES, "no_such_module", "jax[cpu]")
    monkeypatch.setitem(peers.MODULES, "scipy", ("math",))
    (text,) = peers.missing_peers(["jax", "scipy"]).values()
    assert text.startswith("no_such_module is not installed (No module named")
    assert text.endswith("; pip install 'jax[cpu]'")


def test_contest_leaves_out_peers_that_fail_or_are_wrong(monkeypatch):
    def wrong(workload, inputs, kernel, threads):
        result = np.zeros(workload.output_shape, np.float32)
        return Prepared(result.copy, result.copy, workload.padding)

    def broken(workload, inputs, kernel, threads):
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setitem(peers.PEERS, "jax", wrong)
    monkeypatch.setitem(peers.PEERS, "scipy", broken)
    contest = Contest(PASSES[FORWARD], STRIDED)
    calls, notes = contest.calls(["jax", "scipy", "opencv"], 1)
    assert list(calls) == list(PASSES[FORWARD].ours)
    assert "jax is wrong on small-14x12x20" in notes[0]
    assert notes[1].endswith("-s2: RuntimeError: out of luck")
    assert notes[2].startswith("opencv: filter2D takes one image")


def test_sittings_are_in_new_memory_and_the_two_best_count():
    made, given = [], iter((5.0, 1.0, 3.0))

    def timer(calls, *, rounds, budget, yardstick):
        made.append((list(calls), rounds, yardstick))
        ours = next(given)
        return {name: ours * (10 if name == "slow" else 1) for name in calls}

    class Noted(Contest):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            addresses.append(self._data[0].ctypes.data)

        def calls(self, peers, threads):
            ours = dict.fromkeys(PASSES[FORWARD].ours, int)
            return ours | dict.fromkeys(peers, int), ["a note"]

    addresses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sittings, "Contest", Noted)
        row = sittings.Sittings(PASSES[FORWARD], STRIDED, timer, 1, 7)
        seconds, notes = row.measure(["fast", "slow"], 1.0, 3)
    ours = list(PASSES[FORWARD].ours)
    names = [[*ours, "fast", "slow"], [*ours, "fast"], [*ours, "fast"]]
    assert made == [(each, 7, ours[0]) for each in names]
    assert seconds == {**dict.fromkeys([*ours, "fast"], 2.0), "slow": 50.0}
    assert notes == ("a note",)
    assert len(set(addresses)) == 3


def test_turns_without_a_core_are_taken_again(monkeypatch):
    # Of every second that passes the thread waits for half, or for none.
    for share, tries in ((0.5, measure.TRIES), (0.0, 1)):
        seconds = itertools.count()
        monkeypatch.setattr(
            measure,
            "core_seconds",
            lambda seconds=seconds, share=share: (at := next(seconds), share * at),
        )
        turns = []
        assert measure._undisturbed(lambda turns=turns: turns.append(1) or 2.0, 0) == 2
        assert len(turns) == tries


def test_copies_move_noise():
    # Zen 5 stores zeros past its caches twice as fast as anything else.
    noise = ceilings._noise((1 << 20) + 7)
    assert noise.shape == ((1 << 20) + 7,)
    assert np.unique(noise[:4096]).size > 250
    assert np.unique(noise[-7:]).size > 3


def test_ceilings_allow_the_longer_of_two_times():
    limits = Ceilings(1, 100.0, ((16, 4.0, 8.0), (256, 2.0, 1.0)))
    assert limits.bandwidth(16) == limits.bandwidth(1) == 8
    assert limits.bandwidth(64) == pytest.approx(5)
    assert limits.bandwidth(1 << 20) == 2
    assert limits.seconds(1000, 16) == pytest.approx(10)
    assert limits.seconds(100, 512) == pytest.approx(256)


@pytest.mark.parametrize("threads", [1, 2])
def test_ceilings_are_measured(threads, monkeypatch):
    for name, value in (("LARGEST", 1 << 16), ("TRIALS", 1), ("PASSES", 1)):
        monkeypatch.setattr(ceilings, name, value)
    limits = ceilings.measure_ceilings(threads)
    assert limits.threads == threads
    assert [size for size, *_ in limits.copies] == [1 << 14, 1 << 15, 1 << 16]
    assert limits.flops > 1e8
    assert all(speed > 1e7 for _, *speeds in limits.copies for speed in speeds)


def test_chains_of_multiply_adds_do_the_work_that_is_counted():
    lanes = jit.target().vector_bytes // 4
    sink = aligned_empty((lanes,), np.float32)
    sink.fill(0.5)
    ceilings._multiply_adds()(3, sink.ctypes.data)
    sums = [0.5 + i for i in range(ceilings.CHAINS)]
    for _ in range(3):
        sums = [0.5 * value + 0.5 for value in sums]
    np.testing.assert_array_equal(sink, np.float32(sum(sums)))


@pytest.mark.parametrize("copy", [ceilings._plain_copy, ceilings._streamed_copy])
def test_copies_copy_everything_and_no_more(copy):
    size = 3 * ceilings.BLOCK * jit.target().vector_bytes
    memory = aligned_empty((3, size), np.uint8)
    memory[...] = np.random.default_rng(0).integers(0, 256, memory.shape)
    before = memory.copy()
    copy()(2, memory.ctypes.data, memory[1:].ctypes.data, size)
    np.testing.assert_array_equal(memory, before[[0, 0, 2]])
