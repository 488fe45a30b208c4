"""The self-test: what it draws, that it finds what is wrong, and that it resumes."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from cases import environment

import numbadw as ndw
from numbadw import __main__ as commands
from numbadw import activations
from numbadw.selftest import batch, check, command, draws, long

WRONG = re.compile(r"^  again: python -m numbadw (.*)$", re.MULTILINE)


@pytest.fixture
def brief(monkeypatch):
    """Let the quick test make few calls."""
    monkeypatch.setattr(command, "QUICK_CALLS", 3)


class TestDraws:
    def test_kinds_differ_and_follow_from_the_seed(self):
        first = list(itertools.islice(draws.kinds(0), command.LONG_KINDS))
        assert len(set(first)) == len(first) >= 300
        assert first[:50] == list(itertools.islice(draws.kinds(0), 50))
        assert draws.kind_number(0, 40) == first[40]
        assert draws.kind_number(1, 40) != first[40]
        drawn = {
            kind.activation for kind in first if type(kind.activation) is not tuple
        }
        assert drawn >= {None, *activations.ACTIVATIONS}
        for field in ("kernel", "strides", "dilation", "m", "dtype", "gradient"):
            assert len({getattr(kind, field) for kind in first}) > 1
        assert command.LONG_CALLS >= 300
        assert command.LONG_KINDS * command.LONG_CALLS >= 100_000

    def test_calls_follow_from_their_numbers(self):
        kind = draws.COMMON[0]
        calls = [draws.draw_call(kind, 7, 0, 5) for _ in range(2)]
        assert check.describe(calls[0]) == check.describe(calls[1])
        np.testing.assert_array_equal(calls[0].inputs, calls[1].inputs)
        other = draws.draw_call(kind, 7, 1, 5)
        assert check.describe(other) != check.describe(calls[0])

    def test_calls_are_of_every_kind(self):
        calls = [draws.draw_call(draws.COMMON[0], 0, 0, d) for d in range(300)]
        assert {call.function for call in calls} == {"forward", "all"}
        assert {call.geometry.channels_first for call in calls} == {False, True}
        assert {call.geometry.n for call in calls} == {0, 1, 2, 3}
        sizes = {call.geometry.c for call in calls}
        assert min(sizes) == 1
        assert max(sizes) > 40
        arrays = [call.inputs for call in calls]
        for odd in (
            lambda x: not x.flags.aligned,
            lambda x: not x.dtype.isnative,
            lambda x: 0 in x.strides,
            lambda x: min(x.strides) < 0,
            lambda x: np.isnan(x).any(),
            lambda x: np.isinf(x).any(),
            lambda x: x.flags.c_contiguous and x.flags.aligned,
        ):
            assert sum(map(odd, arrays)) >= 3
        outs = [call.out for call in calls if call.out is not None]
        assert 20 < len(outs) < 300
        assert {call.bias is None for call in calls} == {False, True}
        paddings = {type(call.options["padding"]) for call in calls}
        assert paddings == {str, tuple}
        kernels = {call.kernel.dtype for call in calls}
        assert kernels == {np.dtype(kind) for kind in ("f4", "f2", "i1")}

    def test_out_lies_apart_in_memory_of_nan(self):
        rng = np.random.default_rng(0)
        for shape in ((2, 3, 4, 5), (6,), (1, 1, 1, 1)):
            for _ in range(20):
                values = rng.standard_normal(shape)
                view, base = draws.place(rng, values)
                np.testing.assert_array_equal(view, values)
                view[...] = np.nan
                assert np.isnan(base).all()


def test_an_installation_is_checked_in_a_child():
    start = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-m", "numbadw", "selftest", "--seed", "3"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, (child.stdout, child.stderr)
    verdict = r"[\d,]+ calls over \d kinds of kernels \(\d+ compiled\), seed 3, \d+ s: "
    assert re.fullmatch(f"{verdict}all results are right\n", child.stdout)
    assert time.monotonic() - start < 40


def plant(monkeypatch, change):
    """Let a change be made to every result of the forward function."""
    real = ndw.depthwise_conv2d

    def wrong(*arrays, out=None, **options):
        return change(real(*arrays, out=out, **options), out)

    monkeypatch.setattr(ndw, "depthwise_conv2d", wrong)


def off(result, out):
    """Add a little to one element."""
    result[(0,) * 4] += 1e-3 + 1e-3 * abs(result[(0,) * 4])
    return result


def one_bit(result, out):
    """Change the last bit of an element where more than one thread may run."""
    if ndw.get_num_threads() > 1 and result.size:
        at = (0,) * 4
        result[at] = np.nextafter(result[at], np.inf, dtype=result.dtype)
    return result


def elsewhere(result, out):
    """Return an array that is not out."""
    return result if out is None else result.copy()


def around(result, out):
    """Write next to out."""
    if out is not None:
        kept = out.copy()
        out.base[...] = 0
        out[...] = kept
    return result


def warn(result, out):
    """Warn of something."""
    np.float64(1) / np.float64(0)
    return result


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (off, "the result: 1 of .* results are off; at "),
        (elsewhere, "out was not returned"),
        (around, "memory around out was written"),
        (warn, "RuntimeWarning: divide by zero"),
        (lambda result, out: result.astype("f2"), "the result is of dtype float16"),
        (lambda result, out: result[:0], r"the result: the shape is \(0, "),
        (lambda result, out: 1 / 0, "ZeroDivisionError"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_wrong_is_found_and_named(change, fault, brief, monkeypatch, capsys):
    plant(monkeypatch, change)
    assert commands.main(["selftest", "--seed", "5"]) == 1
    printed = capsys.readouterr().out
    assert re.search(f"^WRONG: {fault}", printed, re.MULTILINE)
    assert re.search(r"\d of them WRONG$", printed.strip())
    again = WRONG.search(printed)[1].split()
    assert again[:3] == ["selftest", "--seed", "5"]
    assert commands.main(again) == 1
    assert re.search(f"^WRONG: {fault}", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.undo()
    assert commands.main(again) == 0


def test_other_bits_on_more_threads_are_found(monkeypatch):
    if ndw.get_num_threads() < 2:
        pytest.skip("this process may use one CPU only")
    plant(monkeypatch, one_bit)
    faults = [check.fault_of(draws.COMMON[0], 0, 0, draw) for draw in range(10)]
    assert any("other bits on one thread" in fault for fault in faults)


def test_which_nan_it_is_does_not_matter():
    one = np.array([1, np.nan, -0.0], "f4")
    assert check._same_bits(one, np.copysign(one, np.array([1, -1, -1], "f4")))
    assert not check._same_bits(one, np.copysign(one, 1))
    assert not check._same_bits(one, np.array([1, 0, -0.0], "f4"))


def test_the_thread_count_is_left_as_it_was(brief):
    before = ndw.get_num_threads()
    assert commands.main(["selftest"]) == 0
    assert ndw.get_num_threads() == before


def test_time_ends_the_quick_test(monkeypatch, capsys):
    monkeypatch.setattr(command, "QUICK_SECONDS", -1)
    assert commands.main(["selftest"]) == 0
    printed = capsys.readouterr()
    assert "time is up" in printed.err
    assert printed.out.startswith("0 calls over 0 kinds")


# A child that reports at once: it dies at kind 4 and finds kind 6 wrong.
CHILD = """
import json, os, sys, time
seed, first, last, calls = map(int, sys.argv[1:5])
for kind in range(first, last):
    if kind == 4:
        sys.stderr.write("a last word")
        sys.stderr.flush()
        os.abort()
    if kind >= 10:
        time.sleep(60)
    wrong = [["6:1", "off"]] if kind == 6 else []
    print(json.dumps([kind, calls, [f"k{kind}", "all"], wrong]), flush=True)
