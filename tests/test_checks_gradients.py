"""What the gradients refuse, what they say, and that a good call excuses no bad one."""

import numpy as np
import pytest
from cases import Case
from gradient_cases import draw
from views import Plain

import numbadw as ndw

CASE = Case(6, 7, 5, 2, n=2)
OPTIONS = {"padding": "same"}


@pytest.fixture
def arrays(rng):
    """Return inputs, kernel, bias and gradient of calls that were made once already."""
    x, k, b, g = draw(CASE, rng)
    for backend in ("auto", "cpu", "reference"):
        options = {**OPTIONS, "backend": backend}
        ndw.depthwise_conv2d_grad(x, k, g, bias=b, **options)
        for out in (None, np.empty_like(x)):
            ndw.depthwise_conv2d_input_grad(g, k, x.shape, out=out, **options)
        for out in (None, np.empty_like(k)):
            ndw.depthwise_conv2d_kernel_grad(x, g, k.shape, out=out, **options)
    return x, k, b, g


def input_grad(x, k, b, g, **options):
    shape = options.pop("input_shape", (2, 6, 7, 5))
    return ndw.depthwise_conv2d_input_grad(g, k, shape, **options)


def kernel_grad(x, k, b, g, **options):
    shape = options.pop("kernel_shape", (3, 3, 5, 2))
    return ndw.depthwise_conv2d_kernel_grad(x, g, shape, **options)


def grad(x, k, b, g, **options):
    return ndw.depthwise_conv2d_grad(x, k, g, bias=b, **options)


EVERY = [input_grad, kernel_grad, grad]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (TypeError, "strides", True),
        (TypeError, "strides", 1.0),
        (TypeError, "strides", (1, True)),
        (TypeError, "strides", None),
        (ValueError, "strides", 0),
        (TypeError, "dilation_rate", True),
        (TypeError, "dilation_rate", np.float32(1)),
        (ValueError, "dilation_rate", (1, 1, 1)),
        (TypeError, "padding", False),
        (TypeError, "padding", 1.0),
        (TypeError, "padding", ((1, 1), (1, True))),
        (ValueError, "padding", -1),
        (ValueError, "padding", "full"),
        (TypeError, "data_format", None),
        (TypeError, "data_format", ["channels_last"]),
        (ValueError, "data_format", "NHWC"),
        (TypeError, "backend", 0),
        (ValueError, "backend", "gpu"),
    ],
)
def test_options(error, name, value, function, backend, arrays):
    options = {**OPTIONS, "backend": backend, name: value}
    with pytest.raises(error, match=name):
        function(*arrays, **options)


@pytest.mark.parametrize(
    ("error", "value"),
    [
        (TypeError, 1),
        (TypeError, ("leaky_relu", "0.1")),
        (TypeError, ("leaky_relu", [0.1])),
        (TypeError, ("leaky_relu", True)),
        (ValueError, "reluu"),
        (ValueError, ("relu", 1)),
        (ValueError, ("elu", np.inf)),
    ],
)
def test_activations(error, value, arrays):
    with pytest.raises(error, match="activation"):
        grad(*arrays, activation=value, **OPTIONS)


@pytest.mark.parametrize(
    ("error", "shape", "message"),
    [
        (TypeError, None, "got None of type NoneType"),
        (TypeError, 7, "got 7 of type int"),
        (TypeError, np.array([2, 6, 7, 5]), "of type ndarray"),
        (TypeError, (2.0, 6, 7, 5), "of type float"),
        (TypeError, (2, True, 7, 5), "of type bool"),
        (TypeError, (2, np.bool_(True), 7, 5), "of type bool"),
        (TypeError, (2, None, 7, 5), "of type NoneType"),
        (ValueError, (2, 6, 7), r"of length 3"),
        (ValueError, (2, 6, 7, 5, 1), r"of length 5"),
        (ValueError, (2, -6, 7, 5), r"got \(2, -6, 7, 5\)"),
    ],
)
def test_shapes(error, shape, message, arrays):
    expected = r"input_shape must be \(N, H, W, C\) or \(N, C, H, W\), four ints >= 0"
    with pytest.raises(error, match=f"{expected}.*{message}"):
        input_grad(*arrays, input_shape=shape, **OPTIONS)
    expected = r"kernel_shape must be \(kh, kw, C, M\), four ints >= 1"
    with pytest.raises(error, match=f"{expected}.*{message}"):
        kernel_grad(*arrays, kernel_shape=shape, **OPTIONS)


