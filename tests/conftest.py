"""Fixtures that several test files share; the tolerance itself is in `cases.py`."""

import numpy as np
import pytest

from numbadw.cuda import device


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
