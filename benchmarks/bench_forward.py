"""Forward convolution: numbadw and every rival on every workload.

Run with `pytest benchmarks/bench_forward.py --bench-threads 2 -k mobilenet_v1`. For the
comparison with interleaved rounds use `python -m numbadw bench`.
"""

from typing import Any

import pytest

from numbadw.bench.measure import Oracle
from numbadw.bench.models import Unavailable
from numbadw.bench.report import DEFAULT_RIVALS, OURS, prepare_ours
from numbadw.bench.rivals import RIVALS
from numbadw.bench.workloads import Workload, load_workloads, make_data


@pytest.mark.parametrize("name", [*OURS, *DEFAULT_RIVALS])
@pytest.mark.parametrize("workload", load_workloads(), ids=lambda workload: workload.id)
def test_forward(benchmark: Any, workload: Workload, name: str, threads: int) -> None:
    """Check the result, then time the call."""
    inputs, kernel = make_data(workload)
    oracle = Oracle(workload, inputs, kernel)
    if name in OURS:
        call: Any = prepare_ours(workload, inputs, kernel)[name]
        oracle.check(name, call(), workload.padding)
    else:
        try:
            rival = RIVALS[name](workload, inputs, kernel, threads)
        except Unavailable as reason:
            pytest.skip(str(reason))
        oracle.check(name, rival.fetch(), rival.padding)
        call = rival.call
    benchmark.group = workload.id
    benchmark(call)
    if benchmark.stats:
        seconds = benchmark.stats.stats.min
        benchmark.extra_info["GFLOP/s"] = workload.flops / seconds / 1e9
        benchmark.extra_info["GB/s"] = workload.bytes / seconds / 1e9
