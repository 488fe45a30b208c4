"""`layer.vjp`: the layer's result, and gradients that need nothing of the layer."""

import doctest
import inspect
import threading

import numpy as np
import pytest
from cases import Case
from gradient_cases import assert_gradients_close, draw

from numbadw.layers import DepthwiseConv2D

LAYERS = [
    {"padding": "same", "strides": 2, "activation": "gelu"},
    {"padding": ((0, 1), (2, 0)), "dilation_rate": 2, "depth_multiplier": 2},
    {"use_bias": False, "activation": ("leaky_relu", 0.1)},
    {"data_format": "channels_first", "activation": "gelu", "dtype": "float64"},
]


def make(arguments, backend, rng):
    """Return a built layer with a bias that is not 0, its inputs and a gradient."""
    layer = DepthwiseConv2D(3, backend=backend, seed=3, **arguments)
    case = Case(9, 10, 19, first=layer.data_format == "channels_first", n=2)
    x = case.arrays(rng)[0].astype(layer.dtype)
    layer.build(x.shape)
    if layer.use_bias:
        layer.bias = rng.standard_normal(layer.bias.shape)
    shape = layer.compute_output_shape(x.shape)
    return layer, x, rng.standard_normal(shape).astype(layer.dtype)


def options(layer):
    names = ("strides", "padding", "dilation_rate", "data_format")
    return {name: getattr(layer, name) for name in names}


def assert_right(layer, weights, x, grad, x_grad, weight_grads):
    kernel, bias = weights if layer.use_bias else (*weights, None)
    w_grad, b_grad = weight_grads if layer.use_bias else (*weight_grads, None)
    assert type(weight_grads) is list
    for result in (x_grad, *weight_grads):
        assert result.dtype == layer.dtype
    assert_gradients_close(
        (x_grad, w_grad, b_grad),
        x.astype(layer.dtype),
        kernel,
        grad.astype(layer.dtype),
        bias,
        layer.activation,
        **options(layer),
    )


@pytest.mark.parametrize("arguments", LAYERS)
def test_results(arguments, backend, rng):
    layer, x, grad = make(arguments, backend, rng)
    y, pullback = layer.vjp(x)
    np.testing.assert_array_equal(y, layer(x))
    for _ in range(2):
        assert_right(layer, layer.get_weights(), x, grad, *pullback(grad))


def test_an_unbuilt_layer_is_built(backend):
    layer = DepthwiseConv2D(3, backend=backend, seed=1)
    y, pullback = layer.vjp(np.ones((1, 5, 6, 2), np.float32))
    assert layer.built
    x_grad, weight_grads = pullback(y)
    assert x_grad.shape == (1, 5, 6, 2)
    assert [w.shape for w in weight_grads] == [w.shape for w in layer.weights]


def test_weights_are_those_of_the_time_of_the_call(backend, rng):
    layer, x, grad = make({"activation": "gelu"}, backend, rng)
    before = layer.get_weights()
    _, pullback = layer.vjp(x)
    layer.kernel += 1
    layer.set_weights([weight - 3 for weight in layer.weights])
    assert_right(layer, before, x, grad, *pullback(grad))
    _, pullback = layer.vjp(x)
    assert_right(layer, layer.get_weights(), x, grad, *pullback(grad))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, ">f4"])
def test_floating_inputs_and_gradients_are_cast(dtype, backend, rng):
    layer, x, grad = make({}, backend, rng)
    x, grad = x.astype(dtype), grad.astype(dtype)
    for _ in range(2):
        y, pullback = layer.vjp(x)
        np.testing.assert_array_equal(y, layer(x))
        assert_right(layer, layer.get_weights(), x, grad, *pullback(grad))


def test_views_and_subclasses(backend, rng):
    class Photo(np.ndarray):
        pass

    layer, x, grad = make({"padding": "same"}, backend, rng)
    _, pullback = layer.vjp(x.view(Photo)[:, ::-1])
    ones = np.broadcast_to(np.float32(1), grad.shape)
    for right, given in ((ones, ones), (grad, grad.view(Photo))):
        x_grad, weight_grads = pullback(given)
        assert type(x_grad) is np.ndarray
        flipped = x[:, ::-1]
        assert_right(layer, layer.weights, flipped, right, x_grad, weight_grads)


