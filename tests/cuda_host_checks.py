"""The CUDA host path over a stub driver; `test_cuda_host.py` runs this in a child.

Device memory is the host's and a launch runs the kernel's thread body on the CPU, so
plans, addresses, streams, chunks and results are those of a real call; only machine
code, asynchrony and speed are not there.
"""

import contextlib
import ctypes
import io
import re
import types as python_types

import cuda_native
import numpy as np
import pytest
from cases import Case, assert_close
from gradient_cases import assert_gradients_close, draw

import numbadw as ndw
from numbadw import tolerance
from numbadw.cuda import arrays, device, host
from numbadw.cuda import compile as compiler
from numbadw.cuda.spec import NARROW, Sizes

STUB = ctypes.CDLL("libcuda.so.1")
CALLBACK = ctypes.CFUNCTYPE(
    None,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_uint,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_void_p),
)
SPECS = {}
STREAMS = []


@CALLBACK
def on_launch(kernel, grid, block, stream, parameters):
    """Run a launched kernel's body over the grid, as the parameters tell."""
    spec = SPECS[ctypes.string_at(kernel).decode()]
    STREAMS.append(stream)
    assert block == spec.threads
    read = [ctypes.c_int64] * 6 + [ctypes.c_int32] * NARROW
    read += [ctypes.c_int64] * (len(Sizes._fields) - NARROW)
    real = ctypes.c_double if spec.kind == "f64" else ctypes.c_float
    values = [
        kind.from_address(parameters[i]).value for i, kind in enumerate([*read, real])
    ]
    sizes = cuda_native.typed(Sizes(*values[6:-1]))
    slope = (np.float64 if spec.kind == "f64" else np.float32)(values[-1])
    run = cuda_native.driver(spec)
    run(cuda_native.SCENE, *grid[:3], *values[:6], sizes, slope)


STUB.stub_on_launch(on_launch)


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    """Give kernels names instead of code, and see that no device memory is lost."""

    def cubin(spec, cc):
        assert cc == 90
        SPECS[spec.label] = spec
        return b"no code", spec.label

    monkeypatch.setattr(compiler, "cubin", cubin)
    STREAMS.clear()
    before = STUB.stub_live()
    yield
    uploads = len(DEVICE_MEMORY)
    assert STUB.stub_live() <= before + uploads + 64


DEVICE_MEMORY = []


class Tensor:
    """A device array as Numba's export themselves, its memory the stub's."""

    __cuda_ndarray__ = True

    def __init__(self, array, stream=None):
        self.held = np.ascontiguousarray(array)
        self.array, self.stream = self.held, stream
        DEVICE_MEMORY.append(self.held)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape,
            "strides": self.array.strides,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data, False),
            "stream": self.stream,
            "version": 3,
        }


@pytest.fixture
def tensors(monkeypatch):
    """Have results allocated as `Tensor`."""

    def empty_like(array, shape):
        return Tensor(np.full(shape, np.nan, array.dtype))

    monkeypatch.setattr(arrays, "empty_like", empty_like)
    return Tensor


@pytest.mark.parametrize("chunk", [1, 10**9])
@pytest.mark.parametrize("first", [False, True])
def test_numpy_arrays_go_there_and_back(chunk, first, rng, monkeypatch):
    monkeypatch.setattr(host, "CHUNK", chunk)
    case = Case(9, 8, 4, n=3, first=first)
    x, w, b = case.arrays(rng)
    options = {**case.options, "activation": "relu6", "backend": "cuda"}
    result = ndw.depthwise_conv2d(x, w, b, **options)
    assert type(result) is np.ndarray
    assert_close(result, x, w, b, activation="relu6", **case.options)
    # One launch a chunk, the slots' streams in turn.
    launches = STREAMS[:]
    assert len(launches) == (3 if chunk == 1 else 1)
    assert len(set(launches)) == min(2, len(launches))
    for _ in range(2):
        out = np.full(result.shape, np.nan, "f4")
        assert ndw.depthwise_conv2d(x, w, b, out=out, **options) is out
        np.testing.assert_array_equal(out, result)


def test_odd_arrays_are_staged_dense(rng):
    case = Case(9, 8, 4, n=2, dtype="float64")
    x, w, b = case.arrays(rng)
    odd = np.full((4, 9, 16, 4), np.nan)[::2, ::-1, 1::2]
    odd[...] = x
    out = np.full((9, 2, 8, 4), np.nan).transpose(1, 0, 2, 3)
    ndw.depthwise_conv2d(odd, w, b, out=out, backend="cuda", **case.options)
    assert_close(out, x, w, b, **case.options)


