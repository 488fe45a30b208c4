"""The benchmark's peers for CUDA, run where this machine has them: on the CPU."""

import re

import pytest

from numbadw import __main__ as commands
from numbadw.bench.device import peers
from numbadw.bench.oracle import INPUT_GRAD, KERNEL_GRAD, OUTPUT, Oracle
from numbadw.bench.peers import frameworks
from numbadw.bench.workloads import Workload, make_data
from numbadw.cuda import device

# Six images of which two differ; calls take three sets of arrays in turn.
BATCH = Workload("batch", 6, 9, 8, 4, 3, 3, 2, 2)
NAMES = {"forward": OUTPUT, INPUT_GRAD: INPUT_GRAD, KERNEL_GRAD: KERNEL_GRAD}


@pytest.fixture
def nearby(monkeypatch):
    """Have the peers for the device compute on the CPU."""
    monkeypatch.setattr(peers, "sets", lambda size, number: 3)
    monkeypatch.setattr(device, "current", lambda: 0)

    def weight(place, tensor, workload):
        return tensor.to(getattr(peers.require("torch"), workload.dtype))

    monkeypatch.setattr(peers.OnGpu, "weight", weight)
    monkeypatch.setattr(peers, "_torch", lambda: peers.require("torch"))


@pytest.mark.parametrize("cudnn", [False, True])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", NAMES)
def test_pytorch_is_right_in_both_layouts(kind, dtype, layout, cudnn, nearby):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    if dtype == "bfloat16" and kind != "forward" and not wide:
        pytest.skip("on this CPU PyTorch sums gradients of bfloat16 in bfloat16")
    workload = BATCH._replace(dtype=dtype)
    data = make_data(workload._replace(n=2))
    prepare, given = frameworks.prepare_torch, [layout]
    if kind != "forward":
        prepare = frameworks.prepare_torch_gradients
        given.append((kind == INPUT_GRAD, kind == KERNEL_GRAD, False))
    made = prepare(*given, workload, *data, 1, place=peers.OnGpu(cudnn))
    oracle = Oracle(workload, *data, sampled=True)
    for _ in range(4):
        oracle.check("torch", made.fetch(), made.padding, (NAMES[kind],))


@pytest.mark.parametrize("kind", NAMES)
def test_jax_is_right(kind, nearby, monkeypatch):
    pytest.importorskip("jax", reason="JAX is not installed")
    monkeypatch.setattr(peers, "PLATFORM", "cpu")
    data = make_data(BATCH._replace(n=2))
    made = peers.prepare_jax(NAMES[kind], BATCH, *data, 1)
    oracle = Oracle(BATCH, *data, sampled=True)
    oracle.check("jax", made.fetch(), made.padding, (NAMES[kind],))
    made.call()
    made.call.wait()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--pass gradients", "--pass on cuda is one of forward, input_grad"),
        ("--plot here", "--plot and --readme are for runs on the CPU"),
        ("--peers scipy", "peers are torch_cudnn_channels_last"),
    ],
)
def test_wrong_options_are_explained(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        commands.main(["bench", "--backend", "cuda", *line.split()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_without_a_device_the_commands_end_at_once(capsys):
    if not device.problem():
        pytest.skip("this machine has a CUDA device")
    for line in (["bench", "--backend", "cuda", "--full"], ["selftest", "--long"]):
        assert commands.main([line[0], "--backend", "cuda", *line[1:]]) == 1
        printed = capsys.readouterr()
        assert re.match("backend='cuda' is not available: .+", printed.err)
        assert not printed.out