"""


@pytest.fixture
def quick_children(monkeypatch, tmp_path):
    """Replace the children by ones that compute nothing; give the state's path."""

    def line(*numbers):
        return [sys.executable, "-S", "-c", CHILD, *map(str, numbers)]

    monkeypatch.setattr(long, "command", line)
    monkeypatch.setattr(long, "BATCH", 3)
    return tmp_path / "state.json"


def run_long(path, *options):
    return commands.main(["selftest", "--long", "--state", str(path), *options])


class TestLong:
    def test_a_real_child(self, monkeypatch, tmp_path, capsys):
        path = tmp_path / "state.json"
        monkeypatch.setattr(os, "environ", environment())
        assert run_long(path, "--kinds", "1", "--calls", "1", "--seed", "2") == 0
        state = long.load(path, 2, 1, "cpu")
        assert state.done == {0: 1}
        assert state.compiled
        assert "1 calls over 1 kinds" in capsys.readouterr().out

    def test_it_goes_on_where_it_ended(self, quick_children, capsys):
        options = ["--calls", "7", "--seed", "9", "--jobs", "2"]
        assert run_long(quick_children, "--kinds", "2", *options) == 0
        printed = capsys.readouterr()
        assert "14 calls over 2 kinds of kernels (3 compiled), seed 9" in printed.out
        assert "2 of 2 kinds, 14 calls, 0 wrong" in printed.err
        seconds = long.load(quick_children, None, 7, "cpu").seconds
        assert run_long(quick_children, "--kinds", "4", *options[:2]) == 0
        printed = capsys.readouterr()
        assert "14 calls over 2 kinds are done already" in printed.out
        assert "28 calls over 4 kinds of kernels (5 compiled), seed 9" in printed.out
        assert long.load(quick_children, None, 7, "cpu").seconds >= seconds
        # All is done: nothing runs again.
        assert run_long(quick_children, "--kinds", "4", *options) == 0
        assert capsys.readouterr().err == ""

    def test_a_child_that_dies_costs_the_kind_it_was_at(self, quick_children, capsys):
        options = ["--calls", "7", "--kinds", "9"]
        for _ in range(2):
            assert run_long(quick_children, *options) == 1
            printed = capsys.readouterr().out
            status = -signal.SIGABRT
            assert f"ended with status {status}: a last word" in printed
            assert "selftest --seed 0 --case 4\n" in printed
            assert "selftest --seed 0 --case 6:1\n" in printed
            assert "56 calls over 9 kinds" in printed
            assert printed.strip().endswith("2 of them WRONG")

    def test_a_child_that_hangs_is_ended(self, quick_children, monkeypatch, capsys):
        monkeypatch.setattr(long, "PATIENCE", 1)
        state = long.load(quick_children, 0, 7, "cpu")
        state = state._replace(done=dict.fromkeys(range(10), 7))
        state = long.run(state, quick_children, 11, 1, lambda state: None)
        assert state.wrong == [("10", "no end after 1 s")]

    def test_an_interrupt_keeps_what_is_done(self, quick_children, capsys):
        path = quick_children
        long.save(
            long.load(path, 0, 7, "cpu")._replace(done=dict.fromkeys(range(7), 7)), path
        )
        timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.monotonic()
        assert run_long(path, "--kinds", "12", "--calls", "7") == command.INTERRUPTED
        timer.join()
        assert time.monotonic() - start < 30
        assert "goes on from here" in capsys.readouterr().err
        assert sorted(long.load(path, 0, 7, "cpu").done) == list(range(10))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: "", "is no state of a self-test: remove it to begin anew"),
            (lambda text: text[:40], "is no state of a self-test"),
            (lambda text: "[1, 2]", "is no state of a self-test"),
            (lambda text: '{"seed": 1}', "is no state of a self-test"),
            (lambda text: text.replace('"calls": 7', '"calls": "x"'), "is no state"),
            (lambda text: text.replace('"calls": 7', '"calls": 8'), "has 8 calls a k"),
            (lambda text: text.replace('"cpu"', '"cuda"'), "is of backend cuda"),
            (
                lambda text: text.replace('"seed": 0', '"seed": 4'),
                "is of seed 4, not 0",
            ),
            (
                lambda text: re.sub('s": "[^"]*"', 's": "x"', text),
                "is of another version",
            ),
        ],
        ids=lambda value: value[:9] if isinstance(value, str) else "",
    )
    def test_a_bad_state_is_refused(self, change, message, quick_children, capsys):
        path = quick_children
        long.save(long.load(path, 0, 7, "cpu"), path)
        path.write_text(change(path.read_text()))
        before = path.read_text()
        with pytest.raises(SystemExit) as stop:
            run_long(path, "--calls", "7", "--seed", "0")
        assert stop.value.code == 2
        assert f"{path} {message}" in capsys.readouterr().err
        assert path.read_text() == before

    def test_a_place_that_cannot_be_written_is_named(self, quick_children, capsys):
        folder = quick_children.parent / "none"
        for path in (folder / "state.json", quick_children.parent):
            with pytest.raises(SystemExit):
                run_long(path, "--calls", "7", "--kinds", "1")
            assert str(path.parent) in capsys.readouterr().err

    def test_the_state_is_replaced_as_a_whole(self, quick_children, monkeypatch):
        path = quick_children
        state = long.load(path, 0, 7, "cpu")
        long.save(state, path)

        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(json, "dump", fail)
        with pytest.raises(OSError, match="No space"):
            long.save(state._replace(seed=3), path)
        monkeypatch.undo()
        assert long.load(path, 0, 7, "cpu") == state
        assert list(path.parent.iterdir()) == [path]

    def test_batches_leave_out_what_is_done(self, monkeypatch):
        monkeypatch.setattr(long, "BATCH", 3)
        batches = list(long._batches([0, 1, 2, 3, 6, 7, 9]))
        assert batches == [(0, 3), (3, 4), (6, 8), (9, 10)]

    def test_the_state_lies_in_the_cache_folder_or_here(self, monkeypatch, tmp_path):
        monkeypatch.setattr(long.jit, "cache_folder", lambda: tmp_path)
        assert long.default_path("cpu").parent == tmp_path
        monkeypatch.setattr(long.jit, "cache_folder", lambda: None)
        assert long.default_path("cpu").name == str(long.default_path("cpu"))


def test_a_batch_reports_every_kind(monkeypatch, capsys):
    faults = {(5, 1): "off"}
    monkeypatch.setattr(
        batch,
        "fault_of",
        lambda kind, seed, number, draw, backend: faults.get((number, draw), ""),
    )
    assert batch.main(["0", "4", "6", "3", "cpu"]) == 0
    reports = [batch.read(line) for line in capsys.readouterr().out.splitlines()]
    assert [(report.kind, report.calls) for report in reports] == [(4, 3), (5, 3)]
    assert [report.wrong for report in reports] == [[], [("5:1", "off")]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--case x", "expected a case as in 17 or 17:203, got 'x'"),
        ("--case 1:-2", "expected a case"),
        ("--case -1", "expected"),
        ("--seed -1", "expected a number >= 0, got -1"),
        ("--kinds 0", "expected a number >= 1, got '0'"),
        ("--jobs many", "expected a number >= 1, got 'many'"),
    ],
)
def test_wrong_options_are_explained(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        commands.main(["selftest", *line.split()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
