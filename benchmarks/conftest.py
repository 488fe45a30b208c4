"""Pin the threads and record the machine for every benchmark."""

from collections.abc import Iterator
from typing import Any

import pytest

import numbadw
from numbadw.bench.measure import machine


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


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Record CPU, threads and versions with the results."""
    machine_info["numbadw"] = machine(int(config.getoption("--bench-threads")))
