"""Threads on the way back: the same bits for any number and caller; long sums."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import FORMS, Case, forget, lanes
from gradient_cases import draw
from thread_cases import LAYERS, MOST, forking, run_child, several
from views import every_other

import numbadw as ndw
from numbadw import threads
from numbadw.cpu import backward, jobs, launch, plan_both
from numbadw.cpu.caches import Caches

pytestmark = pytest.mark.usefixtures("all_threads")
VECTOR = lanes()
# Large enough to be shared out: every order of kernels, several forms of tiles.
LARGE = {
    "direct": Case(56, 57, 4 * VECTOR + 3, n=2),
    "stride 2": Case(80, 81, 2 * VECTOR + 1, strides=(2, 2), n=2),
    "stride 3": Case(81, 80, 2 * VECTOR, strides=(3, 3)),
    "stride 4": Case(96, 97, 2 * VECTOR, kernel=(2, 3), strides=(4, 4)),
    "stride and dilation": Case(60, 61, 35, strides=(2, 2), dilation=(3, 2)),
    "5x5": Case(40, 57, 2 * VECTOR, kernel=(5, 5)),
    "5x5 stride 2": Case(64, 65, 2 * VECTOR + 3, kernel=(5, 5), strides=(2, 2)),
    "wide": Case(30, 57, VECTOR, kernel=FORMS["wide"][0]),
    "multiplier 2": Case(40, 57, VECTOR, 2),
    "multiplier 3 stride 2": Case(64, 57, VECTOR, 3, strides=(2, 2)),
    "multiplier of a vector and one": Case(40, 41, 3, VECTOR + 1),
    "few channels": Case(150, 151, 3, kernel=(5, 5)),
    "one channel": Case(300, 301, 1),
    "one channel stride 2": Case(300, 301, 1, strides=(2, 2)),
    "channels first": Case(56, 57, 2 * VECTOR + 1, first=True, n=2),
    "channels first stride 2": Case(64, 65, 19, 2, strides=(2, 2), first=True),
    "planes": Case(60, 200, 11, first=True),
    "float64": Case(56, 57, 2 * VECTOR, dtype="float64"),
}


def call(case, arrays, activation=None):
    """Give all that the three functions give."""
    x, w, b, g = arrays
    options = case.options
    return (
        *ndw.depthwise_conv2d_grad(x, w, g, bias=b, activation=activation, **options),
        ndw.depthwise_conv2d_input_grad(g, w, x.shape, **options),
        ndw.depthwise_conv2d_kernel_grad(x, g, w.shape, **options),
    )


def same(results, others):
    """Tell whether all results have the same bits."""
    return all(map(np.array_equal, results, others))


def count_launches(monkeypatch):
    """Return a list that grows with every parallel launch."""
    real, seen = jobs.parallel_driver(), []

    def driver(*arguments):
        seen.append(arguments)
        return real.call(*arguments)

    wrapped = real._replace(call=driver)
    monkeypatch.setattr(jobs, "parallel_driver", lambda: wrapped)
    return seen


def test_the_problems_take_every_kernel():
    feeds = {plan.feed for case in LARGE.values() for plan in case.gradient_plans()}
    copies = {"copy_in", "copy_out"}
    assert feeds >= {"direct", "flat", "kernel_grad", "add_parts"} | copies


@several
@pytest.mark.parametrize("name", LARGE)
def test_the_same_bits_for_any_number_of_threads(name, rng, monkeypatch):
    case = LARGE[name]
    arrays = draw(case, rng)
    launches = count_launches(monkeypatch)
    for activation in (None, "relu"):
        with ndw.num_threads(1):
            serial = call(case, arrays, activation)
        assert not launches
        for n in [*range(2, MOST + 1), MOST, MOST]:
            with ndw.num_threads(n):
                assert same(call(case, arrays, activation), serial), n
        assert launches
        launches.clear()


@pytest.fixture
def tiny_caches(monkeypatch):
    """Plan as if the caches held nothing."""
    monkeypatch.setattr(backward, "caches", lambda: Caches(last=1))
    monkeypatch.setattr(plan_both, "caches", lambda: Caches(second=1 << 40))
    forget()
    yield
    forget()


JOINED = ("stride 2", "stride 3", "float64")


@several
@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_both_gradients_as_one_job(name, activation, rng, request):
    case = LARGE[name]
    arrays = draw(case, rng)
    with ndw.num_threads(1):
        apart = call(case, arrays, activation)
    request.getfixturevalue("tiny_caches")
    assert any(step.joined for step in case.gradient_steps())
    for n in range(1, MOST + 1):
        with ndw.num_threads(n):
            assert same(call(case, arrays, activation), apart), n


@several
@pytest.mark.parametrize("name", ["direct", "few channels", "multiplier 2"])
def test_views_give_the_same_bits(name, rng):
    case = LARGE[name]
    x, w, b, g = draw(case, rng)
    arrays = every_other(x), w, b, every_other(g)
    with ndw.num_threads(1):
        serial = call(case, arrays)
    for _ in range(3):
        assert same(call(case, arrays), serial)
        out = every_other(np.zeros_like(x))
        ndw.depthwise_conv2d_input_grad(arrays[3], w, x.shape, out=out, **case.options)
        np.testing.assert_array_equal(out, serial[3])


@several
def test_small_problems_stay_on_their_thread(rng, monkeypatch):
    launches = count_launches(monkeypatch)
    case = Case(4, 4, 16)
    call(case, draw(case, rng))
    assert not launches


def test_many_python_threads_at_once(rng):
    problems = []
    for case in LARGE.values():
        arrays = draw(case, rng)
        problems.append((case, arrays, call(case, arrays)))

    def work(turn):
        case, arrays, expected = problems[turn % len(problems)]
        return same(call(case, arrays), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(3 * len(problems))))
    assert not threads.busy()


def test_the_first_calls_may_come_from_many_threads(rng):
    # Plans and kernels are made while others ask for the same.
    case = Case(9, 9, 2 * VECTOR, kernel=(2, 5), strides=(2, 1))
    arrays = draw(case, rng)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: call(case, arrays), range(12)))
    assert all(same(result, results[0]) for result in results)


def test_a_failed_launch_leaves_the_threads_free(rng, monkeypatch):
    case = LARGE["direct"]
    arrays = draw(case, rng)
    expected = call(case, arrays)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "carrier", fail)
        with pytest.raises(MemoryError):
            call(case, arrays)
    assert not threads.busy()
    assert same(call(case, arrays), expected)


PROCESS = """
import os, threading
import numpy as np
import numbadw as ndw
from numbadw.cpu import backward, plan_both
from numbadw.cpu.caches import Caches
backward.caches = lambda: Caches(last=1)  # both gradients as one job,
plan_both.caches = lambda: Caches(second=1 << 40)  # not in one pass
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 56, 57, 64)).astype("f4")
k = rng.standard_normal((3, 3, 64, 1)).astype("f4")
g = rng.standard_normal((2, 56, 57, 64)).astype("f4")
def call():
    relu = ndw.depthwise_conv2d_grad(x, k, g, padding="same", activation="relu")
    return *relu, *ndw.depthwise_conv2d_grad(x, k, g, padding="same")
