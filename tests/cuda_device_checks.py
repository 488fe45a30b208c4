"""Device arrays over a stub driver: streams, DLPack, sequences, overlaps.

`test_cuda_host.py` runs this in a child.
"""

import ctypes
import types

import numpy as np
import pytest
from cases import Case, assert_close
from cuda_stub import STREAMS, STUB, stub, tensors
from gradient_cases import assert_gradients_close, draw
from numba import cuda

import numbadw as ndw
from numbadw import tolerance
from numbadw.cuda import arrays, device, dlpack, functions, halves
from numbadw.cuda.resident import LEGACY, Resident

__all__ = ["stub", "tensors"]  # fixtures

CASE = Case(8, 9, 4)


def last_wait():
    """Tell how many waits there were, and of the last one who waits for whom."""
    pair = (ctypes.c_uint64 * 2)()
    return STUB.stub_waits(pair), tuple(pair)


class Handle:
    """A stream as the CUDA stream protocol shows it."""

    def __cuda_stream__(self):
        return 0, 4711


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (4711, 4711),
        (0, 0),
        (Handle(), 4711),
        (types.SimpleNamespace(cuda_stream=4711), 4711),
        (types.SimpleNamespace(ptr=4711), 4711),
        (types.SimpleNamespace(__cuda_stream__=(0, 4711)), 4711),
    ],
    ids=["int", "default", "protocol", "torch", "cupy", "property"],
)
def test_work_goes_to_the_stream_that_is_named(stream, handle, rng, tensors):
    x, w, b, g = draw(CASE, rng)
    options = {**CASE.options, "stream": stream}
    there, grad = tensors(x), tensors(g)
    result = ndw.depthwise_conv2d(there, w, b, **options)
    assert_close(result.array, x, w, b, **CASE.options)
    assert result.stream == handle, "where the result is made, for other libraries"
    ndw.depthwise_conv2d_input_grad(grad, w, x.shape, **options)
    ndw.depthwise_conv2d_kernel_grad(there, grad, w.shape, **options)
    ndw.depthwise_conv2d_grad(there, w, grad, **options)
    line, taps = tensors(x[0]), w[:1, 0]
    ndw.depthwise_conv1d(line, taps, stream=stream)
    ndw.depthwise_conv1d_grad(line, taps, line, padding="same", stream=stream)
    assert set(STREAMS) == {handle}


@pytest.mark.parametrize(
    ("stream", "error"), [("0", TypeError), (True, TypeError), (-1, ValueError)]
)
def test_what_is_no_stream_is_refused(stream, error, rng, tensors):
    x, w, b = CASE.arrays(rng)
    with pytest.raises(error, match="stream must be a CUDA stream"):
        ndw.depthwise_conv2d(tensors(x), w, b, stream=stream)


def test_a_stream_is_for_device_arrays(rng):
    x, w, b, g = draw(CASE, rng)
    for call in (
        lambda: ndw.depthwise_conv2d(x, w, b, stream=1),
        lambda: ndw.depthwise_conv2d(x, w, b, stream=1, backend="cuda"),
        lambda: ndw.depthwise_conv2d_grad(x, w, g, stream=1, **CASE.options),
        lambda: ndw.depthwise_conv1d(x[0], w[0], stream=1, return_state=True),
    ):
        with pytest.raises(ValueError, match="stream must be None"):
            call()


def test_the_stream_waits_for_those_that_made_the_arrays(rng, tensors):
    x, w, b = CASE.arrays(rng)
    before, _ = last_wait()
    there = tensors(x, stream=100)
    ndw.depthwise_conv2d(there, w, b, **CASE.options)
    ndw.depthwise_conv2d(tensors(x, stream=LEGACY), w, b, stream=0, **CASE.options)
    assert last_wait()[0] == before, "on the stream that made them nothing waits"
    ndw.depthwise_conv2d(there, w, tensors(b, stream=200), **CASE.options)
    assert last_wait() == (before + 1, (100, 200))
    ndw.depthwise_conv2d(there, w, b, stream=300, **CASE.options)
    assert last_wait() == (before + 2, (300, 100))


