"""What tests of threads need: whose threads there are, and programs that use them."""

import os
import tempfile

import pytest
from children import run

from numbadw import threads

MOST = threads.state.allowed
several = pytest.mark.skipif(MOST < 2, reason="this process may use one CPU only")


def run_child(code, **variables):
    """Run Python code that ends by printing `fine`, and give what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        end = run(code, folder, "-W", "ignore", timeout=60, **variables)
    assert end.out.endswith("fine\n"), end
    return end.out


# Whose threads: our own, Numba's as it chooses, and its layer that aborts on misuse.
LAYERS = {
    "own": {},
    "numba": {"NUMBADW_THREADING_LAYER": "numba"},
    "workqueue": {
        "NUMBADW_THREADING_LAYER": "numba",
        "NUMBA_THREADING_LAYER": "workqueue",
    },
}
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
