"""Eight threads, a thousand calls each, on every layer of threads that loads."""

import sys

import pytest
from children import run_fine

import numbadw as ndw

# Every thread has shapes of its own, the last too small to be worth more threads; all
# results have the bits that one thread alone gives.
STORM = """
import itertools
import numba
layer = os.environ.get("NUMBA_THREADING_LAYER")
if layer:
    from numbadw.cpu import launch
    assert launch.LAYER == "numba"
    work(0)
    assert numba.threading_layer() == layer, numba.threading_layer()
SHAPES = [(28, 33, 32), (1, 400, 32), (17, 40, 48), (5, 6, 32)]

def draw(number):
    rng = np.random.default_rng(number)
    problems = []
    for h, w, c in SHAPES:
        x = rng.standard_normal((1 + number % 3, h + number, w, c)).astype("f4")
        k = rng.standard_normal((3, 3, c, 1)).astype("f4")
        options = {"padding": "same", "activation": "relu"}
        with ndw.num_threads(1):
            y = ndw.depthwise_conv2d(x, k, **options)
            grads = ndw.depthwise_conv2d_grad(x, k, y, **options)
        right = ndw.depthwise_conv2d(x, k, backend="reference", **options)
        assert np.allclose(y, right, atol=1e-4)
        problems.append((x, k, y, grads, options))
    return problems

counts, bad = [], []
def call_all(problems, start):
    start.wait()
    done = 0
    for x, k, y, grads, options in itertools.islice(itertools.cycle(problems), 500):
        done += 2
        if not np.array_equal(ndw.depthwise_conv2d(x, k, **options), y):
            bad.append(("forward", x.shape))
        again = ndw.depthwise_conv2d_grad(x, k, y, **options)
        if not all(map(np.array_equal, again, grads)):
            bad.append(("gradients", x.shape))
    counts.append(done)

start = threading.Barrier(8)
problems = [draw(number) for number in range(8)]
callers = [threading.Thread(target=call_all, args=(p, start)) for p in problems]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
assert counts == [1000] * 8, counts
assert not bad, bad
"""
# A layer of Numba's is there where its library loads.
LOADS = """
import importlib
importlib.import_module("numba.np.ufunc.{module}")
"""
MODULES = {"omp": "omppool", "workqueue": "workqueue", "tbb": "tbbpool"}


@pytest.mark.skipif(ndw.get_num_threads() < 2, reason="one thread only")
@pytest.mark.parametrize("layer", ["own", *MODULES])
def test_eight_threads_of_a_thousand_calls(layer, tmp_path):
    if layer == "own":
        run_fine(STORM, tmp_path)
        return
    try:
        run_fine(LOADS.format(module=MODULES[layer]), tmp_path)
    except AssertionError as error:
        if layer == "workqueue" or "ImportError" not in str(error):
            raise
        pytest.skip(f"{layer} does not load on this {sys.platform}")
    names = {"NUMBADW_THREADING_LAYER": "numba", "NUMBA_THREADING_LAYER": layer}
    run_fine(STORM, tmp_path, **names)
