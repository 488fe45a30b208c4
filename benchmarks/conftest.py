"""Pin the threads and record the machine for every benchmark."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import numbadw
from numbadw.bench.ceilings import Ceilings, measure_ceilings
from numbadw.bench.contest import Contest
from numbadw.bench.measure import machine
from numbadw.bench.passes import Pass
from numbadw.bench.peers.prepared import Unavailable
from numbadw.bench.targets import cpu_environment
from numbadw.bench.workloads import Workload


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --bench-threads."""
    parser.addoption(
        "--bench-threads", type=int, default=1, help="threads of every library"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell the threads to libraries that read them when they start."""
    os.environ.update(cpu_environment(int(config.getoption("--bench-threads"))))


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Pin numbadw to the asked number of threads; peers are given it."""
    count = int(request.config.getoption("--bench-threads"))
    with numbadw.num_threads(count):
        yield count


@pytest.fixture(scope="session")
def ceilings(threads: int) -> Ceilings:
    """Measure the machine's limits once."""
    return measure_ceilings(threads)


@pytest.fixture
def check_and_time(
    benchmark: Any, threads: int, ceilings: Ceilings
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
            seconds, part = benchmark.stats.stats.min, kind.part(name)
            size, needed = part.bytes(workload), part.needed(workload)
            benchmark.extra_info |= {
                "GFLOP/s": part.flops(workload) / seconds / 1e9,
                "GB/s": size / seconds / 1e9,
                "share of roofline": ceilings.seconds(needed, size) / seconds,
            }

    return run


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Record CPU, threads and versions with the results."""
    machine_info["numbadw"] = machine() | {
        "threads": str(config.getoption("--bench-threads"))
    }
