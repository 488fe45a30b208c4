"""The self-test and device arrays of odd kinds over a stub driver.

`test_cuda_host.py` runs this in a child, with the other checks.
"""

import numpy as np
import pytest
from cases import Case
from cuda_stub import STREAMS, STUB, stub, tensors

import numbadw as ndw
from numbadw import __main__ as commands
from numbadw.cuda.resident import Resident
from numbadw.selftest import batch, check, command, draws, on_device

__all__ = ["stub", "tensors"]  # fixtures


@pytest.mark.parametrize("number", range(len(draws.COMMON)))
def test_common_kinds_are_right(number):
    kind = draws.COMMON[number]
    for draw in range(4):
        assert not check.fault_of(kind, 0, number, draw, "cuda")
    assert STREAMS, "the device has worked"


def test_arrays_go_there_in_every_way():
    """Of the calls above some are staged, some leave weights to the call."""
    seen, aligned = set(), set()
    for number, kind in enumerate(draws.COMMON):
        for draw in range(4):
            call = draws.draw_call(kind, 0, number, draw)
            seen.add(call.threads % on_device.STAGED)
            aligned.add(on_device._aligned(call.inputs) is call.inputs)
    assert seen == set(range(on_device.STAGED))
    assert aligned == {False, True}


def off(result):
    result = result.numpy()
    result[(0,) * 4] += 1e-3 + 1e-3 * abs(result[(0,) * 4])
    return Resident.of(result, "f32", 0)


def test_what_is_wrong_is_found(monkeypatch):
    real = ndw.depthwise_conv2d

    def wrong(*arrays, out=None, **options):
        result = real(*arrays, out=out, **options)
        return off(result) if type(result) is Resident and out is None else result

    monkeypatch.setattr(ndw, "depthwise_conv2d", wrong)
    faults = [check.fault_of(draws.COMMON[0], 0, 0, draw, "cuda") for draw in range(12)]
    assert any("the result: 1 of" in fault for fault in faults)
    assert any("other bits in a second run" in fault for fault in faults)


def test_the_command_runs_and_names_the_backend(monkeypatch, capsys):
    monkeypatch.setattr(command, "QUICK_CALLS", 1)
    assert commands.main(["selftest", "--backend", "cuda"]) == 0
    printed = capsys.readouterr().out
    assert "6 calls over 6 kinds of kernels" in printed
    line = ["selftest", "--backend", "cuda", "--case", "0:2"]
    assert commands.main(line) == 0
    monkeypatch.setattr(command, "fault_of", lambda *given: "off")
    assert commands.main(line) == 1
    again = "again: python -m numbadw selftest --backend cuda --seed 0 --case 0:2"
    assert again in capsys.readouterr().out


def test_a_batch_counts_the_kernels_of_the_device():
    report = batch.run(draws.COMMON[0], 0, 0, 2, "cuda")
    assert report.calls == 2
    assert not report.wrong
    assert any(label.startswith("forward_tile_f32") for label in report.compiled)


def test_elements_that_a_gpu_cannot_read_are_refused(rng, tensors):
    x, w, b = Case(6, 7, 4).arrays(rng)
    raw = np.zeros(x.nbytes + 4, np.uint8)
    odd = raw[1 : 1 + x.nbytes].view("f4").reshape(x.shape)
    for name, call in (
        ("inputs", lambda: ndw.depthwise_conv2d(Resident.of(odd, "f32", 0), w)),
        (
            "out",
            lambda: ndw.depthwise_conv2d(
                tensors(x), w, out=Resident.of(odd, "f32", 0), padding="same"
            ),
        ),
    ):
        with pytest.raises(ValueError, match=f"{name} must begin at a multiple of"):
            call()
    steps = np.lib.stride_tricks.as_strided(raw.view("f4"), x.shape, (42, 42, 6, 4))
    with pytest.raises(ValueError, match="inputs must have strides of whole elements"):
        ndw.depthwise_conv2d(Resident.of(steps, "f32", 0), w, b)
    assert STUB.stub_live() >= 0
