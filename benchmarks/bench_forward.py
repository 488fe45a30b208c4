"""Forward convolution: numbadw and every rival on every workload.

Run with `pytest benchmarks/bench_forward.py --bench-threads 2 -k mobilenet_v1`. For the
comparison with interleaved rounds use `python -m numbadw bench`.
"""

from typing import Any

import pytest

from numbadw.bench.passes import FORWARD, PASSES
from numbadw.bench.workloads import Workload, load_workloads

KIND = PASSES[FORWARD]


@pytest.mark.parametrize("name", [*KIND.ours, *KIND.default_rivals])
@pytest.mark.parametrize("workload", load_workloads(), ids=lambda workload: workload.id)
def test_forward(check_and_time: Any, workload: Workload, name: str) -> None:
    """Check the result, then time the call."""
    check_and_time(KIND, workload, name)
