"""Every rule of `checks`, and what its message says."""

import numpy as np
import pytest

from numbadw import checks

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


class Plain(np.ndarray):
    """A subclass, to be read as a plain array."""


class Device:
    """An array that says through one protocol where it lives."""

    def __init__(self, dlpack=None, interface=False):
        if dlpack is not None:
            self.__dlpack_device__ = lambda: (dlpack, 0)
        if interface:
            self.__cuda_array_interface__ = {}


def masked():
    return np.ma.masked_array(np.zeros((1, 2, 2, 1), F32), mask=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, (2, 2)),
        ((2, 3), (2, 3)),
        ([4, 5], (4, 5)),
        (np.int8(3), (3, 3)),
        ((np.int64(3), np.uint16(1)), (3, 1)),
    ],
)
def test_pair(value, expected):
    result = checks.pair(value, "strides")
    assert result == expected
    assert [type(item) for item in result] == [int, int]


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0, ValueError, "got 0"),
        (-1, ValueError, "got -1"),
        (2**31, ValueError, r"all below 2\*\*31, got 2147483648"),
        ((1, 2**200), ValueError, r"all below 2\*\*31, got \(1, "),
        (np.uint64(2**63), ValueError, r"all below 2\*\*31"),
        ((1, 0), ValueError, r"got \(1, 0\)"),
        ((1,), ValueError, r"got \(1,\) of length 1"),
        ([1, 1, 1], ValueError, r"got \[1, 1, 1\] of length 3"),
        ((), ValueError, "of length 0"),
        (True, TypeError, "got True of type bool"),
        (np.bool_(True), TypeError, "of type bool"),
        (2.0, TypeError, "got 2.0 of type float"),
        (np.float32(2), TypeError, "of type float32"),
        ((1, 2.0), TypeError, r"got \(1, 2.0\) of type float"),
        ((1, (2,)), TypeError, "of type tuple"),
        ("2", TypeError, "got '2' of type str"),
        (None, TypeError, "got None of type NoneType"),
        (np.array([1, 2]), TypeError, "of type ndarray"),
    ],
)
def test_pair_errors(value, error, shown):
    with pytest.raises(error, match=f"strides must be a positive int or a .*{shown}"):
        checks.pair(value, "strides")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("valid", "valid"),
        ("SAME", "same"),
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        (np.int32(2), ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, np.int8(0)], ((1, 1), (0, 0))),
        (((1, 2), (3, 4)), ((1, 2), (3, 4))),
        ([[1, 2], (3, np.uint8(4))], ((1, 2), (3, 4))),
    ],
)
def test_padding(value, expected):
    result = checks.padding(value)
    assert result == expected
    hash(result)


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        ("full", ValueError, "got 'full'"),
        ("causal", ValueError, "got 'causal'"),
        (2**31, ValueError, r"all below 2\*\*31, got 2147483648"),
        ((0, 2**62), ValueError, r"all below 2\*\*31"),
        (((0, 0), (2**64, 0)), ValueError, r"all below 2\*\*31"),
        (-1, ValueError, "got -1"),
        ((0, -1), ValueError, r"got \(0, -1\)"),
        (((0, 0), (0, -1)), ValueError, "-1"),
        ((1, 2, 3), ValueError, "of length 3"),
        (((1, 2), (3,)), ValueError, r"got \(\(1, 2\), \(3,\)\)"),
        ((1, (2, 3)), TypeError, "mixes ints and pairs"),
        (True, TypeError, "of type bool"),
        (1.0, TypeError, "of type float"),
        ((1, False), TypeError, "of type bool"),
        (((1, 1), (1, 1.0)), TypeError, "of type float"),
        (None, TypeError, "of type NoneType"),
    ],
)
def test_padding_errors(value, error, shown):
    with pytest.raises(error, match=f"padding must be 'valid', 'same', an .*{shown}"):
        checks.padding(value)


def test_names_are_case_insensitive():
    assert checks.data_format("Channels_First") is True
    assert checks.data_format("channels_last") is False
    assert [checks.backend(name) for name in ("AUTO", "cpu", "Cuda", "reference")] == [
        *("auto", "cpu", "cuda", "reference")
    ]


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        ("data_format", "NHWC", ValueError, "'channels_last', 'channels_first'; got "),
        ("data_format", None, TypeError, "data_format must be .* of type NoneType"),
        ("backend", "gpu", ValueError, "backend must be one of 'auto', .*; got 'gpu'"),
        ("backend", 1, TypeError, "backend must be one of .* got 1 of type int"),
    ],
)
def test_name_errors(check, value, error, message):
    with pytest.raises(error, match=message):
        getattr(checks, check)(value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_input_is_never_copied(dtype):
    whole = np.zeros((4, 6, 6, 8), dtype)
    raw = np.zeros(2 * 3 * 3 * 4 * whole.itemsize + 1, np.uint8)
    read_only = whole.view()
    read_only.flags.writeable = False
    for array in (
        whole,
        whole[::-2, 1:5, ::2, ::-1],
        whole.transpose(3, 1, 0, 2),
        np.broadcast_to(whole[:1], whole.shape),
        raw[1:].view(dtype).reshape(2, 3, 3, 4),
        read_only,
    ):
        assert checks.input_array(array, "inputs") is array


def test_subclass_is_viewed_as_plain():
    array = np.ones((1, 2, 2, 1), np.float32)
    for other in (array.view(Plain), array.view(np.memmap)):
        result = checks.input_array(other, "inputs")
        assert type(result) is np.ndarray
        assert np.shares_memory(result, array)


@pytest.mark.parametrize("native", [F32, F64])
def test_byte_swapped_input_becomes_native(native):
    array = np.arange(8.0).reshape(1, 2, 2, 2).astype(native.newbyteorder())
    result = checks.input_array(array, "inputs")
    assert result.dtype == native
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    "dtype", ["i4", "u1", "?", "f2", "c8", "O", "g", "S3", "m8[s]", "f4,f4"]
)
def test_input_dtype_errors(dtype):
    with pytest.raises(TypeError, match="inputs must be float32 or float64, got nda"):
        checks.input_array(np.zeros((1, 2, 2, 1), dtype), "inputs")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (masked(), "inputs must be an array without a mask, got MaskedArray"),
        ([[[[1.0]]]], "inputs must be a NumPy array, got an object of type list"),
        (None, "inputs must be a NumPy array, got an object of type NoneType"),
        (np.float32(1), "of type float32"),
        (Device(dlpack=1), "inputs must be a NumPy array, got an object of type Dev"),
        (Device(dlpack=2), "NumPy array here, got a Device on a CUDA device"),
    ],
)
def test_input_type_errors(value, message):
    with pytest.raises(TypeError, match=message):
        checks.input_array(value, "inputs")


