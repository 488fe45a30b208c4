"""Whole networks: numbadw and every peer on one image of 224x224.

Run with `pytest benchmarks/bench_networks.py --bench-threads 2 -k v2`. For the
comparison with interleaved rounds use `python benchmarks/networks.py --threads 2`.
"""

from typing import Any

import pytest
from network_nodes import NETWORKS
from networks import PEERS, checked

from numbadw.bench.peers.prepared import Unavailable


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(benchmark: Any, threads: int, name: str, peer: str) -> None:
    """Check the scores, then time the call."""
    try:
        call = checked(peer, name, threads)
    except Unavailable as reason:
        pytest.skip(str(reason))
    benchmark.group = f"{name}-{threads}"
    benchmark(call)