def test_a_bad_out_is_refused_as_on_the_cpu(rng):
    case = Case(6, 7, 4)
    x, w, b = case.arrays(rng)
    for _ in range(2):
        with pytest.raises(ValueError, match="overlap"):
            ndw.depthwise_conv2d(x, w, b, out=x, backend="cuda", **case.options)
    frozen = x.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        ndw.depthwise_conv2d(x, w, b, out=frozen, backend="cuda", **case.options)


@pytest.mark.parametrize(
    "case",
    [Case(9, 8, 4, n=2), Case(9, 8, 3, m=2, strides=(2, 1)), Case(8, 8, 3, first=True)],
    ids=lambda case: case.label,
)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradients_of_numpy_arrays(case, activation, rng):
    x, w, b, g = draw(case, rng)
    options = {**case.options, "backend": "cuda"}
    both = ndw.depthwise_conv2d_grad(x, w, g, bias=b, activation=activation, **options)
    assert_gradients_close(both, x, w, g, b, activation, **case.options)
    if activation is None:
        alone = (
            ndw.depthwise_conv2d_input_grad(g, w, x.shape, **options),
            ndw.depthwise_conv2d_kernel_grad(x, g, w.shape, **options),
            None,
        )
        assert_gradients_close(alone, x, w, g, **case.options)


def test_device_arrays_stay_there(rng, tensors):
    case = Case(10, 9, 8, n=2)
    x, w, b = case.arrays(rng)
    there = tensors(x, stream=4321)
    copies = STUB.stub_copies()
    result = ndw.depthwise_conv2d(there, w, b, activation="tanh", **case.options)
    assert type(result) is Tensor
    assert_close(result.array, x, w, b, activation="tanh", **case.options)
    assert STUB.stub_copies() == copies + 2, "the kernel and the bias, nothing else"
    again = ndw.depthwise_conv2d(there, w, b, activation="tanh", **case.options)
    np.testing.assert_array_equal(again.array, result.array)
    assert STUB.stub_copies() == copies + 2
    assert set(STREAMS) == {4321}
    changed = w + 1
    result = ndw.depthwise_conv2d(there, changed, tensors(b), **case.options)
    assert_close(result.array, x, changed, b, **case.options)
    out = tensors(np.full(x.shape, np.nan, "f4"))
    assert ndw.depthwise_conv2d(there, tensors(w), out=out, **case.options) is out
    assert_close(out.array, x, w, **case.options)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients_on_the_device(activation, rng, tensors):
    case = Case(10, 9, 4)
    x, w, b, g = draw(case, rng)
    there = tensors(x), w, tensors(g)
    options = {"bias": b, "activation": activation, **case.options}
    both = ndw.depthwise_conv2d_grad(*there, **options)
    results = [tensor.array for tensor in both]
    assert_gradients_close(results, x, w, g, b, activation, **case.options)
    if activation is None:
        x_grad = ndw.depthwise_conv2d_input_grad(
            there[2], w, x.shape, **case.options
        ).array
        w_grad = ndw.depthwise_conv2d_kernel_grad(
            there[0], there[2], w.shape, **case.options
        ).array
        assert_gradients_close((x_grad, w_grad, None), x, w, g, **case.options)


def test_half_precision_on_the_device(rng, tensors):
    case = Case(8, 8, 8)
    x, w, b = (array.astype("f2") for array in case.arrays(rng))
    result = ndw.depthwise_conv2d(tensors(x), w, b, **case.options).array
    assert result.dtype == np.float16
    exact = [array.astype("f4") for array in (x, w, b)]
    answer = tolerance.forward(*exact, **case.options)
    bound = answer.bound + 2.0**-11 * np.abs(answer.expected)
    assert not answer._replace(bound=bound).fault(result.astype("f4"))