@pytest.mark.parametrize("shape", [(), (2, 2), (2, 2, 1), (1, 1, 2, 2, 1)])
def test_input_dimensions(shape):
    with pytest.raises(ValueError, match=r"must have 4 dimensions, got .* shape \("):
        checks.input_array(np.zeros(shape), "inputs")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *[(name, "f4") for name in ("f4", ">f4", "f2", "i1", "u1", "i2", "u2")],
        *[(name, "f8") for name in ("f8", ">f8", "f4", "f2", "i4", "i8", "u8")],
    ],
)
def test_weights_are_converted(theirs, ours):
    values = np.arange(24).reshape(2, 3, 4, 1)
    result = checks.weight_array(values.astype(theirs), "kernel", 4, ours)
    assert result.dtype == np.dtype(ours)
    assert result.flags.c_contiguous
    assert result.flags.aligned
    np.testing.assert_array_equal(result, values)


def test_good_weights_are_not_copied():
    kernel = np.ones((3, 3, 2, 1), np.float32)
    assert np.shares_memory(checks.weight_array(kernel, "kernel", 4, F32), kernel)


@pytest.mark.parametrize("case", ["transposed", "reversed", "misaligned", "subclass"])
def test_odd_weights_become_contiguous_and_aligned(case):
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4, 1)
    raw = np.zeros(values.nbytes + 1, np.uint8)[1:].view(np.float64)
    raw[:] = values.ravel()
    array = {
        "transposed": values.transpose(2, 1, 0, 3),
        "reversed": values[::-1, :, ::2],
        "misaligned": raw.reshape(values.shape),
        "subclass": values.view(Plain),
    }[case]
    result = checks.weight_array(array, "kernel", 4, F64)
    assert type(result) is np.ndarray
    assert result.flags.c_contiguous
    assert result.flags.aligned
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *[(name, "f4") for name in ("f8", "i4", "u8", "?", "c8", "O", "S1", "m8[s]")],
        *[(name, "f8") for name in ("?", "c16", "O", "M8[s]")],
    ],
)
def test_weight_dtype_errors(theirs, ours):
    expected = f"kernel must be {np.dtype(ours)} as inputs, .* got ndarray of dtype"
    with pytest.raises(TypeError, match=expected):
        checks.weight_array(np.zeros((1, 1, 1, 1), theirs), "kernel", 4, ours)


def test_weight_type_and_dimension_errors():
    with pytest.raises(TypeError, match="kernel must be an array without a mask"):
        checks.weight_array(masked(), "kernel", 4, F32)
    with pytest.raises(TypeError, match=r"kernel must be a NumPy array, got .* list"):
        checks.weight_array([1.0], "kernel", 4, F32)
    with pytest.raises(TypeError, match=r"kernel must be a NumPy array here.*CUDA dev"):
        checks.weight_array(Device(interface=True), "kernel", 4, F32)
    with pytest.raises(ValueError, match=r"kernel must have 4 dim.* shape \(3, 3, 2\)"):
        checks.weight_array(np.zeros((3, 3, 2), F32), "kernel", 4, F32)


def test_bias():
    assert checks.bias_array(None, 6, F32) is None
    result = checks.bias_array(np.arange(12, dtype=np.int8)[::2], 6, F32)
    np.testing.assert_array_equal(result, np.arange(0, 12, 2))
    with pytest.raises(ValueError, match=r"bias must have shape \(C\*M,\) = \(6,\), g"):
        checks.bias_array(np.zeros(1, F32), 6, F32)
    with pytest.raises(ValueError, match=r"bias must have 1 dim.*shape \(6, 1\)"):
        checks.bias_array(np.zeros((6, 1), F32), 6, F32)
    with pytest.raises(TypeError, match="bias must be float32 as inputs"):
        checks.bias_array(np.zeros(6, bool), 6, F32)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Device(dlpack=2), True),
        (Device(dlpack=13), True),
        (Device(dlpack=1), False),
        (Device(dlpack=1, interface=True), False),
        (Device(interface=True), True),
        (np.zeros(1), False),
        (np.ndarray, False),
        (None, False),
        ([1.0], False),
    ],
)
def test_is_device_array(value, expected):
    assert checks.is_device_array(value) is expected
