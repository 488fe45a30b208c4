"""Fixtures that several test files share; the tolerance itself is in `cases.py`."""

import numpy as np
import pytest


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
        pytest.skip("this version of numbadw has no CUDA kernels")
    return request.param
