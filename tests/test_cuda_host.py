"""The CUDA backend as a user meets it: without a device, and over a stub driver."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import environment

import numbadw as ndw
from numbadw import dispatch
from numbadw.cuda import device

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")
REASON = (
    ("" if COMPILER else "no C compiler")
    or ("" if sys.platform == "linux" else "the stub driver is Linux's")
    or ("" if importlib.util.find_spec("numba_cuda") else "numba-cuda is not installed")
)


@pytest.mark.skipif(bool(REASON), reason=REASON or "everything is there")
@pytest.mark.parametrize("part", ["host", "device", "weights", "selftest", "bench"])
def test_the_host_path_over_a_stub_driver(part, tmp_path):
    library = tmp_path / "libcuda.so.1"
    source = HERE / "stub_driver.c"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-w", "-o", library, source, "-ldl"], check=True
    )
    paths = [str(tmp_path), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    checks = str(HERE / f"cuda_{part}_checks.py")
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", checks],
        env=environment(LD_LIBRARY_PATH=os.pathsep.join(paths)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-6000:] + child.stderr[-2000:]
    assert " passed" in child.stdout
    assert "skipped" not in child.stdout


def test_importing_numbadw_does_not_import_cuda():
    code = (
        "import sys, numbadw; import numbadw.cuda.plan, numbadw.cuda.kernels\n"
        "bad = [n for n in sys.modules if n.startswith(('numba.cuda', 'numba_cuda'))]\n"
        "bad += [name for name in sys.modules if name.split('.')[0] == 'cuda']\n"
        "assert not bad, bad"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment(), check=False, timeout=120
    )
    assert child.returncode == 0


@pytest.mark.parametrize("word", ["numba.cuda.compiler", "cuda.core"])
def test_what_is_missing_is_named_with_its_remedy(word, monkeypatch):
    real = device.importlib.import_module

    def without(name):
        if name == word:
            raise ImportError(f"No module named {word!r}")
        return None if name.startswith(("numba.cuda", "cuda.")) else real(name)

    monkeypatch.setattr(device.importlib, "import_module", without)
    dispatch.require_cuda.cache_clear()
    x = np.ones((1, 4, 4, 2), np.float32)
    with pytest.raises(ndw.BackendUnavailableError, match=r"pip install 'numbadw\["):
        ndw.depthwise_conv2d(x, np.ones((3, 3, 2, 1), np.float32), backend="cuda")
    assert "numba-cuda is not installed" in device.describe()