@pytest.mark.parametrize("make", [list, np.int64])
def test_shapes_of_other_integers(make, arrays):
    def other(shape):
        return list(shape) if make is list else tuple(map(make, shape))

    x, k, _, _ = arrays
    for function, name, shape in (
        (input_grad, "input_shape", x.shape),
        (kernel_grad, "kernel_shape", k.shape),
    ):
        result = function(*arrays, **{name: other(shape)}, **OPTIONS)
        assert result.shape == shape
        np.testing.assert_array_equal(result, function(*arrays, **OPTIONS))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 6, 7, 4), r"kernel must have as many input channels as inputs: .*C = 5"),
        ((2, 6, 7, 0), "kernel must have as many input channels"),
        ((2, 6, 8, 5), r"grad must have the output's shape \(2, 6, 8, 10\), got ndarr"),
        ((3, 6, 7, 5), r"grad must .*\(3, 6, 7, 10\).* shape \(2, 6, 7, 10\): inputs"),
        ((0, 6, 7, 5), r"grad must have the output's shape \(0, 6, 7, 10\)"),
        ((2, 0, 7, 5), "the output must have at least one row"),
    ],
)
def test_input_shapes_that_do_not_fit(shape, message, arrays):
    with pytest.raises(ValueError, match=message):
        input_grad(*arrays, input_shape=shape, **OPTIONS)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 4, 2), "kernel must have as many input channels as inputs"),
        ((3, 3, 5, 3), r"grad must have the output's shape \(2, 6, 7, 15\), got"),
        ((0, 3, 5, 2), "four ints >= 1"),
        ((3, 3, 5, 0), "four ints >= 1"),
    ],
)
def test_kernel_shapes_that_do_not_fit(shape, message, arrays):
    with pytest.raises(ValueError, match=message):
        kernel_grad(*arrays, kernel_shape=shape, **OPTIONS)


def test_grad_names_all_that_gives_its_shape(arrays):
    x, k, b, g = arrays
    message = (
        r"grad must have the output's shape \(2, 3, 2, 10\), got ndarray of dtype "
        r"float32 and shape \(2, 6, 7, 10\): inputs has shape \(2, 6, 7, 5\) and "
        r"kernel has shape \(3, 3, 5, 2\), with strides \(2, 3\), padding "
        r"\(\(1, 2\), \(0, 0\)\) and dilation_rate \(2, 1\)"
    )
    options = {"strides": (2, 3), "padding": ((1, 2), (0, 0)), "dilation_rate": (2, 1)}
    for function in EVERY:
        with pytest.raises(ValueError, match=message):
            function(x, k, b, g, **options)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "be a NumPy array", lambda a: a.tolist()),
        (TypeError, "be a NumPy array", lambda a: None),
        (TypeError, "be an array without a mask", np.ma.array),
        (TypeError, "be float32", lambda a: a.astype("c8")),
        (TypeError, "be float32", lambda a: a.astype(object)),
        (TypeError, "be float32", lambda a: a > 0),
        (TypeError, "be float32", lambda a: a.astype("i8")),
        (ValueError, "have 4 dimensions", lambda a: a[0]),
        (ValueError, "have 4 dimensions", lambda a: a[None]),
    ],
)
def test_arrays(error, message, change, function, arrays):
    read = {"input_grad": (1, 3), "kernel_grad": (0, 3), "grad": (0, 1, 3)}
    names = ("inputs", "kernel", "bias", "grad")
    for which in read[function.__name__]:
        others = list(arrays)
        others[which] = change(others[which])
        for _ in range(2):
            with pytest.raises(error, match=f"{names[which]} must {message}"):
                function(*others, **OPTIONS)


def test_dtypes_that_do_not_cast_safely(arrays):
    x, k, b, g = arrays
    with pytest.raises(TypeError, match="kernel must be float32 as grad, or a number"):
        input_grad(x, k.astype("f8"), b, g, **OPTIONS)
    for function in (kernel_grad, grad):
        with pytest.raises(TypeError, match="grad must be float32 as inputs, or a num"):
            function(x, k, b, g.astype("f8"), **OPTIONS)
    with pytest.raises(TypeError, match="grad must be float32 or float64, got ndarray"):
        input_grad(x, k, b, g.astype("f2"), **OPTIONS)
    for half in ("f2", "i4"):
        with pytest.raises(TypeError, match="inputs must be float32 or float64"):
            grad(x.astype(half), k, b, g, **OPTIONS)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "bias must be float32 as inputs", lambda b: b.astype("f8")),
        (TypeError, "bias must be float32 as inputs", lambda b: b > 0),
        (TypeError, "bias must be a NumPy array", lambda b: b.tolist()),
        (TypeError, "bias must be an array without a mask", np.ma.array),
        (ValueError, r"bias must have shape \(C\*M,\) = \(10,\)", lambda b: b[:-1]),
        (ValueError, "bias must have 1 dimension", lambda b: b[None]),
    ],
)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_biases(error, message, change, activation, arrays):
    x, k, b, g = arrays
    with pytest.raises(error, match=message):
        grad(x, k, change(b), g, activation=activation, **OPTIONS)


