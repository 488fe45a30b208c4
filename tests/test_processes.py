"""Child processes and the workers of every library: right results, and an end."""

import os

import pytest
from children import run_fine

FUTURES = """
assert work(0)
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(6) as pool:
    check(pool.map(work, range(30)))
"""
JOBLIB = """
import joblib
assert work(0)
with joblib.parallel_config("threading", n_jobs=4):
    check(joblib.Parallel()(joblib.delayed(work)(i) for i in range(20)))
with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
    check(joblib.Parallel()(joblib.delayed(alone)(i) for i in range(6)))
with joblib.parallel_config("multiprocessing", n_jobs=2):
    check(joblib.Parallel()(joblib.delayed(alone)(i) for i in range(6)))
"""
DASK = """
import dask
assert work(0)
tasks = [dask.delayed(work)(i) for i in range(12)]
for scheduler in ("threads", "processes"):
    check(dask.compute(*tasks, scheduler=scheduler, num_workers=2))
"""
# Its workers' environment allows one thread each.
DISTRIBUTED = """
from dask import distributed
assert work(0)
with (
    distributed.LocalCluster(2, threads_per_worker=2, dashboard_address=None) as pool,
    distributed.Client(pool) as client,
):
    check(client.gather(client.map(alone, range(8))))
"""
LOADER = """
import torch
assert work(0)
for turn in range(2):
    loader = torch.utils.data.DataLoader(
        Worked(), batch_size=2, num_workers=2, multiprocessing_context="fork"
    )
    check(torch.cat(list(loader)).tolist())
    assert work(1)
"""
POOLS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
assert work(0)
context = multiprocessing.get_context("{context}")
with {pool} as pool:
    check(pool.map({work}, range(6)))
assert work(1)
"""
GRANDCHILD = """
assert work(0)
for turn in range(2):
    child = os.fork()
    if child == 0:
        fine = alone(1)
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if alone(2) else 3)
        status = os.waitpid(grandchild, 0)[1]
        fine = fine and os.waitstatus_to_exitcode(status) == 0
        os._exit(0 if fine else 3)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, status
    assert work(3)
"""
# A child's compilation waits for nobody, at whatever moment of a thread's first call
# it is forked.
FIRST_CALL = """
import faulthandler
problem(0)  # NumPy's own imports are not the matter here
thread = threading.Thread(target=work, args=(0,))
thread.start()
time.sleep({delay})
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(100, exit=True)
    os._exit(0 if alone(1) else 3)
status = os.waitpid(child, 0)[1]
thread.join()
assert os.waitstatus_to_exitcode(status) == 0, status
assert work(2)
"""
# A fork waits for the thread that makes a first call or holds LLVM, and not in vain.
MEANWHILE = """
from llvmlite.binding import ffi
from numbadw import threads
assert work(0)
inside, go = threading.Event(), threading.Event()
def compile():
    with {lock}:
        inside.set()
        assert go.wait(60)
thread = threading.Thread(target=compile)
thread.start()
assert inside.wait(60)
threading.Timer(0.3, go.set).start()
begin = time.monotonic()
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if work(1, "relu") else 3)
assert time.monotonic() - begin > 0.2
status = os.waitpid(child, 0)[1]
assert os.waitstatus_to_exitcode(status) == 0, status
thread.join()
done = []
other = threading.Thread(target=lambda: done.append(work(2, "relu")))
other.start()
other.join(60)
check(done)
"""
# A module that a thread was importing is never imported in the child.
IMPORTING = """
from importlib import machinery, util
inside, go = threading.Event(), threading.Event()
class Slow(machinery.SourceFileLoader):
    def exec_module(self, module):
        inside.set()
        assert go.wait(60)
        super().exec_module(module)
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "numbadw.reference":
            file = os.path.join(path[0], "reference.py")
            return util.spec_from_file_location(name, file, loader=Slow(name, file))
sys.meta_path.insert(0, Finder())
sys.modules.pop("numbadw.reference", None)
vars(ndw).pop("reference", None)
def call():
    x, k, options = problem(0)
    ndw.depthwise_conv2d(x, k, backend="reference", **options)
thread = threading.Thread(target=call)
thread.start()
assert inside.wait(60)
threading.Timer(0.3, go.set).start()
child = os.fork()
if child == 0:
    signal.alarm(60)
    call()
    os._exit(0)
status = os.waitpid(child, 0)[1]
assert os.waitstatus_to_exitcode(status) == 0, status
thread.join()
"""
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def test_threads_of_futures(tmp_path):
    run_fine(FUTURES, tmp_path)


@pytest.mark.parametrize(
    ("context", "pool"),
    [
        ("fork", "context.Pool(2)"),
        ("fork", "ProcessPoolExecutor(2, context)"),
        ("forkserver", "context.Pool(2)"),
        ("spawn", "ProcessPoolExecutor(2, context)"),
    ],
)
def test_pools_of_processes(context, pool, tmp_path):
    if context != "spawn" and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    work = "alone" if context == "fork" else "work"
    run_fine(POOLS.format(context=context, pool=pool, work=work), tmp_path)


@forking
def test_joblib(tmp_path):
    pytest.importorskip("joblib", reason="joblib is not installed")
    run_fine(JOBLIB, tmp_path)


def test_dask(tmp_path):
    pytest.importorskip("dask", reason="dask is not installed")
    run_fine(DASK, tmp_path)


def test_dask_distributed(tmp_path):
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    run_fine(DISTRIBUTED, tmp_path)


@forking
def test_torchs_data_loader(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    run_fine(LOADER, tmp_path)


@forking
@pytest.mark.parametrize("layer", ["own", "numba"])
def test_a_grandchild(layer, tmp_path):
    run_fine(GRANDCHILD, tmp_path, NUMBADW_THREADING_LAYER=layer)


@forking
@pytest.mark.parametrize("delay", [0, 0.005])
def test_a_fork_during_a_first_call(delay, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    run_fine(FIRST_CALL.format(delay=delay), tmp_path, NUMBADW_CACHE_DIR=str(cache))


@forking
@pytest.mark.parametrize("lock", ["threads.undisturbed()", "ffi.lib._lock"])
def test_a_fork_waits_for_other_threads(lock, tmp_path):
    run_fine(MEANWHILE.format(lock=lock), tmp_path)


@forking
def test_a_fork_waits_for_an_import_of_a_first_call(tmp_path):
    run_fine(IMPORTING, tmp_path)
