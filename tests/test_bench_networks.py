"""The comparison of whole networks: every library computes the same scores."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from numbadw.bench.peers.prepared import Unavailable

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def networks():
    """Return the program as a module."""
    sys.path.insert(0, str(FOLDER))
    try:
        import networks
    finally:
        sys.path.remove(str(FOLDER))
    return networks


# Warnings of the libraries themselves.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", ["onnxruntime", "openvino", "litert", "torch"])
@pytest.mark.parametrize("name", ["v2", "efficientnet_b0"])
def test_peers_give_the_same_scores(networks, name, peer):
    try:
        call = networks.checked(peer, name, 1)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert call().shape == (1, 1000)


def test_wrong_scores_are_refused(networks, monkeypatch):
    def wrong(name, threads):
        call, expected = right(name, threads)
        return networks.Entry(lambda: call() * 1.001, expected)

    problem = networks.make_problem("v2")
    scores = problem.network(problem.pixels)

    def right(name, threads):
        return networks.Entry(lambda: scores, scores.copy())

    monkeypatch.setitem(networks.PEERS, "right", right)
    monkeypatch.setitem(networks.PEERS, "wrong", wrong)
    assert networks.checked("right", "v2", 1)() is scores
    with pytest.raises(ValueError, match=r"wrong on v2: the scores differ by 1.0e-03"):
        networks.checked("wrong", "v2", 1)


def test_every_operator_is_written(networks):
    nodes = networks.make_problem("efficientnet_b0").nodes
    kinds = {node.kind for node in nodes}
    assert kinds == {"conv", "depthwise", "mean", "dense", "multiply", "add"}
    shapes = {node.output: node.shape for node in nodes}
    for node in nodes:
        assert all(name == "x" or name in shapes for name in node.inputs)
        if node.kind == "add":
            assert {shapes[name] for name in node.inputs} == {node.shape}
