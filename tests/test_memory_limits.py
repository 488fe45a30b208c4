"""Memory: nothing leaks, too much is refused, and arrays may be larger than it."""

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from children import run_fine
from numpy.lib.stride_tricks import as_strided

import numbadw as ndw
from numbadw import threads

# Calls of every kind, results kept and dropped, and calls that fail.
FLAT = """
import gc
from collections import deque

def resident():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

rng = np.random.default_rng(0)
def draw(*shape):
    return rng.standard_normal(shape).astype("f4")

options = {"strides": 2, "padding": "same", "activation": "relu"}
x, k, b = draw(1, 9, 11, 19), draw(3, 3, 19, 1), draw(19)
g = ndw.depthwise_conv2d(x, k, b, **options)
first = {**options, "data_format": "channels_first"}
xf, gf = (np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for a in (x, g))
large, out = draw(1, 40, 41, 48), np.empty((1, 40, 41, 48), "f4")
kernel, grad = draw(3, 3, 48, 1), draw(1, 40, 41, 48)
layer = ndw.DepthwiseConv2D(3, padding="same", activation="silu", seed=1)
layer(x)
kept = deque(maxlen=3)

def fail(call, *arrays, **options):
    try:
        call(*arrays, **options)
    except ValueError:
        return
    raise AssertionError("no error")

def forward():
    kept.append(ndw.depthwise_conv2d(x, k, b, **options))
    kept.append(ndw.depthwise_conv2d(xf, k, b, **first))
    kept.append(ndw.depthwise_conv2d(large, kernel, padding="same"))
    ndw.depthwise_conv2d(large, kernel, padding="same", out=out)
    fail(ndw.depthwise_conv2d, x, kernel)
    fail(ndw.depthwise_conv2d, large, kernel, padding="same", out=large)
    layer(x)

def back():
    kept.append(ndw.depthwise_conv2d_grad(x, k, g, bias=b, **options))
    kept.append(ndw.depthwise_conv2d_grad(xf, k, gf, bias=b, **first))
    kept.append(ndw.depthwise_conv2d_grad(large, kernel, grad, padding="same"))
    ndw.depthwise_conv2d_input_grad(
        grad, kernel, large.shape, padding="same", out=out
    )
    fail(ndw.depthwise_conv2d_kernel_grad, x, grad, kernel.shape)
    layer.vjp(x)[1](draw(1, 9, 11, 19))
    check([layer.vjp(x)[0].shape == x.shape])

for some in (forward, back):
    for _ in range(700):
        some()
    before = resident()
    for _ in range(1500):
        some()
    grown = resident() - before
    assert grown < 2 * 1024 * 1024, (some.__name__, grown)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resident_memory_stays_flat(tmp_path):
    # Seven calls a turn: over 10,000 of each direction.
    run_fine(FLAT, tmp_path)


def test_an_impossible_result(rng):
    # A petabyte, of images that take no memory.
    x = np.broadcast_to(rng.standard_normal((8, 8, 4)).astype("f4"), (1 << 40, 8, 8, 4))
    k = rng.standard_normal((3, 3, 4, 1)).astype("f4")
    for backend in ("cpu", "reference"):
        for _ in range(2):
            with pytest.raises(MemoryError):
                ndw.depthwise_conv2d(x, k, padding="same", backend=backend)
            with pytest.raises(MemoryError):
                ndw.depthwise_conv2d_grad(x, k, x, padding="same", backend=backend)
            with pytest.raises(MemoryError):
                ndw.depthwise_conv2d_input_grad(
                    x, k, x.shape, padding="same", backend=backend
                )
    assert not threads.busy()
    right = ndw.depthwise_conv2d(x[:2], k, padding="same", backend="reference")
    result = ndw.depthwise_conv2d(x[:2], k, padding="same")
    np.testing.assert_allclose(result, right, rtol=1e-4, atol=1e-4)


# The address space ends soon: a result does not fit, a small one still does.
LIMITED = """
import resource
x, k, options = problem(0)
large = np.ones((1, 512, 512, 48), "f4")
check([work(0)])
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * os.sysconf("SC_PAGE_SIZE") + 40 * 1024 * 1024
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for turn in range(20):
    for call in (
        lambda: ndw.depthwise_conv2d(large, k, **options),
        lambda: ndw.depthwise_conv2d_grad(large, k, large, **options),
    ):
        try:
            call()
        except MemoryError:
            continue
        raise AssertionError("no error")
    check([work(turn)])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_little_memory_left(tmp_path):
    run_fine(LIMITED, tmp_path)


# More float32 than 32 bits of any kind can count, and steps between windows.
SIDE, STEP = 70_000, 6_999


