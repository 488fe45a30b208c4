"""Ctrl-C at any moment: the process goes on, and so does the cache."""

import signal
import threading

import pytest
from children import run_fine

from numbadw import interrupts

FORWARD = """
def forward(seed, activation=None):
    x, k, options = problem(seed, activation)
    y = ndw.depthwise_conv2d(x, k, **options)
    return np.allclose(
        y, ndw.depthwise_conv2d(x, k, backend="reference", **options), atol=1e-4
    )
"""
# Ctrl-C while Numba takes its tables of known functions in, and later on.
DURING_COMPILATION = """
from numba.core import caching, ccallback
from numba.core.typing import templates

count, real = {count}, {owner}.{name}
def interrupted(*arguments, **options):
    global count
    count -= 1
    if count == 0:
        signal.raise_signal(signal.SIGINT)
    return real(*arguments, **options)

{owner}.{name} = interrupted
caught = 0
for turn in range(3):
    try:
        assert forward(turn, "relu")
    except KeyboardInterrupt:
        caught += 1
assert caught == 1, caught
assert forward(5) and forward(6, "relu")
"""
PLACES = [
    ("templates.BaseRegistryLoader", "new_registrations", 5),
    ("ccallback._CFuncCompiler", "_customize_flags", 1),
    ("caching.IndexDataCacheFile", "_save_data", 1),
]
# An alarm that comes as Ctrl-C.
ALARM = """
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
def alarm(seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
"""
# Over and over, a little later each time, until a first call gets through.
AGAIN_AND_AGAIN = """
count = 0
while count < 200:
    try:
        alarm(0.023 * (count + 1))
        x, k, options = problem(0)
        ndw.depthwise_conv2d(x, k, **options)
        alarm(0)
        break
    except KeyboardInterrupt:
        count += 1
assert count
assert forward(1) and forward(2, "relu")
"""
LONG_CALLS = """
import random
x, k, options = problem(0)
right = ndw.depthwise_conv2d(x, k, **options)
rights = ndw.depthwise_conv2d_grad(x, k, right, **options)
random.seed(0)
count, end = 0, time.monotonic() + 3
while time.monotonic() < end:
    try:
        alarm(random.uniform(2e-5, 6e-4))
        while True:
            ndw.depthwise_conv2d(x, k, **options)
            ndw.depthwise_conv2d_grad(x, k, right, **options)
    except KeyboardInterrupt:
        count += 1
    alarm(0)
assert count > 100, count
assert np.array_equal(ndw.depthwise_conv2d(x, k, **options), right)
for again, first in zip(ndw.depthwise_conv2d_grad(x, k, right, **options), rights):
    assert np.array_equal(again, first)
"""
# The threads serve again afterwards: each call takes them and gives them back.
FREE = """
from numbadw import threads
assert not threads.busy()
"""


@pytest.fixture
def cold(tmp_path):
    """Return variables that name an empty cache folder."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    return {"NUMBADW_CACHE_DIR": str(cache)}


@pytest.mark.parametrize(
    ("owner", "name", "count"), PLACES, ids=[place[1] for place in PLACES]
)
def test_during_a_compilation(owner, name, count, cold, tmp_path):
    body = DURING_COMPILATION.format(owner=owner, name=name, count=count)
    errors = run_fine(FORWARD + body, tmp_path, "-W", "error", **cold)
    assert errors == ""
    # What was kept on disk serves the next process.
    run_fine(f"{FORWARD}assert forward(0, 'relu')", tmp_path, **cold)


def test_again_and_again_during_a_first_call(cold, tmp_path):
    errors = run_fine(FORWARD + ALARM + AGAIN_AND_AGAIN, tmp_path, **cold)
    assert errors == ""


def test_long_calls(tmp_path):
    run_fine(ALARM + LONG_CALLS + FREE, tmp_path)


def test_a_process_that_does_not_catch_it_ends(tmp_path):
    body = """
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    x, k, options = problem(0)
    while True:
        ndw.depthwise_conv2d(x, k, **options)
    """
    with pytest.raises(AssertionError, match="KeyboardInterrupt") as failed:
        run_fine(body, tmp_path)
    assert "status=-2" in str(failed.value)


class TestHeld:
    @pytest.fixture
    def caught(self):
        """Count the signals that reach the handler of before."""
        seen = []
        before = signal.signal(signal.SIGINT, lambda *arguments: seen.append(arguments))
        yield seen
        signal.signal(signal.SIGINT, before)

    def test_it_takes_effect_at_the_end_once(self, caught):
        handler = signal.getsignal(signal.SIGINT)
        with interrupts.held():
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
            assert not caught
        assert len(caught) == 1
        assert caught[0][0] == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is handler

    def test_without_one_nothing_happens(self, caught):
        with interrupts.held():
            pass
        assert not caught

    def test_within_another_it_takes_effect_at_the_end_of_both(self, caught):
        with interrupts.held():
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
            assert not caught
        assert len(caught) == 1

    def test_errors_pass(self, caught):
        def fail():
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert len(caught) == 1

    def test_python_raises_as_ever(self, caught):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        done = []

        def work():
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
                done.append(1)

        with pytest.raises(KeyboardInterrupt):
            work()
        assert done

    def test_other_threads_and_ignored_signals_are_left_alone(self, caught):
        handler, seen = signal.getsignal(signal.SIGINT), []

        def look():
            with interrupts.held():
                seen.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        look()
        assert seen == [handler, signal.SIG_IGN]