def frozen(out):
    out.flags.writeable = False
    return out


@pytest.mark.parametrize("function", [input_grad, kernel_grad])
@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "out must be a NumPy array", lambda out: out.tolist()),
        (TypeError, "out must be an array without a mask", np.ma.array),
        (TypeError, "out must have dtype float32", lambda out: out.astype("f8")),
        (TypeError, "out must have dtype float32", lambda out: out.astype(">f4")),
        (ValueError, "out must have shape", lambda out: out[:1]),
        (ValueError, "out must have shape", lambda out: out.ravel()),
        (ValueError, "out must be writable", frozen),
        (
            ValueError,
            "out must hold every element in memory of its own",
            lambda out: np.lib.stride_tricks.as_strided(out, strides=(0, 4, 4, 4)),
        ),
    ],
)
def test_out(error, message, change, function, arrays):
    x, k, _, _ = arrays
    out = change(np.full_like(x if function is input_grad else k, 5))
    for backend in ("cpu", "reference"):
        with pytest.raises(error, match=message):
            function(*arrays, out=out, backend=backend, **OPTIONS)
    assert (np.asarray(out) == 5).all()


@pytest.mark.parametrize("which", [0, 1, 3])
def test_out_may_overlap_nothing_that_is_read(which, rng):
    # A 1x1 kernel of C = 36 makes every array one of 36 elements.
    names = ("inputs", "kernel", "bias", "grad")
    arrays = list(draw(Case(1, 1, 36, kernel=(1, 1)), rng))
    shape = (1, 1, 1, 36)
    pool = np.ones(60, "f4")
    overlapping = list(arrays)
    overlapping[which] = pool[:36].reshape(arrays[which].shape)
    for function, more, result, unread in (
        (input_grad, {"input_shape": shape}, shape, 0),
        (kernel_grad, {"kernel_shape": (1, 1, 36, 1)}, (1, 1, 36, 1), 1),
    ):
        target = pool[20:56].reshape(result)
        for _ in range(2):
            function(*arrays, out=np.zeros(result, "f4"), **more)
            if which == unread:
                continue
            with pytest.raises(ValueError, match=f"not overlap {names[which]}"):
                function(*overlapping, out=target, **more)
            assert (pool == 1).all()


class Device:
    """An array that says that it lives on a CUDA device."""

    def __dlpack_device__(self):
        """Name CUDA's first device."""
        return 2, 0


@pytest.mark.parametrize("function", EVERY)
def test_cuda_is_an_error_that_says_why(function, arrays):
    with pytest.raises(ndw.BackendUnavailableError, match=r"backend='cuda' .*'cpu'"):
        function(*arrays, backend="CUDA", **OPTIONS)
    leading = 3 if function is input_grad else 0
    others = list(arrays)
    others[leading] = Device()
    with pytest.raises(ndw.BackendUnavailableError):
        function(*others, **OPTIONS)
    with pytest.raises(TypeError, match="Device on a CUDA device"):
        function(*others, backend="cpu", **OPTIONS)
    others = list(arrays)
    others[1 if function is input_grad else 3] = Device()
    with pytest.raises(TypeError, match="must be a NumPy array here, got a Device"):
        function(*others, **OPTIONS)


@pytest.mark.parametrize("function", EVERY)
def test_names_in_any_case_and_subclasses(function, arrays, backend):
    right = function(*arrays, backend=backend, **OPTIONS)
    plain = [array.view(Plain) for array in arrays]
    result = function(
        *plain, backend=backend.upper(), data_format="Channels_Last", padding="SAME"
    )
    for a, b in zip(result, right, strict=True):
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, b)


def test_out_of_a_subclass_is_returned(arrays):
    x, k, _, _ = arrays
    for function, like in ((input_grad, x), (kernel_grad, k)):
        out = np.empty_like(like).view(Plain)
        assert function(*arrays, out=out, **OPTIONS) is out
        np.testing.assert_array_equal(np.asarray(out), function(*arrays, **OPTIONS))
