"""Pythons and systems of every kind: flags, switches, users, homes."""

from pathlib import Path

import pytest
from children import run, run_fine

# As `check`, but where Python leaves assertions out, too.
CHECKED = """
layer = ndw.DepthwiseConv2D(3, activation="relu", seed=1)
x = np.ones((2, 6, 7, 4), "f4")
y, pullback = layer.vjp(x)
results = [work(0), work(1, "gelu"), (pullback(y)[0].shape == x.shape)]
if not all(results):
    sys.exit(f"wrong results: {results}")
"""
# Without its privileges root, too, may only do what the permissions say.
POWERLESS = """
import ctypes
libc = ctypes.CDLL(None)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
if hasattr(libc, "capset") and libc.capset(header, (ctypes.c_uint32 * 6)()):
    raise OSError("capset failed")
"""
# A user that no list of users knows has no home without HOME.
NAMELESS = """
import pwd
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
"""


@pytest.mark.parametrize(
    "flags", [("-O",), ("-OO",), ("-W", "error"), ("-X", "dev", "-W", "error")], ids=str
)
def test_flags_of_python(flags, tmp_path):
    assert run_fine(CHECKED, tmp_path, *flags) == ""


def test_without_numbas_jit(tmp_path):
    body = """
    from numbadw.cpu import kernels
    for name in ("cpu", "auto"):
        x, k, options = problem(0, "silu")
        small = x[:, :9, :8, :5], k[:, :, :5]
        y = ndw.depthwise_conv2d(*small, backend=name, **options)
        right = ndw.depthwise_conv2d(*small, backend="reference", **options)
        check([np.array_equal(y, right)])
        ndw.depthwise_conv2d_grad(*small, y, backend=name, **options)
    ndw.DepthwiseConv2D(3)(x)
    ndw.set_num_threads(1)
    ndw.warmup(3, gradients=True)
    ndw.show_config()
    assert not kernels.COMPILED
    """
    run_fine(body, tmp_path, "-W", "error", NUMBA_DISABLE_JIT="1")


def test_a_threading_layer_of_numbas_that_is_missing(tmp_path):
    # Numba's choice, and its libraries, do not matter to threads of our own.
    body = """
    sys.modules["numba.np.ufunc.tbbpool"] = None
    sys.modules["numba.np.ufunc.omppool"] = None
    check(work(seed) for seed in range(3))
    from numbadw.cpu import launch
    assert launch.LAYER == "own" or sys.platform != "linux"
    """
    run_fine(body, tmp_path, NUMBA_THREADING_LAYER="tbb")


# What compiles least.
SMALL = """
import sys
import numpy as np
import numbadw as ndw
x = np.ones((1, 6, 8, 19), "f4")
if not np.array_equal(ndw.depthwise_conv2d(x, np.ones((1, 1, 19, 1), "f4")), x):
    sys.exit("wrong")
"""
PLACES = ("NUMBADW_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "TMPDIR")
FOLDER = """
from numbadw import jit
print(jit.cache_folder())
"""


def test_no_home(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    places = {**dict.fromkeys(PLACES), "TMPDIR": str(temporary)}
    end = run(NAMELESS + SMALL + FOLDER, tmp_path, "-W", "error", **places)
    assert (end.status, end.errors) == (0, "")
    folder = Path(end.out.strip())
    assert folder.parent.parent == temporary
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir())


def test_nothing_may_be_written_anywhere(tmp_path):
    places = {}
    for name in PLACES:
        place = tmp_path / name
        place.mkdir()
        place.chmod(0o500)
        places[name] = str(place)
    # Python looks for a temporary folder in more places than these.
    only = "\nimport os, tempfile\ntempfile.tempdir = os.environ['TMPDIR']\n"
    program = POWERLESS + only + SMALL + FOLDER
    end = run(program, tmp_path, "-W", "error", **places)
    assert end == (0, "None\n", "")
    assert not any(list(Path(place).iterdir()) for place in places.values())
