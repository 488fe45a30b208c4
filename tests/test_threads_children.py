"""Threads in processes of their own: forks, callers, idle times, signals, limits."""

import sys

import pytest
from thread_cases import LAYERS, forking, run_child, several

START = """
import os, sys, threading
import numpy as np
import numbadw as ndw
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 56, 57, 64)).astype("f4")
k = rng.standard_normal((3, 3, 64, 1)).astype("f4")
expected = ndw.depthwise_conv2d(x, k, backend="reference")
def good(result):
    return np.allclose(result, expected, rtol=0, atol=1e-4)
"""
FORK = """
assert good(ndw.depthwise_conv2d(x, k))
for turn in range(2):
    with ndw.num_threads(1):
        child = os.fork()
    if child == 0:
        assert ndw.get_num_threads() == 1
        ndw.set_num_threads(64)
        fine = good(ndw.depthwise_conv2d(x, k)) and ndw.get_num_threads() == 1
        new = ndw.depthwise_conv2d(x, k[:1, :2], padding="valid")
        fine = fine and new.shape == (2, 56, 56, 64)
        os._exit(0 if fine else 3)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, status
    assert good(ndw.depthwise_conv2d(x, k))
"""
FORK_DURING = """
assert good(ndw.depthwise_conv2d(x, k))
stop, bad = [], []
def work():
    while not stop:
        if not good(ndw.depthwise_conv2d(x, k)):
            bad.append(1)
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
for turn in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if good(ndw.depthwise_conv2d(x, k)) else 3)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, status
stop.append(1)
for worker in workers:
    worker.join()
assert not bad
"""
CONCURRENT = """
bad = []
def work():
    for _ in range(40):
        if not good(ndw.depthwise_conv2d(x, k)):
            bad.append(1)
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert not bad
"""
CHECK = """
from numbadw.cpu import launch
wanted = os.environ.get("NUMBADW_THREADING_LAYER", "own")
assert launch.LAYER == wanted or sys.platform != "linux"
if wanted == "numba":
    import numba
    layer = os.environ.get("NUMBA_THREADING_LAYER", numba.threading_layer())
    assert numba.threading_layer() == layer
"""
FINE = "print('fine')\n"


@forking
@pytest.mark.parametrize("layer", LAYERS)
def test_a_forked_child_works_alone(layer):
    run_child(START + FORK + FINE, **LAYERS[layer])


@forking
@pytest.mark.parametrize("layer", LAYERS)
def test_a_fork_during_a_parallel_call(layer):
    run_child(START + FORK_DURING + FINE, **LAYERS[layer])


@several
@pytest.mark.parametrize("layer", LAYERS)
def test_concurrent_callers(layer):
    run_child(START + CONCURRENT + CHECK + FINE, **LAYERS[layer])


STALLED = """
import multiprocessing, time
def burn(stop):
    while not stop.is_set():
        pass
if __name__ == "__main__":
    stop = multiprocessing.get_context("fork").Event()
    others = [multiprocessing.get_context("fork").Process(target=burn, args=(stop,))
              for _ in range(2 * (os.cpu_count() or 1))]
    for other in others:
        other.start()
    for _ in range(50):
        assert good(ndw.depthwise_conv2d(x, k))
    stop.set()
    for other in others:
        other.join()
"""
IDLE = """
from numbadw.cpu import pool
for turn in range(20):
    time.sleep(0.01 * (turn % 3))
    assert good(ndw.depthwise_conv2d(x, k))
ndw.set_num_threads(1)
assert good(ndw.depthwise_conv2d(x, k))
assert pool.pool().workers >= 1
pool.pool().stop()
ndw.set_num_threads(64)
for turn in range(3):
    assert good(ndw.depthwise_conv2d(x, k))
assert pool.pool().workers == 0
"""


@several
@forking
def test_a_busy_machine_and_idle_times():
    run_child(START + STALLED + FINE)
    run_child("import time\n" + START + IDLE + FINE)


# Wherever the calling thread runs, the workers are sent to all other cores.
AWAY = """
import ctypes
from numbadw.cpu import pool
cpus = os.sched_getaffinity(0)
here = ctypes.CDLL(None).sched_getcpu
before = set(os.listdir("/proc/self/task"))
assert good(ndw.depthwise_conv2d(x, k))
new = [int(task) for task in set(os.listdir("/proc/self/task")) - before]
workers = pool.pool().workers
assert workers
seen = set()
for turn in range(1000):
    core = sorted(cpus)[turn % len(cpus)]
    os.sched_setaffinity(0, {core})
    os.sched_setaffinity(0, cpus)
    ndw.depthwise_conv2d(x, k)
    masks = [os.sched_getaffinity(task) for task in new]
    if here() == core and masks.count(cpus - {core}) == workers:
        seen.add(core)
    if len(seen) > 1:
        break
assert len(seen) > 1, seen
assert os.sched_getaffinity(0) == cpus
"""


@several
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_keep_off_the_callers_core():
    run_child(START + AWAY + FINE)


@several
def test_signals_go_to_the_main_thread():
    code = """
import signal, time
caught = []
signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
assert good(ndw.depthwise_conv2d(x, k))
signal.setitimer(signal.ITIMER_REAL, 0.05)
begin = time.monotonic()
try:
    signal.pause()
except AttributeError:
    time.sleep(0.2)
assert caught and time.monotonic() - begin < 2
"""
    run_child(START + code + FINE)


def test_a_child_obeys_its_environment():
    code = "import numbadw\nprint(numbadw.get_num_threads())\n" + START + CONCURRENT
    for name in ("NUMBADW_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        assert run_child(code + FINE, **{name: "1"}).startswith("1\n")


@several
def test_a_child_obeys_its_affinity():
    code = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "import numbadw\nprint(numbadw.get_num_threads())\n" + FINE
    assert run_child(code).startswith("1\n")