def resident():
    """Return the bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def before():
    """Return what is in memory before the class below runs."""
    return resident() if Path("/proc/self/statm").exists() else 0


@pytest.fixture(scope="module")
def vast(before):
    """Return zeros of SIDE x SIDE (20 GB) of which nothing is in memory yet."""
    flags = getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        flags |= mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, 4 * SIDE * SIDE, flags=flags)
    except (AttributeError, OSError, ValueError) as error:
        pytest.skip(f"no such map here: {error}")
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(1, SIDE, SIDE, 1)


def same(result, right):
    assert np.abs(right).max() > 0
    np.testing.assert_allclose(result, right, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(sys.maxsize < 2**32, reason="a 64-bit system is needed")
class TestMoreElementsThan32BitsCount:
    @pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
    def test_windows_far_apart(self, first, vast, rng):
        # Rows of 2187 pixels of 32 channels, of which few lie in a window.
        x = vast[0, :, : 2187 * 32].reshape(1, SIDE, 2187, 32)
        windows = as_strided(
            x,
            (10, 5, 10, 5, 32),
            (STEP * x.strides[1], *x.strides[1:2], 199 * 128, 128, 4),
        )
        windows[...] = rng.standard_normal(windows.shape)
        k = rng.standard_normal((5, 5, 32, 1)).astype("f4")
        options = {"strides": (STEP, 199)}
        if first:
            x = x.transpose(0, 3, 1, 2)
            options["data_format"] = "channels_first"
        assert x.size > 2**32
        y = ndw.depthwise_conv2d(x, k, **options)
        same(y, ndw.depthwise_conv2d(x, k, backend="reference", **options))
        gradient = ndw.depthwise_conv2d_kernel_grad
        right = gradient(x, y, k.shape, backend="reference", **options)
        same(gradient(x, y, k.shape, **options), right)

    @pytest.mark.parametrize("m", [1, 3])
    def test_pixels_far_apart(self, m, vast, rng):
        # Offsets beyond 2^31 along every axis.
        x = vast[0, ::STEP, ::STEP]
        x[...] = rng.standard_normal(x.shape)
        for view in (
            x[None],
            x.transpose(2, 1, 0)[None],
            x.transpose(2, 0, 1)[None],
            x.transpose(0, 2, 1)[:, None],
        ):
            k = rng.standard_normal((1, 1, view.shape[3], m)).astype("f4")
            result = ndw.depthwise_conv2d(view, k)
            same(result, ndw.depthwise_conv2d(view, k, backend="reference"))
            gradient = ndw.depthwise_conv2d_kernel_grad
            right = gradient(view, result, k.shape, backend="reference")
            same(gradient(view, result, k.shape), right)

    def test_out_and_grad_far_apart(self, vast, rng):
        x = rng.standard_normal((1, 10, 10, 1)).astype("f4")
        k = rng.standard_normal((3, 3, 1, 1)).astype("f4")
        options = {"padding": "same"}
        far = vast[:, 1::STEP, 2::STEP][:, :10, :10]
        assert ndw.depthwise_conv2d(x, k, out=far, **options) is far
        near = ndw.depthwise_conv2d(x, k, **options)
        np.testing.assert_array_equal(far, near)
        out = vast[:, 3::STEP, 4::STEP][:, :10, :10]
        ndw.depthwise_conv2d_input_grad(far, k, x.shape, out=out, **options)
        right = ndw.depthwise_conv2d_input_grad(near, k, x.shape, **options)
        np.testing.assert_array_equal(out, right)
        gradient = ndw.depthwise_conv2d_kernel_grad
        right = gradient(x, near, k.shape, **options)
        same(gradient(x, far, k.shape, **options), right)

    def test_broadcast_images(self, rng):
        row = rng.standard_normal((1, 1, 1 << 13, 32)).astype("f4")
        x = np.broadcast_to(row, (1, 1 << 22, 1 << 13, 32))
        k = rng.standard_normal((5, 5, 32, 1)).astype("f4")
        options = {"strides": (1 << 18, 1 << 9)}
        assert x.size == 2**40
        result = ndw.depthwise_conv2d(x, k, **options)
        assert result.shape == (1, 16, 16, 32)
        same(result, ndw.depthwise_conv2d(x, k, backend="reference", **options))
        images = np.broadcast_to(row[:, :, :5], (1 << 32, 1, 5, 32))[:: 1 << 28]
        result = ndw.depthwise_conv2d(images, k[:1])
        same(result, ndw.depthwise_conv2d(images, k[:1], backend="reference"))

    def test_none_of_it_was_copied(self, vast, before):
        assert resident() - before < vast.nbytes // 8
