"""The CUDA host path over a stub driver; `test_cuda_host.py` runs this in a child."""

import contextlib
import io
import re

import numpy as np
import pytest
from cases import Case, assert_close
from cuda_stub import SPECS, STREAMS, STUB, Tensor, stub, tensors
from gradient_cases import assert_gradients_close, draw

import numbadw as ndw
from numbadw import tolerance
from numbadw.cuda import arrays, device, host
from numbadw.cuda import compile as compiler

__all__ = ["stub", "tensors"]  # fixtures


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
    place = other.array.ctypes.data
    monkeypatch.setattr(arrays, "_number", lambda address: int(address == place))
    with pytest.raises(ValueError, match="device 1"):
        ndw.depthwise_conv2d(there, other)
    assert number(x.ctypes.data) == 0


def test_the_callers_device_stays_its_own(rng, tensors):
    case = Case(8, 9, 4)
    x, w, b, g = draw(case, rng)
    there, grad = tensors(x), tensors(g)
    bindings = device.driver()
    device.check(bindings.cuCtxSetCurrent(2))  # the stub's context of device 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_number", lambda address: 0)
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

        def get_device(self):
            return 0

        is_cuda = True

    Torch.__module__ = "torch"
    monkeypatch.setattr(arrays, "stream_of", lambda array: 99)
    target = Torch(out.transpose(0, 3, 1, 2))
    monkeypatch.setattr(arrays, "empty_like", lambda array, shape, like, on: target)
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


def test_warmup_compiles_the_current_devices_kernels(monkeypatch):
    compiled = []
    monkeypatch.setattr(compiler, "cubin", lambda spec, cc: compiled.append((spec, cc)))
    ndw.warmup(3, activation="relu", gradients=True, backend="cuda")
    families = {spec.family for spec, _ in compiled}
    assert families == {"forward_tile", "kernel_grad_tile", "sum_parts"}
    assert {cc for _, cc in compiled} == {90}


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
