"""The benchmark's CUDA target over a stub driver: calls, checks, clock, table.

`test_cuda_host.py` runs this in a child, with the other checks.
"""

import json
import re
import types
from dataclasses import asdict, replace

import numpy as np
import pytest
from cuda_stub import STREAMS, stub

from numbadw.bench import command, results, table, worker
from numbadw.bench.contest import Contest
from numbadw.bench.device import ceilings, clock, peers, rehearsal
from numbadw.bench.device.passes import (
    DEVICE,
    HOST,
    PASSES,
    STAGED,
    on_device,
    read_images,
)
from numbadw.bench.device.tasks import large_batch, select_tasks
from numbadw.bench.peers.prepared import Unavailable
from numbadw.bench.targets import TARGETS
from numbadw.bench.tasks import Task
from numbadw.bench.workloads import Workload, load_layers, make_data
from numbadw.cuda.resident import LEGACY, Resident

__all__ = ["stub"]  # fixture

SMALL = Workload("small", 6, 9, 8, 4, 3, 3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", [name for name in PASSES if name != STAGED])
def test_calls_are_checked_and_wrong_ones_found(kind, dtype, monkeypatch):
    contest = Contest(PASSES[kind], SMALL._replace(dtype=dtype))
    for name in (DEVICE, HOST):
        assert type(contest.call(name, 1)()) is Resident
    real = Resident.numpy
    monkeypatch.setattr(Resident, "numpy", lambda array: real(array) * 1.02)
    with pytest.raises(ValueError, match=f"{DEVICE} is wrong on small"):
        contest.call(DEVICE, 1)


def test_what_a_call_leaves_out_is_found(monkeypatch):
    contest = Contest(PASSES["forward"], SMALL)
    contest._ours[DEVICE] = lambda: Resident.empty(SMALL.output_shape, "f32", 0)
    with pytest.raises(ValueError, match="error nan tolerances"):
        contest.call(DEVICE, 1)


def test_numpy_arrays_go_there_and_back():
    contest = Contest(PASSES[STAGED], SMALL)
    call = contest.call(STAGED, 1)
    assert isinstance(call, clock.HostCall)
    assert type(call()) is np.ndarray


@pytest.mark.parametrize("n", [3, 4, 10])
def test_batches_are_made_and_read_of_the_images_that_differ(n):
    images = make_data(SMALL._replace(n=2))[0]
    whole = on_device(images, SMALL, n)
    every = whole.numpy()
    for i in range(n):
        np.testing.assert_array_equal(every[i], images[i % 2])
    part = read_images(whole, SMALL._replace(n=n))
    assert len(part) == min(n, 4)
    np.testing.assert_array_equal(part[-1], every[-1])


def test_calls_take_arrays_past_the_cache_in_turn(monkeypatch):
    monkeypatch.setattr(ceilings, "_cache_bytes", lambda number: 3 * SMALL.bytes)
    call = PASSES["forward"].prepare(SMALL, *make_data(SMALL._replace(n=2)))[DEVICE]
    seen = [call().address for _ in range(24)]
    assert len(set(seen)) == 12
    assert seen[:12] == seen[12:]
    assert set(STREAMS) == {LEGACY}


def test_events_time_calls_and_the_host_its_own(monkeypatch):
    made = clock.DeviceClock(0)
    calls = []
    assert 0 < made(lambda: calls.append(1), 5) < 1
    assert len(calls) == 5 * clock.TRIES, "the stub's queue is never full"
    waits = []
    call = clock.HostCall(lambda: calls.append(2), lambda: waits.append(1))
    assert 0 < made(call, 4) < 1
    assert calls.count(2) == 4
    assert waits == [1]
    both = clock.timed({"a": lambda: None, "b": call}, rounds=2, budget=0.1)
    assert set(both) == {"a", "b"}


def test_a_queue_that_is_full_is_timed_once(monkeypatch):
    made = clock.DeviceClock(0)
    monkeypatch.setattr(made, "_by_events", lambda call, repeat: (0.5, True))
    assert made(lambda: None, 3) == 0.5


def test_what_events_do_not_tell_apart_still_takes_time(monkeypatch):
    made, bindings = clock.DeviceClock(0), clock.device.driver()
    done = bindings.CUresult.CUDA_SUCCESS
    blind = types.SimpleNamespace(**vars(bindings))
    blind.cuEventElapsedTime = lambda first, last: (done, 0.0)
    monkeypatch.setattr(clock.device, "driver", lambda: blind)
    assert made(lambda: None, 1) == clock.RESOLUTION


def test_ceilings_of_the_device(monkeypatch):
    monkeypatch.setattr(ceilings, "LARGEST", 1 << 22)
    limits = ceilings.measure_ceilings(1)
    assert [size for size, *_ in limits.copies] == [1 << 20, 1 << 21, 1 << 22]
    assert all(speed > 0 for _, speed, _ in limits.copies)
    # The stub names one multiprocessor of 1 kHz.
    assert limits.flops == 2e3 * 128


def test_every_layer_is_measured_in_every_way():
    full = select_tasks(full=True)
    layers = load_layers()
    timed = [task for task in full if task.kind != STAGED and "," in task.group]
    assert len(timed) == len(layers) * 3 * 3 * 3
    assert {task.workload.dtype for task in timed} == {
        "float32",
        "bfloat16",
        "float16",
    }
    for task in timed:
        if task.group.endswith("1 GB"):
            assert 0.9e9 < task.workload.bytes < 1.1e9
            assert task.workload.n == large_batch(task.workload)
            assert task.workload.n % 2 == 0
        else:
            assert f"batch {task.workload.n}" in task.group
    groups = list(dict.fromkeys(task.group for task in full))
    assert len({(task.group, task.workload.id) for task in full}) == len(full)
    assert len(groups) == 27 + 3
    quick = select_tasks(full=False)
    assert 0 < len(quick) < len(full) / 10
    assert {task.kind for task in quick} == set(PASSES)
    some = select_tasks(full=True, kind="kernel_grad", batch=4, text="convnext")
    assert {task.workload.n for task in some} == {4}
    assert {task.kind for task in some} == {"kernel_grad"}


def test_peers_without_a_device_are_left_out():
    contest = Contest(PASSES["forward"], SMALL)
    with pytest.raises(Unavailable, match=r"without CUDA|torch is not installed"):
        contest.call("torch_native_contiguous", 1)
    assert set(peers.MODULES) == set(PASSES["forward"].peers)
    assert set(PASSES["kernel_grad"].peers) <= set(peers.MODULES)


def test_the_rehearsal_notes_what_it_checked(monkeypatch):
    notes = []
    monkeypatch.setattr(rehearsal.shutil, "which", lambda name: None)
    vast = rehearsal._vast_arrays
    small = Workload("vast", 6, 4, 4, 2, 3, 3, dtype="bfloat16")
    monkeypatch.setattr(rehearsal, "_vast_arrays", lambda: vast(small))
    monkeypatch.setattr(rehearsal, "MIDDLE", 96)
    rehearsal.rehearse(notes.append, 2.0)
    assert re.match(r"checked: \d+ random calls", notes[0])
    assert notes[1] == "checked: an array of 192 elements, also past the 96th"
    assert notes[2] == "not checked: compute-sanitizer is not on PATH"


def test_the_rehearsal_finds_what_is_wrong(monkeypatch):
    monkeypatch.setattr(rehearsal, "fault_of", lambda *given: "off")
    with pytest.raises(rehearsal.Wrong, match="selftest --backend cuda --seed"):
        rehearsal._random_calls(1.0)
    small = Workload("vast", 6, 4, 4, 2, 3, 3)
    monkeypatch.setattr(rehearsal, "MIDDLE", 96)
    real, seen = rehearsal.read_whole, []

    def other(result, workload):
        seen.append(real(result, workload))
        return seen[-1] + (len(seen) == 3)

    monkeypatch.setattr(rehearsal, "read_whole", other)
    with pytest.raises(rehearsal.Wrong, match="image 2 of"):
        rehearsal._vast_arrays(small)


@pytest.mark.parametrize("status", [0, 9])
def test_the_sanitizer_runs_a_few_calls(status, monkeypatch, tmp_path):
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\necho Invalid read\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setattr(rehearsal.shutil, "which", lambda name: str(program))
    if status:
        with pytest.raises(rehearsal.Wrong, match="Invalid read"):
            rehearsal._sanitized()
    else:
        assert "no errors" in rehearsal._sanitized()


def test_late_rows_have_no_peers(monkeypatch):
    monkeypatch.setattr(ceilings, "LARGEST", 1 << 21)
    asked, brief = [], replace(TARGETS["cuda"], rehearse=lambda note: None)
    monkeypatch.setattr(worker, "TARGETS", {"cuda": brief})
    monkeypatch.setattr(worker, "missing_peers", lambda names, *tables: {})
    real = Contest.calls

    def calls(contest, names, threads):
        asked.append(list(names))
        return real(contest, [], threads)

    monkeypatch.setattr(Contest, "calls", calls)
    rows = []
    task = Task("forward, float32, batch 6", "forward", SMALL)
    for seconds in (0.0, 60.0):
        job = worker.Job("cuda", 1, (task,), ("jax",), 1, seconds)
        worker.run_job(job, lambda name, value: rows.append((name, value)))
    assert asked == [[], ["jax"]]
    late, early = (value["notes"] for name, value in rows if name == "row")
    assert "after the time was up" in late[0]
    assert not early


def test_a_job_gives_rows_and_the_table_shows_them(monkeypatch, tmp_path):
    monkeypatch.setattr(ceilings, "LARGEST", 1 << 21)
    target = TARGETS["cuda"]
    brief = replace(target, rehearse=lambda note: note("checked: all"))
    monkeypatch.setattr(worker, "TARGETS", {"cuda": brief})
    tasks = tuple(
        Task(f"{kind}, float32, batch 6", kind, SMALL) for kind in target.passes
    )
    job = worker.Job("cuda", 1, tasks, (), 1, 1.0)
    events = []
    worker.run_job(job, lambda *event: events.append(json.loads(json.dumps(event))))
    run = results.Run("python -m numbadw bench --backend cuda", "today", "cuda", {})
    for name, value in events:
        if name == "row":
            run.rows.append(results.read_row(value))
        elif name == "ceilings":
            run.ceilings.append(results.read_ceilings(value))
        elif name == "note":
            run.notes.append(value)
    assert run.notes == ["checked: all"]
    assert [row.kind for row in run.rows] == list(target.passes)
    for row in run.rows:
        assert row.time > 0
        assert row.least > 0
        assert "of limit" in table.header(9)
        assert re.search(r"\d+%", table.line(row, 9))
    assert "(host " in table.line(run.rows[0], 9)
    path = tmp_path / "run.json"
    results.save(run, path)
    assert asdict(results.load(path)) == asdict(run)
    assert command.main(["--from-json", str(path)]) == 0
