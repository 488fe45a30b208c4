"""The machine code of the CUDA kernels: no spills, no doubles, wide accesses.

Compiled without a device; `python -m numbadw.cuda.static` does the same by hand.
"""

import collections
import warnings

import pytest

from numbadw import jit
from numbadw.cuda import compile as compiler
from numbadw.cuda import shipped, static
from numbadw.cuda.spec import Spec

REASON = static.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "everything is there")

TILE = Spec("forward_tile", kh=3, kw=3, sh=1, sw=1, v=4, vx=4, th=2, tw=2, blocks=8)


@pytest.mark.parametrize("spec", shipped.specs(), ids=lambda spec: spec.label)
def test_every_kernel_for_sm_90(spec):
    assert not static.faults(static.inspect(spec, 90))


@pytest.mark.parametrize("cc", [75, 80, 100, 120])
@pytest.mark.parametrize("spec", shipped.families(), ids=lambda spec: spec.label)
def test_one_kernel_of_each_family_for_the_other_architectures(spec, cc):
    assert not static.faults(static.inspect(spec, cc))


def test_the_checks_see_what_is_wrong():
    report = static.inspect(TILE, 90)
    assert not static.faults(report)
    # Twice the blocks leave 32 registers, which this tile does not fit.
    tight = static.inspect(TILE._replace(blocks=16), 90)
    assert any("spills" in fault for fault in static.faults(tight))
    for name, word in (
        ("RET.REL.NODEC", "calls"),
        ("DFMA", "double"),
        ("FFMA", "FFMA"),
    ):
        more = report._replace(counts=report.counts + collections.Counter([name]))
        assert any(word in fault for fault in static.faults(more))
    narrow = collections.Counter({"LDG.E": 9, "STG.E": 4, "FFMA": 48})
    faults = static.faults(report._replace(counts=narrow))
    assert len(faults) == 2
    assert all("of 16 bytes" in fault for fault in faults)


def test_cubins_are_kept_and_damaged_ones_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    code, symbol = compiler.cubin(TILE, 90)
    assert code[:4] == b"\x7fELF"
    assert TILE.label in symbol
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "compile_cubin", None)
        assert compiler.cubin(TILE, 90) == (code, symbol)
    path.write_bytes(path.read_bytes()[:-5])
    assert TILE.label in compiler.cubin(TILE, 90)[1]
    assert path.stat().st_size > len(code)


def test_no_cache_folder_means_no_cache(monkeypatch):
    monkeypatch.setattr(jit, "cache_folder", lambda: None)
    assert compiler.cubin(TILE, 90)[0][:4] == b"\x7fELF"


def test_compiling_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiler.compile_cubin(TILE, 80)
