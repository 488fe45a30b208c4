"""Warming up: no call after it compiles anything, whatever the sizes."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from cases import Case, environment, lanes
from gradient_cases import draw

import numbadw as ndw
from numbadw import checks, dispatch, functional, gradients, jit, pointwise, separable
from numbadw.cpu import jobs, kernels, launch, pairs

# Arguments of a layer that `warmup` takes, beside its kernel's size.
LAYERS = [
    (3, {}),
    (3, {"activation": "relu"}),
    (3, {"data_format": "channels_first"}),
    (3, {"strides": 2, "depth_multiplier": 3}),
    (3, {"strides": 2, "data_format": "channels_first", "activation": "relu"}),
    (3, {"depth_multiplier": 4}),
    (3, {"strides": 2, "dilation_rate": 2, "dtype": "float64"}),
    (5, {"strides": (2, 1)}),
    ((2, 3), {"strides": 4}),
    (1, {"depth_multiplier": lanes() + 1}),
]
SIZES = ((2, 6, 9), (1, 30, 1), (3, 5, 200), (1, 1, 64), (0, 7, 7), (1, 150, 151))
PADDINGS = ("same", 3, ((0, 5), (7, 1)))


def forget():
    """Start as a new process does, but for the threads, which stay."""
    for module in (functional, gradients, pointwise, separable):
        known = module._calls
        known.clear()
    for function in (
        dispatch.bind_forward,
        dispatch.bind_gradients,
        dispatch.bind_pointwise,
        dispatch.bind_pointwise_gradients,
        dispatch.bind_separable,
        kernels.kernel_address,
        launch.serial_driver,
        launch.parallel_driver,
        jobs.serial_driver,
        jobs.parallel_driver,
        pairs.pair_kernel,
    ):
        function.cache_clear()


def cases(size, options):
    """Yield layers of this kind with other numbers of everything."""
    kernel = checks.pair(size, "kernel_size")
    m = options.get("depth_multiplier", 1)
    strides, dilation = (
        checks.pair(options.get(name, 1), name) for name in ("strides", "dilation_rate")
    )
    first = options.get("data_format") == "channels_first"
    dtype = options.get("dtype", "float32")
    vector = lanes(dtype)
    for c in (1, 2, 3, 4, vector // 2 + 1, vector, 5 * vector + 3):
        for i, (n, h, w) in enumerate(SIZES):
            padding = PADDINGS[(c + i) % len(PADDINGS)]
            case = Case(h, w, c, m, kernel, strides, padding, dilation, first, dtype, n)
            g = case.geometry
            if g.oh > 0 and g.ow > 0:
                yield case


@pytest.fixture
def warm(monkeypatch):
    """Give what warms up as in a new process, and lets nothing compile after it."""

    def warm(size, **options):
        forget()
        ndw.warmup(size, **options)
        for name in ("compile_kernel", "compile_driver", "compile_c_function"):
            monkeypatch.setattr(jit, name, None)

    yield warm
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(("size", "options"), LAYERS, ids=str)
def test_nothing_is_compiled_after_it(size, options, rng, warm):
    warm(size, gradients=True, **options)
    activation = options.get("activation")
    for case in cases(size, options):
        x, w, b, g = draw(case, rng)
        ndw.depthwise_conv2d(x, w, b, activation=activation, **case.options)
        ndw.depthwise_conv2d_grad(
            x, w, g, bias=b, activation=activation, **case.options
        )
        ndw.depthwise_conv2d_input_grad(g, w, x.shape, **case.options)
        ndw.depthwise_conv2d_kernel_grad(x, g, w.shape, **case.options)


@pytest.mark.parametrize("first", [False, True], ids=["nlc", "ncl"])
@pytest.mark.parametrize(
    ("k", "stride", "activation"), [(4, 1, "silu"), (9, 2, None), (40, 1, None)]
)
def test_sequences_are_images_of_one_row(k, stride, activation, first, rng, warm):
    layout = {"data_format": "channels_first" if first else "channels_last"}
    options = {**layout, "activation": activation}
    warm((1, k), strides=(1, stride), gradients=True, **options)
    for c, length in itertools.product((1, 3, lanes(), 5 * lanes() + 3), (50, 3000)):
        shape = (2, c, length) if first else (2, length, c)
        x = rng.standard_normal(shape, np.float32)
        kernel = rng.standard_normal((k, c, 1), np.float32)
        for padding in ("causal", "same", 3):
            given = {"padding": padding, "strides": stride, **options}
            y = ndw.depthwise_conv1d(x, kernel, **given)
            ndw.depthwise_conv1d_grad(x, kernel, y, **given)
        if stride == 1 and not first:
            state = np.zeros((2, k - 1, c), np.float32)
            ndw.depthwise_conv1d_update(state, x[:, 0], kernel, activation=activation)


@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pointwise_and_separable_ones(dtype, first, rng, warm, monkeypatch):
    monkeypatch.setattr("numbadw.cpu.separable.LEAST_BYTES", 0)
    options = {
        "activation": "relu6",
        "data_format": "channels_first" if first else "channels_last",
    }
    warm(3, dtype=dtype, pointwise=True, gradients=True, **options)
    width = lanes(dtype)
    sizes = (1, width, 2 * width + 1, 3 * width, 9 * width)
    for (c, f), (h, w) in itertools.product(
        itertools.product(sizes, sizes), ((5, 6), (1, 40), (70, 61))
    ):
        shape = (1, c, h, w) if first else (1, h, w, c)
        x, depthwise, matrix = (
            rng.standard_normal(size).astype(dtype)
            for size in (shape, (3, 3, c, 1), (c, f))
        )
        y = ndw.pointwise_conv2d(x, matrix, **options)
        ndw.pointwise_conv2d_grad(x, matrix, y, **options)
        for between in (None, "relu6"):
            given = {"depthwise_activation": between, "padding": "same", **options}
            ndw.separable_conv2d(x, depthwise, matrix, **given)


CHILD = """
import numpy as np
from numba.core import event
import numbadw as ndw
x, k = np.ones((2, 64, 64, 64), "f4"), np.ones((1, 1, 64, 1), "f4")
with event.install_recorder("numba:run_pass") as passes:
    y = ndw.depthwise_conv2d(x, k)
    results = ndw.depthwise_conv2d_grad(x, k, y)
    ndw.depthwise_conv2d_input_grad(y, k, x.shape)
    ndw.depthwise_conv2d_kernel_grad(x, y, k.shape)
assert np.array_equal(results[0], x)
print(len(passes.buffer))
"""


def test_the_command_serves_other_processes(tmp_path):
    # Beside the kernels: what calls them, and what the threads run.
    def run(*arguments):
        result = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            env=environment(NUMBADW_CACHE_DIR=str(tmp_path)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run("-m", "numbadw", "warmup", "1", "--gradients") == ""
    assert run("-c", CHILD) == "0\n"


@pytest.mark.parametrize("gradients", [False, True])
def test_without_compiling_there_is_nothing_to_do(gradients):
    ndw.warmup(3, gradients=gradients, backend="reference")
    code = f"import numbadw; numbadw.warmup(3, gradients={gradients})"
    subprocess.run(
        [sys.executable, "-c", code], env=environment(NUMBA_DISABLE_JIT="1"), check=True
    )
