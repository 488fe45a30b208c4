"""The on-disk cache: it saves compiling, and whatever its state nothing ever fails."""

import contextlib
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import Case, check, environment, forget, lanes
from gradient_cases import check_gradients
from numba.core.errors import TypingError

import numbadw as ndw
from numbadw import jit
from numbadw.cpu import backward, jobs, kernels, launch, plan_both, request
from numbadw.cpu.caches import Caches

# One small kernel: what a second process must find in the cache.
CHILD = """
import json
from numba.core import event
import numbadw
from numbadw import jit
from numbadw.cpu import kernels, launch
loaded_nothing = len(kernels.COMPILED)
import numpy as np
with event.install_recorder("numba:run_pass") as passes:
    x = np.ones((1, 6, 8, 19), "f4")
    y = numbadw.depthwise_conv2d(x, np.ones((1, 1, 19, 1), "f4"))
assert np.array_equal(y, x)
print(json.dumps({
    "folder": str(jit.cache_folder()),
    "passes": len(passes.buffer),
    "hits": [kernel.cache_hits for kernel in kernels.COMPILED],
    "driver_cached": launch.serial_driver().cached,
    "at_import": loaded_nothing,
}))
"""


def child(**variables):
    """Run one small convolution elsewhere and return its report."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture
def elsewhere(tmp_path):
    """Return variables that point every folder of the user's into an empty one."""
    names = ("HOME", "XDG_CACHE_HOME", "TMPDIR", "NUMBADW_CACHE_DIR")
    folders = {name: tmp_path / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    return {name: str(folder) for name, folder in folders.items()}


def files_in(folder):
    """Return the files below a folder."""
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def test_a_second_process_compiles_nothing(elsewhere):
    first = child(**elsewhere)
    assert first["at_import"] == 0
    assert first["passes"] > 0
    assert first["hits"] == [0]
    assert Path(first["folder"]).parent == Path(elsewhere["NUMBADW_CACHE_DIR"])
    second = child(**elsewhere)
    assert second["passes"] == 0
    assert second["hits"] == [1]
    assert second["driver_cached"]
    assert second["folder"] == first["folder"]


def test_the_next_folder_serves_where_one_cannot_be_made(elsewhere, tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    report = child(**elsewhere | {"NUMBADW_CACHE_DIR": str(file)})
    assert Path(elsewhere["XDG_CACHE_HOME"]) in Path(report["folder"]).parents
    below = child(**elsewhere | {"NUMBADW_CACHE_DIR": str(file / "below")})
    assert below["folder"] == report["folder"]
    assert below["passes"] == 0
    assert file.read_text() == "not a folder"


def test_a_folder_that_others_may_write_is_not_trusted(elsewhere):
    # Numba's cache is pickle: whoever can write it can run code here.
    Path(elsewhere["NUMBADW_CACHE_DIR"]).chmod(0o777)
    report = child(**elsewhere)
    assert Path(elsewhere["XDG_CACHE_HOME"]) in Path(report["folder"]).parents
    assert files_in(elsewhere["NUMBADW_CACHE_DIR"]) == []


def test_no_folder_at_all_means_no_cache(elsewhere, tmp_path):
    file = tmp_path / "file"
    file.touch()
    nowhere = dict.fromkeys(elsewhere, str(file))
    report = child(**nowhere)
    # The system's temporary folder may still serve.
    if report["folder"] == "None":
        assert report["passes"] > 0
    else:
        assert "numbadw-" in report["folder"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere"
)
def test_a_read_only_folder(elsewhere):
    folder = Path(elsewhere["NUMBADW_CACHE_DIR"])
    folder.chmod(0o500)
    report = child(**elsewhere)
    assert folder not in Path(report["folder"]).parents
    folder.chmod(0o700)


@pytest.mark.parametrize("damage", ["garbage", "cut", "swapped", "folders"])
def test_damaged_entries_are_made_anew(damage, elsewhere):
    child(**elsewhere)
    files = files_in(elsewhere["NUMBADW_CACHE_DIR"])
    contents = [file.read_bytes() for file in files]
    assert len(files) >= 4
    for file, own, other in zip(
        files, contents, contents[1:] + contents[:1], strict=True
    ):
        if damage == "folders":
            file.unlink()
            file.mkdir()
            continue
        file.write_bytes(
            {
                "garbage": bytes(range(256)) * 8,
                "cut": own[: len(own) // 2],
                "swapped": other,
            }[damage]
        )
    child(**elsewhere)
    if damage != "folders":
        healed = child(**elsewhere)
        assert healed["passes"] == 0
        assert healed["hits"] == [1]


def test_the_folder_lies_outside_the_package_and_names_the_sources():
    folder, package = jit.cache_folder(), Path(ndw.__file__).parent
    assert folder is None or package not in folder.parents
    assert folder is None or folder.name == jit.source_hash()
    assert not list(package.rglob("*.nb[ic]"))


def test_the_hash_follows_every_source(tmp_path, monkeypatch):
    package = tmp_path / "numbadw"
    (package / "cpu").mkdir(parents=True)
    (package / "jit.py").write_text("one")
    (package / "cpu" / "tile.py").write_text("two")
    monkeypatch.setattr(jit, "__file__", str(package / "jit.py"))
    hashes = set()
    for text in ("two", "three"):
        (package / "cpu" / "tile.py").write_text(text)
        hashes.add(jit.source_hash.__wrapped__())
    (package / "cpu" / "tile.py").rename(package / "cpu" / "other.py")
    hashes.add(jit.source_hash.__wrapped__())
    assert len(hashes) == 3


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("c", [3, 2 * lanes() + 1])
def test_new_sizes_and_paddings_compile_nothing(c, first, rng, monkeypatch):
    base = Case(6, 9, c, first=first)
    check(base, rng)
    check(base._replace(w=6 * lanes()), rng)
    launch.parallel_driver()  # one for all, made when the first large problem comes
    count = len(kernels.COMPILED)
    assert count
    monkeypatch.setattr(jit, "compile_kernel", None)
    monkeypatch.setattr(jit, "compile_driver", None)
    for n, h, w in ((2, 6, 9), (1, 30, 1), (3, 5, 200), (1, 1, 64), (0, 7, 7)):
        for padding in ("same", 3, ((0, 5), (7, 1))):
            check(base._replace(n=n, h=h, w=w, padding=padding), rng)
    for dilation in ((2, 2), (1, 5)):
        check(base._replace(dilation=dilation), rng)
        # Within a phase of a dilated kernel such a stride is 1 too.
        check(base._replace(dilation=(2, 2), strides=(2, 2)), rng) if c > 3 else None
    more = lanes() if c > 3 else 1
    for channels in (c + 1, c + more, c + 40 * more if c > 3 else 2):
        check(base._replace(c=channels), rng)
    assert len(kernels.COMPILED) == count


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_new_sizes_of_gradients_compile_nothing(strides, rng, monkeypatch):
    base = Case(6, 9, 2 * lanes() + 1, strides=strides)
    check_gradients(base, rng)
    jobs.parallel_driver()
    for name in ("compile_kernel", "compile_driver", "compile_c_function"):
        monkeypatch.setattr(jit, name, None)
    # Small arrays, as small ones and as those that the caches do not hold.
    for last, second in ((1 << 30, 1 << 30), (1, 0)):
        sizes = Caches(last=last, second=second)
        for module in (backward, plan_both, request):
            monkeypatch.setattr(module, "caches", lambda sizes=sizes: sizes)
        forget()
        for n, h, w in ((2, 6, 9), (3, 30, 22), (1, 5, 200)):
            for padding in ("same", "valid", 3, ((0, 5), (7, 1))):
                case = base._replace(n=n, h=h, w=w, padding=padding)
                check_gradients(case, rng)
    forget()


def test_one_kernel_serves_every_run_of_its_shape():
    plan = Case(6, 9, 2 * lanes()).plan()
    address = kernels.kernel_address(plan.feed, plan.tiles)
    again = Case(60, 33, 9 * lanes() + 5, padding=7).plan()
    assert kernels.kernel_address(again.feed, again.tiles) == address
    assert launch.serial_driver() is launch.serial_driver()
    assert isinstance(address, int)
    assert np.iinfo(np.int64).max > address > 0


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_keeps_still_while_compiling(enabled, fails, monkeypatch):
    found = []

    def no_cache(function):
        found.append(gc.isenabled())

    def broken(number):
        return unknown(number)  # noqa: F821

    monkeypatch.setattr(jit, "_cache_for", no_cache)
    expected = pytest.raises(TypingError) if fails else contextlib.nullcontext()
    (gc.enable if enabled else gc.disable)()
    try:
        with expected:
            jit.compile_driver(broken if fails else magnitude, "int64(int64)")
        after = gc.isenabled()
    finally:
        gc.enable()
    assert found == [False]
    assert after == enabled


def magnitude(number):
    """Give Numba something to compile."""
    return abs(number)
