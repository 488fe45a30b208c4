"""Threads: the same bits for any number, any caller, and nothing left changed."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from cases import FORMS, Case, lanes
from thread_cases import MOST, several

import numbadw as ndw
from numbadw import dispatch, functional, threads

pytestmark = pytest.mark.usefixtures("all_threads")
# Large enough to be shared out: every feed, several forms, one to many work items.
LARGE = {
    "direct": Case(56, 57, 4 * lanes(), n=2),
    "direct stride 2": Case(112, 113, 2 * lanes() + 1, strides=(2, 2)),
    "direct 5x5": Case(40, 57, 4 * lanes() + 3, kernel=(5, 5)),
    "direct wide": Case(30, 57, 2 * lanes(), kernel=FORMS["wide"][0]),
    "direct multiplier": Case(40, 57, 2 * lanes(), 2),
    "direct float64": Case(56, 57, 4 * lanes(), dtype="float64"),
    "packed": Case(40, 25, 4 * lanes() + 1, first=True, n=2),
    "packed stride 2": Case(64, 50, 4 * lanes(), 2, strides=(2, 2), first=True),
    "flat": Case(400, 301, 3, kernel=(5, 5)),
    "flat stride 2": Case(600, 401, 1, 2, strides=(2, 1)),
    "planes": Case(60, 200, 40, first=True),
}


@several
@pytest.mark.parametrize("name", LARGE)
def test_the_same_bits_for_any_number_of_threads(name, rng, monkeypatch):
    case = LARGE[name]
    x, k, b = case.arrays(rng)
    launches = count_launches(monkeypatch)
    results = []
    for n in range(1, MOST + 1):
        with ndw.num_threads(n):
            results.append(ndw.depthwise_conv2d(x, k, b, **case.options))
        assert len(launches) == n - 1
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    for _ in range(3):
        again = ndw.depthwise_conv2d(x, k, b, **case.options)
        np.testing.assert_array_equal(again, results[0])


def count_launches(monkeypatch):
    """Return a list that grows with every parallel launch."""
    from numbadw.cpu import launch

    real, seen = launch.parallel_driver(), []

    def driver(*arguments):
        seen.append(arguments)
        return real.call(*arguments)

    wrapped = real._replace(call=driver)
    monkeypatch.setattr(launch, "parallel_driver", lambda: wrapped)
    # Runs bound before hold the real driver.
    functional._calls.clear()
    dispatch.bind_forward.cache_clear()
    return seen


@several
def test_small_problems_stay_on_their_thread(rng, monkeypatch):
    launches = count_launches(monkeypatch)
    x, k, b = Case(4, 4, 16).arrays(rng)
    ndw.depthwise_conv2d(x, k, b)
    assert not launches


def test_many_python_threads_at_once(rng):
    problems = []
    for case in LARGE.values():
        x, k, b = case.arrays(rng)
        expected = ndw.depthwise_conv2d(x, k, b, **case.options)
        problems.append((x, k, b, case.options, expected))

    def work(turn):
        x, k, b, options, expected = problems[turn % len(problems)]
        result = ndw.depthwise_conv2d(x, k, b, **options)
        return np.array_equal(result, expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8 * len(problems))))
    assert not threads.busy()


def test_the_first_calls_may_come_from_many_threads(rng):
    # Plans and kernels are made while others ask for the same.
    x, k, _ = Case(9, 9, 2 * lanes(), kernel=(2, 6)).arrays(rng)
    expected = ndw.depthwise_conv2d(x, k, backend="reference")
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: ndw.depthwise_conv2d(x, k), range(12)))
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    np.testing.assert_allclose(results[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n must be at least 1, got 0"),
        (-3, ValueError, "n must be at least 1, got -3"),
        (1.0, TypeError, "n must be an int, got float"),
        (True, TypeError, "n must be an int, got bool"),
        ("2", TypeError, "n must be an int, got str"),
        (None, TypeError, "n must be an int, got NoneType"),
    ],
)
def test_wrong_counts(n, error, message):
    for call in (ndw.set_num_threads, lambda n: ndw.num_threads(n).__enter__()):
        with pytest.raises(error, match=message):
            call(n)
    assert ndw.get_num_threads() == MOST


def test_a_count_above_the_allowed_is_lowered():
    ndw.set_num_threads(10_000)
    assert ndw.get_num_threads() == MOST
    ndw.set_num_threads(np.int64(1))
    assert ndw.get_num_threads() == 1


def test_the_context_manager_puts_the_count_back():
    with ndw.num_threads(1):
        assert ndw.get_num_threads() == 1
        with ndw.num_threads(MOST):
            assert ndw.get_num_threads() == MOST
        assert ndw.get_num_threads() == 1
    assert ndw.get_num_threads() == MOST
    with pytest.raises(KeyError), ndw.num_threads(1):
        raise KeyError
    assert ndw.get_num_threads() == MOST


@several
@pytest.mark.parametrize("theirs", [1, 2])
def test_numbas_own_setting_is_left_alone(theirs, rng, monkeypatch):
    before = numba.get_num_threads()
    launches = count_launches(monkeypatch)
    x, k, b = LARGE["direct"].arrays(rng)
    numba.set_num_threads(theirs)
    try:
        ndw.depthwise_conv2d(x, k, b)
        assert numba.get_num_threads() == theirs
    finally:
        numba.set_num_threads(before)
    assert launches


def test_the_count_is_that_of_the_process():
    seen = []

    def look():
        seen.append(ndw.get_num_threads())
        ndw.set_num_threads(MOST)

    ndw.set_num_threads(1)
    for expected in ([1], [1, MOST]):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == expected
        assert ndw.get_num_threads() == MOST


def limits(monkeypatch, **variables):
    """Return what is allowed with these variables alone."""
    for name in ("NUMBADW_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return threads.allowed()


def test_limits_of_the_environment(monkeypatch):
    cpus = {0, 1, 2, 3}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cpus, raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: None)
    assert limits(monkeypatch) == 4
    assert limits(monkeypatch, NUMBADW_NUM_THREADS="3") == 3
    assert limits(monkeypatch, NUMBA_NUM_THREADS="2", NUMBADW_NUM_THREADS="3") == 2
    assert limits(monkeypatch, OMP_NUM_THREADS="2,4") == 2
    for nonsense in ("", "many", "0", "-1", "1.5"):
        assert limits(monkeypatch, OMP_NUM_THREADS=nonsense) == 4
    assert limits(monkeypatch, OMP_NUM_THREADS="64") == 4
    monkeypatch.setattr(threads, "_quota", lambda: 1)
    assert limits(monkeypatch) == 1


def test_cgroup_quotas(tmp_path):
    assert threads._quota(tmp_path) is None
    for text, cpus in (("max 100000", None), ("250000 100000", 2), ("5000 100000", 1)):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert threads._quota(tmp_path) == cpus
    (tmp_path / "cpu.max").unlink()
    old = tmp_path / "cpu"
    old.mkdir()
    for quota, cpus in (("-1", None), ("300000", 3), ("1", 1)):
        (old / "cpu.cfs_quota_us").write_text(quota + "\n")
        (old / "cpu.cfs_period_us").write_text("100000\n")
        assert threads._quota(tmp_path) == cpus