class Lent:
    """An array known by DLPack alone; `made` notes the streams handed over."""

    made: list = []  # noqa: RUF012  (one note book for all)

    def __init__(self, array, number=0):
        self.array, self.number = array, number

    def __dlpack_device__(self):
        return dlpack.CUDA, self.number

    def __dlpack__(self, *, stream):
        Lent.made.append(stream)
        kinds = {"float32": "f32", "float16": "f16", "float64": "f64"}
        place = self.array.ctypes.data, self.__dlpack_device__()
        kind = kinds[self.array.dtype.name]
        return dlpack.export(place, self.array.shape, kind, self.array)

    def __array_namespace__(self):
        return types.SimpleNamespace(from_dlpack=self.take)

    @staticmethod
    def take(block):
        """Take a block over: copy it, having our stream 55 wait for what makes it."""
        capsule = block.__dlpack__(stream=55)
        lent = types.SimpleNamespace(__dlpack__=lambda stream: capsule)
        tensor = dlpack.read(lent, 55)
        shape, steps, dtype, number = tensor.own
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = ctypes.string_at(tensor.address, size)
        array = np.frombuffer(data, dtype).reshape(shape)
        assert steps == tuple(step // array.itemsize for step in array.strides)
        return Lent(array, number)


def test_dlpack_arrays_stay_there_and_come_back_as_their_own(rng):
    x, w, b, g = draw(CASE, rng)
    Lent.made.clear()
    lent = Lent(x)
    result = ndw.depthwise_conv2d(lent, w, b, activation="relu", **CASE.options)
    assert type(result) is Lent
    assert_close(result.array, x, w, b, activation="relu", **CASE.options)
    assert Lent.made == [LEGACY], "the stream that the work is done on"
    before = STUB.stub_live()
    ndw.depthwise_conv2d(lent, w, b, activation="relu", **CASE.options)
    assert STUB.stub_live() == before, "the results were let go"
    waits, _ = last_wait()
    both = ndw.depthwise_conv2d_grad(lent, Lent(w), Lent(g), stream=77, **CASE.options)
    results = [each.array for each in both]
    assert_gradients_close(results, x, w, g, b, None, **CASE.options)
    assert set(Lent.made[2:]) == {77}
    assert last_wait() == (waits + 3, (55, 77))
    assert set(STREAMS) == {LEGACY, 77}


def test_dlpack_arrays_are_held_while_the_stream_reads_them(rng, monkeypatch):
    x, w, _ = CASE.arrays(rng)
    dlpack._HELD.clear()
    exported = len(dlpack._EXPORTED)
    bindings = device.driver()
    busy = types.SimpleNamespace(**vars(bindings))
    busy.cuEventQuery = lambda event: (bindings.CUresult.CUDA_ERROR_NOT_READY,)
    with monkeypatch.context() as patch:
        patch.setattr(device, "driver", lambda: busy)
        for turn in range(1, 4):
            ndw.depthwise_conv2d(Lent(x), w, **CASE.options)
            assert len(dlpack._EXPORTED) == exported + turn
    ndw.depthwise_conv2d(Lent(x), w, **CASE.options)
    assert len(dlpack._EXPORTED) == exported + 1, "all but the last call's are done"


def test_dlpack_arrays_are_no_out_and_may_lack_a_library(rng, tensors):
    x, w, _ = CASE.arrays(rng)
    with pytest.raises(TypeError, match="out must be a PyTorch tensor"):
        ndw.depthwise_conv2d(tensors(x), w, out=Lent(x.copy()), **CASE.options)
    whole = Lent(x.astype("f8")), Lent(w)
    with pytest.raises(TypeError, match="kernel must be of the other arrays' dtype"):
        ndw.depthwise_conv2d(*whole, **CASE.options)


def test_a_library_that_cannot_take_the_result_is_named(rng):
    x, w, _ = CASE.arrays(rng)

    class Alone:
        __dlpack__, __dlpack_device__ = Lent.__dlpack__, Lent.__dlpack_device__

        def __init__(self, array):
            self.array, self.number = array, 0

    with pytest.raises(TypeError, match="no from_dlpack in cuda_device_checks"):
        ndw.depthwise_conv2d(Alone(x), w, **CASE.options)


def test_numpy_takes_and_gives_the_capsules_that_we_make_and_read():
    exact = np.arange(24, dtype="f4").reshape(2, 3, 4)
    there = exact[:, ::2]
    lent = types.SimpleNamespace(__dlpack__=lambda stream: there.__dlpack__())
    tensor = dlpack.read(lent, 5)
    assert tensor.address == there.ctypes.data
    assert tensor.own == ((2, 2, 4), (12, 8, 1), "float32", 0)

    class Given:
        def __dlpack_device__(self):
            return 1, 0

        def __dlpack__(self, **options):
            place = exact.ctypes.data, self.__dlpack_device__()
            return dlpack.export(place, exact.shape, "f32", exact)

    before = len(dlpack._EXPORTED)
    taken = np.from_dlpack(Given())
    np.testing.assert_array_equal(taken, exact)
    assert len(dlpack._EXPORTED) == before + 1
    del taken
    assert len(dlpack._EXPORTED) == before
    unused = Given().__dlpack__()
    del unused
    assert len(dlpack._EXPORTED) == before


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("padding", ["causal", "same", (2, 1)])
def test_sequences_on_the_device(first, padding, rng, tensors):
    shape = (2, 8, 21) if first else (2, 21, 8)
    x = rng.standard_normal(shape).astype("f4")
    w = rng.standard_normal((4, 8, 2)).astype("f4")
    b = rng.standard_normal(16).astype("f4")
    options = {"padding": padding, "dilation_rate": 2, "activation": "silu"}
    options |= {"data_format": "channels_first" if first else "channels_last"}
    exact = ndw.depthwise_conv1d(x, w, b, backend="reference", **options)
    result = ndw.depthwise_conv1d(tensors(x), w, b, **options)
    assert result.shape == exact.shape
    np.testing.assert_allclose(result.array, exact, rtol=1e-5, atol=1e-5)
    out = tensors(np.full(exact.shape, np.nan, "f4"))
    assert ndw.depthwise_conv1d(tensors(x), tensors(w), b, out=out, **options) is out
    np.testing.assert_array_equal(out.array, result.array)
    g = rng.standard_normal(exact.shape).astype("f4")
    exact = ndw.depthwise_conv1d_grad(x, w, g, bias=b, backend="reference", **options)
    results = ndw.depthwise_conv1d_grad(tensors(x), w, tensors(g), bias=b, **options)
    for one, right in zip(results, exact, strict=True):
        assert one.shape == right.shape
        np.testing.assert_allclose(one.array, right, rtol=1e-4, atol=1e-4)


def test_what_has_no_cuda_kernels_says_so(rng, tensors):
    x, w = tensors(np.ones((1, 9, 4), "f4")), np.ones((3, 4, 1), "f4")
    images = tensors(np.ones((1, 4, 4, 4), "f4"))
    state = tensors(np.ones((1, 2, 4), "f4"))
    matrix, taps = np.ones((4, 4), "f4"), np.ones((3, 3, 4, 1), "f4")
    for call in (
        lambda: ndw.depthwise_conv1d(x, w, padding="causal", return_state=True),
        lambda: ndw.depthwise_conv1d_update(state, tensors(np.ones((1, 4), "f4")), w),
        lambda: ndw.pointwise_conv2d(images, matrix),
        lambda: ndw.pointwise_conv2d_grad(images, matrix, images),
        lambda: ndw.separable_conv2d(images, taps, matrix),
        lambda: ndw.SeparableConv2D(4, 3)(images),
    ):
        with pytest.raises(ndw.BackendUnavailableError, match="no CUDA kernels for"):
            call()


def test_a_result_may_not_cover_itself_or_what_is_read(rng, tensors):
    x, w, b = CASE.arrays(rng)
    flat = tensors(np.full(x.shape, np.nan, "f4"))
    flat.array = np.lib.stride_tricks.as_strided(flat.held, x.shape, (0, 4, 4, 4))
    with pytest.raises(ValueError, match="memory of its own"):
        ndw.depthwise_conv2d(tensors(x), w, b, out=flat, **CASE.options)
    # Rows from the last to the first end where the result begins.
    memory = np.full((2, 8, 9, 4), np.nan, "f4")
    turned, behind = tensors(memory), tensors(memory)
    memory = turned.held
    memory[0] = x[0, ::-1]
    turned.array, behind.array = memory[:1, ::-1], memory[1:]
    result = ndw.depthwise_conv2d(turned, w, b, out=behind, **CASE.options)
    assert_close(result.array, x, w, b, **CASE.options)
    behind.array = memory[:1]
    with pytest.raises(ValueError, match="overlap"):
        ndw.depthwise_conv2d(turned, w, b, out=behind, **CASE.options)


def test_a_kernel_in_the_way_of_the_result_is_refused(rng, tensors):
    x, w, _ = CASE.arrays(rng)
    kernel, out = tensors(w), tensors(np.zeros(x.shape, "f4"))
    kernel.array = out.array.reshape(-1)[: w.size].reshape(w.shape)
    with pytest.raises(ValueError, match="overlap"):
        ndw.depthwise_conv2d(tensors(x), kernel, out=out, **CASE.options)


def test_plans_for_many_kinds_of_results_are_few(rng, tensors, monkeypatch):
    x, w, b = CASE.arrays(rng)
    monkeypatch.setattr(functions, "_MOST_PLANS", 3)
    monkeypatch.setattr(functions, "_READY", {})
    there = tensors(x)
    for width in range(4, 44, 4):
        out = tensors(np.zeros((1, 8, 9, width), "f4"))
        out.array = out.held[..., :4]
        ndw.depthwise_conv2d(there, w, b, out=out, **CASE.options)
        assert_close(out.array, x, w, b, **CASE.options)
    (ready,) = functions._READY.values()
    assert 1 <= len(ready._plans) <= 3


def test_an_empty_batch_gives_empty_results_and_zero_sums(tensors):
    x, w = np.zeros((0, 8, 9, 4), "f4"), np.ones((3, 3, 4, 1), "f4")
    out = tensors(np.zeros((0, 6, 7, 4), "f4"))
    assert ndw.depthwise_conv2d(tensors(x), w, out=out) is out
    assert ndw.depthwise_conv2d(tensors(x), w).shape == (0, 6, 7, 4)
    g = tensors(np.zeros((0, 6, 7, 4), "f4"))
    x_grad, w_grad, b_grad = ndw.depthwise_conv2d_grad(tensors(x), w, g)
    assert x_grad.shape == x.shape
    assert not w_grad.array.any()
    assert not b_grad.array.any()


def test_numbas_own_arrays_and_streams(rng):
    x, w, b, g = draw(CASE, rng)
    there = cuda.device_array(x.shape, x.dtype)
    there.copy_to_device(x)
    stream = cuda.stream()
    handle = arrays.handle_of(stream)
    assert handle > 2
    for chosen, on in ((None, LEGACY), (stream, handle)):
        result = ndw.depthwise_conv2d(there, w, b, stream=chosen, **CASE.options)
        assert type(result) is type(there)
        assert_close(result.copy_to_host(), x, w, b, **CASE.options)
        assert STREAMS[-1] == on
        made_on = result.__cuda_array_interface__["stream"]
        assert made_on == (handle if chosen else None)
    grad = cuda.device_array(g.shape, g.dtype)
    grad.copy_to_device(g)
    both = ndw.depthwise_conv2d_grad(there, w, grad, **CASE.options)
    results = [array.copy_to_host() for array in both]
    assert_gradients_close(results, x, w, g, b, None, **CASE.options)
    line = cuda.device_array((2, 9, 4), x.dtype)
    shapes = [each.shape for each in ndw.depthwise_conv1d_grad(line, w[0], line[:, 2:])]
    assert shapes == [(2, 9, 4), (3, 4, 1), (4,)]


def test_memory_that_is_out_is_a_memory_error():
    with pytest.raises(MemoryError, match="OUT_OF_MEMORY"):
        device.Memory(1 << 60, 0)


def test_the_streams_of_libraries_are_asked_for(tensors):
    there = tensors(np.zeros(1, "f4"), stream=9)
    assert arrays.stream_of(there) == 9
    assert arrays.stream_of(tensors(np.zeros(1, "f4"))) == LEGACY
    assert arrays.stream_of(Lent(np.zeros(1, "f4"))) == LEGACY


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_arrays_of_our_own_serve_as_any_librarys(kind, rng):
    x, w, b = CASE.arrays(rng)
    there = [Resident.of(halves.stored(array, kind), kind, 0) for array in (x, w, b)]
    result = ndw.depthwise_conv2d(*there, **CASE.options)
    assert type(result) is Resident
    out = Resident.empty(x.shape, kind, 0)
    out.poison()
    assert np.isnan(out.numpy()).all()
    assert ndw.depthwise_conv2d(*there, out=out, **CASE.options) is out
    np.testing.assert_array_equal(out.numpy(), result.numpy())
    exact = [array.numpy() for array in there]
    answer = tolerance.forward(*exact, **CASE.options)
    room = {"f16": 2.0**-11, "bf16": 2.0**-8}.get(kind, 0) * np.abs(answer.expected)
    fault = answer._replace(bound=answer.bound + room).fault(out.numpy())
    assert not fault, fault
    np.testing.assert_array_equal(out.part(0, 1).numpy(), out.numpy()[:1])


def test_arrays_of_our_own_keep_strides_and_alignment(rng):
    memory = rng.standard_normal((9, 7, 5)).astype("f4")
    for view in (memory[1::3, ::-1, 2:], memory.transpose(2, 0, 1), memory[:0]):
        there = Resident.of(view, "f32", 0)
        assert (there.shape, there.strides) == (view.shape, view.strides)
        assert not view.size or there.address % 256 == view.ctypes.data % 256
        copy = np.full(memory.shape, np.nan, "f4")
        offset = (view.ctypes.data - memory.ctypes.data) // 4
        back = np.lib.stride_tricks.as_strided(
            copy.reshape(-1)[offset:], view.shape, view.strides
        )
        np.testing.assert_array_equal(there.fetch(back), view)


def test_the_step_along_an_axis_of_one_entry_does_not_matter(rng):
    x = rng.standard_normal((1, 6, 7, 1)).astype("f4")
    w, b = np.ones((3, 3, 1, 1), "f4"), np.ones(1, "f4")
    odd = np.lib.stride_tricks.as_strided
    there = odd(x, x.shape, (12, 28, 4, 20)), odd(w, w.shape, (12, 4, 52, 7))
    result = ndw.depthwise_conv2d(
        *(Resident.of(array, "f32", 0) for array in (*there, odd(b, (1,), (8,))))
    )
    assert_close(result.numpy(), x, w, b)
