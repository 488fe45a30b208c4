"""Pin the threads and record the machine for every benchmark."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import numbadw
from numbadw.bench.measure import machine
from numbadw.bench.models import Unavailable
from numbadw.bench.passes import Pass
from numbadw.bench.report import Contest
from numbadw.bench.workloads import Workload


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --bench-threads."""
    parser.addoption(
        "--bench-threads", type=int, default=1, help="threads of every library"
    )


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Pin numbadw to the asked number of threads; rivals are given it."""
    count = int(request.config.getoption("--bench-threads"))
    with numbadw.num_threads(count):
        yield count


@pytest.fixture
def check_and_time(
    benchmark: Any, threads: int
) -> Callable[[Pass, Workload, str], None]:
    """Check one named call of a pass on a workload, then time it."""

    def run(kind: Pass, workload: Workload, name: str) -> None:
        contest = Contest(kind, workload)
        try:
            call = contest.call(name, threads)
        except Unavailable as reason:
            pytest.skip(str(reason))
        benchmark.group = workload.id
        benchmark(call)
        if benchmark.stats:
            giga, part = 1e9 * benchmark.stats.stats.min, kind.part(name)
            benchmark.extra_info["GFLOP/s"] = part.flops(workload) / giga
            benchmark.extra_info["GB/s"] = part.bytes(workload) / giga

    return run


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Record CPU, threads and versions with the results."""
    machine_info["numbadw"] = machine(int(config.getoption("--bench-threads")))