with ndw.num_threads(1):
    expected = call()
def good():
    return all(map(np.array_equal, call(), expected))
assert good()
child = os.fork()
if child == 0:
    os._exit(0 if good() else 3)
status = os.waitpid(child, 0)[1]
assert os.waitstatus_to_exitcode(status) == 0, status
bad = []
def work():
    for _ in range(20):
        if not good():
            bad.append(1)
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert not bad
print("fine")
"""


@forking
@pytest.mark.parametrize("layer", LAYERS)
def test_forked_children_and_concurrent_callers(layer):
    run_child(PROCESS, **LAYERS[layer])


def fail(*arguments):
    """Stand for threads that cannot start."""
    raise MemoryError


SIZES = {
    "images": (32, 112, 112),
    "one row": (1, 1, 401_408),
    "pixels": (401_408, 1, 1),
}
DRAW = {
    "0.1": lambda rng, shape: np.full(shape, np.float32(0.1)),
    "1.1": lambda rng, shape: np.full(shape, np.float32(1.1)),
    "random": lambda rng, shape: rng.standard_normal(shape, np.float32),
    "positive": lambda rng, shape: rng.random(shape, np.float32),
}


@pytest.mark.parametrize(
    ("kind", "size", "c", "first"),
    [
        *itertools.product(["0.1", "1.1"], SIZES, [1, 3, VECTOR], [False]),
        *itertools.product(["0.1"], SIZES, [1, 3, VECTOR], [True]),
        *itertools.product(["random", "positive"], ["images"], [3, VECTOR], [False]),
    ],
)
def test_sums_of_401408_terms_stay_in_the_bound(kind, size, c, first, rng):
    # One chain of so many equal terms is two to three times the bound off.
    n, h, w = SIZES[size]
    case = Case(h, w, c, first=first, n=n)
    x, g = (DRAW[kind](rng, case.geometry.input_shape) for _ in range(2))
    k = np.zeros((3, 3, c, 1), np.float32)
    _, w_grad, b_grad = ndw.depthwise_conv2d_grad(x, k, g, **case.options)
    alone = ndw.depthwise_conv2d_kernel_grad(x, g, k.shape, **case.options)
    room = 4 * np.finfo(np.float32).eps * math.sqrt(401_408)
    x, g = x.astype(np.float64), g.astype(np.float64)
    axes = (0, 2, 3) if first else (0, 1, 2)
    assert (abs(b_grad - g.sum(axes)) <= room * abs(g).sum(axes)).all()
    exact, sizes = (
        ndw.depthwise_conv2d_kernel_grad(
            *arrays, k.shape, backend="reference", **case.options
        )
        for arrays in ((x, g), (abs(x), abs(g)))
    )
    for result in (w_grad, alone):
        assert (abs(result - exact) <= room * sizes).all()
