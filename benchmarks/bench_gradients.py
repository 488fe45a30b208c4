"""Gradients: numbadw and its peers on every layer, at batch 1 and 16.

Run with `pytest benchmarks/bench_gradients.py --bench-threads 2 -k "k5x5 and n16"`. For
the comparison with interleaved rounds use `python -m numbadw bench --pass gradients`.
"""

from typing import Any

import pytest

from numbadw.bench.passes import GRADIENTS, PASSES
from numbadw.bench.tasks import select_tasks
from numbadw.bench.workloads import Workload

KIND = PASSES[GRADIENTS]
WORKLOADS = [t.workload for t in select_tasks(full=True, kind=GRADIENTS)]


@pytest.mark.parametrize("name", [*KIND.ours, *KIND.peers])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.id)
def test_gradients(check_and_time: Any, workload: Workload, name: str) -> None:
    """Check every gradient, then time the call."""
    check_and_time(KIND, workload, name)
