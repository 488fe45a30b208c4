"""The cache where the disk is full, where many start at once, where CPUs differ."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from children import run
from numba.core import config

import numbadw as ndw
from numbadw import jit

# A small convolution; tells how much was compiled and what came from the cache.
SMALL = """
import sys
import numpy as np
import numbadw
from numba.core import event
from numbadw import jit
from numbadw.cpu import kernels, launch
with event.install_recorder("numba:run_pass") as passes:
    x = np.ones((1, 6, 8, 19), "f4")
    y = numbadw.depthwise_conv2d(x, np.ones((1, 1, 19, 1), "f4"))
if not np.array_equal(y, x):
    sys.exit("wrong")
hits = sum(kernel.cache_hits for kernel in kernels.COMPILED)
hits += launch.serial_driver().cached
print(len(passes.buffer), hits)
"""
# Every file is full after some bytes (EFBIG), as on a disk without space.
LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""
# The disk is full when the code itself is written, the index is there.
FULL = """
import errno
from numba.core import caching
def full(self, name, data):
    raise OSError(errno.ENOSPC, "No space left on device")
caching.IndexDataCacheFile._save_data = full
"""
ALL, NONE = "0 2\n", " 0\n"


@pytest.fixture
def cache(tmp_path):
    """Return an empty cache folder."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


def small(folder, cache, before="", **variables):
    """Run `SMALL` and give what it printed: passes and hits."""
    variables = {"NUMBADW_CACHE_DIR": str(cache), **variables}
    end = run(before + SMALL, folder, "-W", "error", **variables)
    assert (end.status, end.errors) == (0, "")
    return end.out


def files_in(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [0, 600])
def test_files_that_cannot_grow(size, cache, tmp_path):
    pytest.importorskip("resource", reason="no limits here")
    first = small(tmp_path, cache, LIMITED.format(size=size))
    assert first.endswith(NONE)
    assert not [path for path in files_in(cache) if ".tmp." in path.name]
    assert all(path.stat().st_size <= size for path in files_in(cache))
    assert small(tmp_path, cache).endswith(NONE)
    assert small(tmp_path, cache) == ALL


def test_a_disk_that_is_full_for_one_of_two_cpus(cache, tmp_path):
    # Their code lies in one folder, and each meets its own alone.
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert small(tmp_path, cache).endswith(NONE)
    assert small(tmp_path, cache, FULL, **other).endswith(NONE)
    assert small(tmp_path, cache, **other).endswith(NONE)
    assert small(tmp_path, cache, **other) == ALL
    assert small(tmp_path, cache) == ALL


def test_many_processes_start_at_once(cache, tmp_path):
    program = tmp_path / "small.py"
    program.write_text(SMALL)
    env = {**os.environ, "NUMBADW_CACHE_DIR": str(cache)}
    env["PYTHONPATH"] = str(Path(ndw.__file__).parents[1])
    command = [sys.executable, "-W", "error", str(program)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [subprocess.Popen(command, env=env, **pipes) for _ in range(16)]
    for child in children:
        out, errors = child.communicate(timeout=300)
        assert (child.returncode, errors) == (0, b""), out
    assert not [path for path in files_in(cache) if ".tmp." in path.name]
    assert small(tmp_path, cache) == ALL


@pytest.mark.parametrize("locator", ["InTreeCacheLocator", "none.of.these"])
def test_numbas_places_for_its_own_cache_are_not_ours(locator, monkeypatch):
    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", locator, raising=False)
    cache = jit._cache_for(files_in)
    assert cache is not None
    assert Path(cache.cache_path) == jit.cache_folder()


@pytest.mark.parametrize("word", ["0", "off", "No", "FALSE"])
def test_it_can_be_switched_off(word, monkeypatch):
    monkeypatch.setenv("NUMBADW_CACHE", word)
    assert jit.cache_folder.__wrapped__() is None
    monkeypatch.setenv("NUMBADW_CACHE", "1")
    assert jit.cache_folder.__wrapped__() == jit.cache_folder()


def test_switched_off_nothing_is_written(cache, tmp_path):
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(cache))
    out = small(tmp_path, cache, NUMBADW_CACHE="0", **places)
    assert out.endswith(NONE)
    assert files_in(cache) == []


@pytest.mark.parametrize("place", ["", "cpu", "not/yet/there"])
def test_it_never_lies_in_the_package(place, tmp_path, monkeypatch):
    package = Path(ndw.__file__).parent
    link = tmp_path / "link"
    link.symlink_to(package)
    for root in (package / place, link / place):
        monkeypatch.setenv("NUMBADW_CACHE_DIR", str(root))
        folder = jit.cache_folder.__wrapped__()
        assert folder is None or package not in folder.resolve().parents
    assert not (package / "not").exists()


def test_names_tell_cpu_and_compiler(monkeypatch):
    names = set()
    for version in ("0.1", "0.2"):
        monkeypatch.setattr(jit.numba, "__version__", version)
        names.add(jit._Locator().get_disambiguator())
    codegen = jit.cpu_target.target_context.codegen()
    monkeypatch.setattr(type(codegen), "magic_tuple", lambda self: ("other", "cpu"))
    names.add(jit._Locator().get_disambiguator())
    assert len(names) == 3
    assert all(name.isalnum() for name in names)


def test_without_sources_nothing_tells_versions_apart(tmp_path, monkeypatch):
    # As in a frozen program, whose modules lie in an archive.
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "numbadw" / "jit.py"))
    monkeypatch.setattr(jit, "source_hash", jit.source_hash.__wrapped__)
    assert jit.source_hash() == ""
    assert jit.cache_folder.__wrapped__() is None