def test_no_images(backend):
    layer = DepthwiseConv2D(3, backend=backend)
    y, pullback = layer.vjp(np.zeros((0, 5, 5, 2), np.float32))
    x_grad, (kernel_grad, bias_grad) = pullback(y)
    assert x_grad.shape == (0, 5, 5, 2)
    assert not kernel_grad.any()
    assert not bias_grad.any()


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "grad must be float32 or float64", lambda g: g.astype(int)),
        (TypeError, "grad must be float32 or float64", lambda g: g > 0),
        (TypeError, "grad must be a NumPy array", lambda g: g.tolist()),
        (TypeError, "grad must be a NumPy array", lambda g: 1.0),
        (TypeError, "grad must be an array without a mask", np.ma.array),
        (ValueError, "grad must have 4 dimensions", lambda g: g[0]),
        (ValueError, r"grad must .* \(2, 7, 8, 19\), got .* \(1, 7, 8, 19\)",
         lambda g: g[:1]),
    ],
)  # fmt: skip
def test_wrong_gradients(error, message, change, backend, rng):
    layer, x, grad = make({}, backend, rng)
    _, pullback = layer.vjp(x)
    with pytest.raises(error, match=message):
        pullback(change(grad))


def test_wrong_inputs_build_nothing(rng):
    layer = DepthwiseConv2D(3)
    with pytest.raises(TypeError, match="inputs must be float32 or float64"):
        layer.vjp(np.zeros((1, 5, 5, 2), int))
    with pytest.raises(ValueError, match="output size must be at least 1"):
        layer.vjp(np.zeros((1, 2, 5, 2), np.float32))
    assert not layer.built


def test_nothing_is_kept_on_the_layer(backend, rng):
    layer, x, grad = make({"activation": "gelu"}, backend, rng)
    layer(x)
    before = {name: id(value) for name, value in vars(layer).items()}
    layer.vjp(x)[1](grad)
    assert {name: id(value) for name, value in vars(layer).items()} == before


def test_many_threads_share_a_layer(backend, rng):
    layer, x, grad = make({"padding": "same", "activation": "gelu"}, backend, rng)
    batches = [(x * n, grad + n) for n in range(8)]
    right = [layer.vjp(x)[1](grad) for x, grad in batches]
    barrier, results = threading.Barrier(8), [None] * 8

    def work(number):
        x, grad = batches[number]
        barrier.wait()
        for _ in range(10):
            _, pullback = layer.vjp(x)
            results[number] = pullback(grad)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (x_grad, weight_grads), (x_right, weights_right) in zip(
        results, right, strict=True
    ):
        np.testing.assert_array_equal(x_grad, x_right)
        for a, b in zip(weight_grads, weights_right, strict=True):
            np.testing.assert_array_equal(a, b)


def test_two_layers_in_a_row_by_finite_differences(backend, rng):
    options = {"activation": "gelu", "dtype": "float64", "backend": backend}
    layers = [DepthwiseConv2D(3, seed=seed, **options) for seed in (1, 2)]
    x, *_ = draw(Case(6, 6, 2, dtype="float64"), rng)

    def loss():
        return (layers[1](layers[0](x)) ** 2).sum()

    hidden, first = layers[0].vjp(x)
    y, second = layers[1].vjp(hidden)
    hidden_grad, second_grads = second(2 * y)
    x_grad, first_grads = first(hidden_grad)
    step = 1e-5
    for array, result in zip(
        [x, *layers[0].weights, *layers[1].weights],
        [x_grad, *first_grads, *second_grads],
        strict=True,
    ):
        at = tuple(rng.integers(0, array.shape))
        value, ends = array[at], []
        for array[at] in (value + step, value - step):
            ends.append(loss())
        array[at] = value
        assert abs((ends[0] - ends[1]) / (2 * step) - result[at]) < 1e-7


def test_the_example_in_its_documentation_runs():
    method = DepthwiseConv2D.vjp
    module = inspect.getmodule(method)
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(recurse=False).find(method, "vjp", module):
        runner.run(test)
    assert runner.tries == 7
    assert runner.failures == 0
