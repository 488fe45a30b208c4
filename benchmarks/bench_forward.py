"""Forward convolution: numbadw and every peer on every workload.

Run with `pytest benchmarks/bench_forward.py --bench-threads 2 -k mobilenet_v1`. For the
comparison with interleaved rounds use `python -m numbadw bench`.
"""

from typing import Any

import pytest

from numbadw.bench.passes import FORWARD, PASSES
from numbadw.bench.tasks import select_tasks
from numbadw.bench.workloads import Workload

KIND = PASSES[FORWARD]
WORKLOADS = [t.workload for t in select_tasks(full=True, kind=FORWARD)]


@pytest.mark.parametrize("name", [*KIND.ours, *KIND.peers])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.id)
def test_forward(check_and_time: Any, workload: Workload, name: str) -> None:
    """Check the result, then time the call."""
    check_and_time(KIND, workload, name)