def test_wrong_device_arrays_are_refused(rng, tensors, monkeypatch):
    case = Case(6, 7, 4)
    x, w, b = case.arrays(rng)
    there = tensors(x)
    for error, message, call in (
        (TypeError, "NumPy", lambda: ndw.depthwise_conv2d(there, w, backend="cpu")),
        (TypeError, "CUDA", lambda: ndw.depthwise_conv2d(x, tensors(w))),
        (TypeError, "out", lambda: ndw.depthwise_conv2d(there, w, out=x)),
        (TypeError, "float", lambda: ndw.depthwise_conv2d(tensors(x.astype("i4")), w)),
        (ValueError, "bias", lambda: ndw.depthwise_conv2d(there, w, b[1:])),
        (
            ValueError,
            "overlap",
            lambda: ndw.depthwise_conv2d(there, w, out=there, padding="same"),
        ),
    ):
        with pytest.raises(error, match=message):
            call()
    other = tensors(w)
    number = arrays._number
    monkeypatch.setattr(arrays, "_number", lambda array: int(array is other))
    with pytest.raises(ValueError, match="device 1"):
        ndw.depthwise_conv2d(there, other)
    assert number(there) == 0


def test_the_callers_device_stays_its_own(rng, tensors):
    case = Case(8, 9, 4)
    x, w, b, g = draw(case, rng)
    there, grad = tensors(x), tensors(g)
    bindings = device.driver()
    device.check(bindings.cuCtxSetCurrent(2))  # the stub's context of device 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_number", lambda array: 0)
        ndw.depthwise_conv2d(there, w, b, **case.options)
        ndw.depthwise_conv2d_grad(there, w, grad, activation="relu", **case.options)
    assert device.current() == 1
    device.check(bindings.cuCtxSetCurrent(1))


def test_torchs_channels_last_is_no_copy(rng, monkeypatch):
    """A tensor of PyTorch's kind: NCHW by shape, NHWC by strides."""
    case = Case(8, 9, 8, first=True)
    x, w, b = case.arrays(rng)
    memory = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    out = np.full((1, 8, 9, 8), np.nan, "f4")

    class Torch:
        """What the host path asks of a tensor."""

        __cuda_array_interface__ = None
        device = python_types.SimpleNamespace(index=0)
        dtype = "torch.float32"

        def __init__(self, array):
            self.array = array
            self.shape = array.shape

        def stride(self):
            return tuple(step // 4 for step in self.array.strides)

        def element_size(self):
            return 4

        def data_ptr(self):
            return self.array.ctypes.data

    Torch.__module__ = "torch"
    monkeypatch.setattr(arrays, "current_stream", lambda array: 99)
    target = Torch(out.transpose(0, 3, 1, 2))
    monkeypatch.setattr(arrays, "empty_like", lambda array, shape: target)
    there = Torch(memory.transpose(0, 3, 1, 2))
    result = ndw.depthwise_conv2d(there, w, b, **case.options)
    assert result is target
    assert_close(result.array, x, w, b, **case.options)
    assert STREAMS == [99]
    tiles = [label for label in SPECS if re.search(r"v4t2x2$", label)]
    assert tiles, "vectors of channels, as channels last has them"


def test_a_layer_and_its_pullback_on_the_device(rng, tensors):
    case = Case(8, 9, 4)
    x, w, b, g = draw(case, rng)
    layer = ndw.DepthwiseConv2D(3, padding="same", activation="relu")
    layer.build(x.shape)
    layer.set_weights([w, b])
    y, pullback = layer.vjp(tensors(x))
    assert_close(y.array, x, w, b, activation="relu", **case.options)
    x_grad, weight_grads = pullback(tensors(g))
    results = [tensor.array for tensor in (x_grad, *weight_grads)]
    assert_gradients_close(results, x, w, g, b, "relu", **case.options)
    layer.kernel[...] = 2 * w
    y = layer(tensors(x))
    assert_close(y.array, x, 2 * w, b, activation="relu", **case.options)


def test_warmup_compiles_the_current_devices_kernels():
    SPECS.clear()
    ndw.warmup(3, activation="relu", gradients=True, backend="cuda")
    families = {spec.family for spec in SPECS.values()}
    assert families == {"forward_tile", "kernel_grad_tile", "sum_parts"}


def test_show_config_lists_devices_and_versions():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ndw.show_config()
    assert re.search(
        r"CUDA devices +0: Stub, 1: Stub \(driver CUDA 13\.0", printed.getvalue()
    )


@pytest.mark.parametrize(
    ("count", "version", "message"),
    [(0, 13000, "no device"), (1, 11080, r"too old: it is of CUDA 11\.8")],
)
def test_why_cuda_cannot_be_used(count, version, message):
    STUB.stub_set(count, version)
    try:
        assert re.search(message, device.problem())
    finally:
        STUB.stub_set(2, 13000)
    assert not device.problem()
