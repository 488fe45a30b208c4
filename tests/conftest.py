"""Fixtures that several test files share; the tolerance itself is in `cases.py`."""

import signal

import numpy as np
import pytest

import numbadw
from numbadw import threads
from numbadw.cuda import device


def pytest_configure():
    """Let Ctrl-C reach what tests start, as it does not in background jobs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng():
    """Return a generator that is seeded anew for every test."""
    return np.random.default_rng(20240607)


@pytest.fixture(
    params=["cpu", "reference", pytest.param("cuda", marks=pytest.mark.cuda)]
)
def backend(request):
    """Run a test on every backend that can run here."""
    if request.param == "cuda":
        reason = device.problem()
        if reason:
            pytest.skip(reason)
    return request.param


@pytest.fixture
def all_threads():
    """Start a test with as many threads as allowed, and leave it so."""
    numbadw.set_num_threads(threads.state.allowed)
    yield
    numbadw.set_num_threads(threads.state.allowed)
