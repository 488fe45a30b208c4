"""A CUDA driver without a device, and device arrays whose memory is the host's.

Device memory is the host's and a launch runs the kernel's thread body on the CPU, so
plans, addresses, streams, chunks and results are those of a real call; only machine
code, asynchrony and speed are not there.  `test_cuda_host.py` builds the driver and
runs what imports this in a child.
"""

import ctypes

import cuda_native
import numpy as np
import pytest

from numbadw.cuda import arrays, dlpack
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
    run(cuda_native.SCENE, 0, *grid[:3], *values[:6], sizes, slope)


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
    dlpack._HELD.clear()
    assert STUB.stub_live() <= before + 64, "the uploads of one test are few"


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

    def reshape(self, shape):
        return Tensor(self.array.reshape(shape))

    def __getitem__(self, index):
        return Tensor(self.array[index])

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

    def empty_like(array, shape, like, on):
        return Tensor(np.full(shape, np.nan, array.dtype), on)

    monkeypatch.setattr(arrays, "empty_like", empty_like)
    return Tensor
