"""PyTorch, TensorFlow and JAX: the operator and its gradients on their own tensors."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbadw.bench.peers.prepared import (
    Prepared,
    Unavailable,
    in_layout,
    oihw,
    require,
)
from numbadw.bench.workloads import Workload, make_grad
from numbadw.convert import kernel_from_torch

Array = NDArray[Any]

# JAX runs at 1 GFLOP/s on the CPU whatever the layout: above this a call takes 0.1 s.
JAX_FLOPS = 100_000_000


class Place:
    """Where PyTorch's tensors lie and how results are read: on the CPU."""

    def images(self, tensor: Any, workload: Workload) -> list[Any]:
        """Give the tensors that calls take in turn."""
        return [tensor]

    def weight(self, tensor: Any, workload: Workload) -> Any:
        """Give a tensor that all calls take."""
        return tensor

    def read(self, tensor: Any) -> Array:
        """Give a result as an array."""
        return np.asarray(tensor.numpy())

    def call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give a function as it is called here."""
        return function


ON_CPU = Place()


def in_turn(
    function: Callable[..., Any], sets: Sequence[tuple[Any, ...]]
) -> Callable[[], Any]:
    """Make a call that takes one set of arguments after the other."""
    if len(sets) == 1:
        return partial(function, *sets[0])
    turns = itertools.cycle(sets)
    return lambda: function(*next(turns))


def prepare_torch(
    layout: str,
    workload: Workload,
    inputs: Array,
    kernel: Array,
    threads: int,
    place: Place = ON_CPU,
) -> Prepared:
    """Prepare `torch.nn.functional.conv2d` on data in NHWC or NCHW memory order."""
    torch = require("torch")
    torch.set_num_threads(threads)
    images = place.images(_torch_images(inputs, layout), workload)
    weight = place.weight(_torch_weight(kernel, layout), workload)
    padding = workload.symmetric_padding()
    arguments = (
        (workload.sh, workload.sw),
        (padding[0][0], padding[1][0]),
        (workload.dh, workload.dw),
        workload.c,
    )
    conv2d = place.call(torch.nn.functional.conv2d)
    call = in_turn(conv2d, [(data, weight, None, *arguments) for data in images])

    def fetch() -> Array:
        return place.read(call().permute(0, 2, 3, 1))

    return Prepared(call, fetch, padding)


def prepare_torch_gradients(
    layout: str,
    wanted: tuple[bool, bool, bool],
    workload: Workload,
    inputs: Array,
    kernel: Array,
    threads: int,
    place: Place = ON_CPU,
) -> Prepared:
    """Prepare PyTorch's backward pass, on data in NHWC or NCHW memory order.

    `wanted` are the gradients computed: at the input, the kernel and the bias.
    """
    torch = require("torch")
    torch.set_num_threads(threads)
    padding = workload.symmetric_padding()
    grad = make_grad(workload._replace(n=len(inputs)), padding)
    grads, images = (
        place.images(_torch_images(array, layout), workload) for array in (grad, inputs)
    )
    arguments = (
        place.weight(_torch_weight(kernel, layout), workload),
        [workload.c * workload.m],
        [workload.sh, workload.sw],
        [padding[0][0], padding[1][0]],
        [workload.dh, workload.dw],
        False,  # not transposed
        [0, 0],
        workload.c,
        wanted,
    )
    backward = place.call(torch.ops.aten.convolution_backward.default)
    sets = [(*pair, *arguments) for pair in zip(grads, images, strict=True)]
    call = in_turn(backward, sets)

    def fetch() -> tuple[Array, ...]:
        images, weight, bias = call()
        results: list[Array] = []
        if wanted[0]:
            results.append(place.read(images.permute(0, 2, 3, 1)))
        if wanted[1]:
            results.append(kernel_from_torch(place.read(weight), workload.m))
        if wanted[2]:
            results.append(place.read(bias))
        return tuple(results)

    return Prepared(call, fetch, padding)


def _torch_images(images: Array, layout: str) -> Any:
    """Give (n, h, w, c) as a tensor (n, c, h, w) in memory of the layout."""
    torch = require("torch")
    # Tensors made in inference mode need no mode, and no autograd, in the timed call.
    with torch.inference_mode():
        tensor = torch.from_numpy(in_layout(images, layout))
        return tensor.permute(0, 3, 1, 2) if layout == "NHWC" else tensor


def _torch_weight(kernel: Array, layout: str) -> Any:
    """Give the kernel as a tensor (c * m, 1, kh, kw) in memory of the layout."""
    torch = require("torch")
    with torch.inference_mode():
        weight = torch.from_numpy(oihw(kernel))
        last = layout == "NHWC"
        return weight.to(memory_format=torch.channels_last) if last else weight


def prepare_tensorflow(
    workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare `tf.nn.depthwise_conv2d`, or the operator beneath it where it serves.

    The operator is called eagerly: 14x14x512 3x3 takes 33 us, a traced function of it
    130 us, and XLA's code 1.5 ms (Zen 5, one thread).
    """
    tf = _tensorflow(workload, threads)
    data, weight = tf.constant(inputs), tf.constant(kernel)
    strides, padding = [1, workload.sh, workload.sw, 1], workload.padding.upper()
    dilated = (workload.dh, workload.dw) != (1, 1)

    def plain() -> Any:
        return tf.raw_ops.DepthwiseConv2dNative(
            input=data, filter=weight, strides=strides, padding=padding
        )

    def spread() -> Any:
        dilations = [workload.dh, workload.dw]
        return tf.nn.depthwise_conv2d(
            data, weight, strides, padding, dilations=dilations
        )

    call = spread if dilated else plain

    def fetch() -> Array:
        return np.asarray(call().numpy())

    return Prepared(call, fetch, workload.padding)


def prepare_tensorflow_gradients(
    wanted: tuple[bool, bool, bool],
    workload: Workload,
    inputs: Array,
    kernel: Array,
    threads: int,
) -> Prepared:
    """Prepare TensorFlow's operators of the gradients, called eagerly."""
    tf = _tensorflow(workload, threads)
    if (workload.dh, workload.dw) != (1, 1):
        raise Unavailable("TensorFlow's operators of the gradients have no dilation")
    data, weight = tf.constant(inputs), tf.constant(kernel)
    grad = tf.constant(make_grad(workload, workload.padding))
    options = {
        "out_backprop": grad,
        "strides": [1, workload.sh, workload.sw, 1],
        "padding": workload.padding.upper(),
    }
    parts: tuple[Callable[[], Any], ...] = (
        lambda: tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=workload.input_shape, filter=weight, **options
        ),
        lambda: tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=data, filter_sizes=workload.kernel_shape, **options
        ),
        lambda: tf.raw_ops.BiasAddGrad(out_backprop=grad),
    )
    chosen = [part for part, want in zip(parts, wanted, strict=True) if want]

    def call() -> list[Any]:
        return [part() for part in chosen]

    def fetch() -> tuple[Array, ...]:
        return tuple(np.asarray(result.numpy()) for result in call())

    return Prepared(call, fetch, workload.padding)


def _tensorflow(workload: Workload, threads: int) -> ModuleType:
    """Give TensorFlow with its threads set, which can be done once in a process."""
    tf = require("tensorflow")
    if workload.sh != workload.sw:
        raise Unavailable("TensorFlow's operator takes equal strides alone")
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise Unavailable(f"TensorFlow's threads stay as they are: {error}") from (
                error
            )
    return tf


def prepare_jax(
    workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare `jax.lax.conv_general_dilated`, compiled, channels last."""
    del threads  # the environment says it, before JAX starts: targets.py
    jax = require("jax")
    data, weight = jax.device_put(inputs), jax.device_put(hwio(kernel))
    compiled = jax.jit(jax_convolution(jax, workload)).lower(data, weight).compile()

    def call() -> Any:
        return compiled(data, weight).block_until_ready()

    return Prepared(call, lambda: np.asarray(call()), workload.padding)


def prepare_jax_gradients(
    wanted: tuple[bool, bool, bool],
    workload: Workload,
    inputs: Array,
    kernel: Array,
    threads: int,
) -> Prepared:
    """Prepare the gradients that JAX derives of its convolution, compiled."""
    del threads
    jax = require("jax")
    convolve = jax_convolution(jax, workload)

    def gradients(data: Any, weight: Any, grad: Any) -> list[Any]:
        pullback = jax.vjp(convolve, data, weight)[1]
        results = (*pullback(grad), grad.sum((0, 1, 2)))
        return [part for part, want in zip(results, wanted, strict=True) if want]

    grad = make_grad(workload, workload.padding)
    given = [jax.device_put(array) for array in (inputs, hwio(kernel), grad)]
    compiled = jax.jit(gradients).lower(*given).compile()

    def call() -> Any:
        return jax.block_until_ready(compiled(*given))

    def fetch() -> tuple[Array, ...]:
        results = [np.asarray(result) for result in call()]
        if wanted[1]:
            results[wanted[0]] = results[wanted[0]].reshape(workload.kernel_shape)
        return tuple(results)

    return Prepared(call, fetch, workload.padding)


def jax_convolution(
    jax: ModuleType, workload: Workload, most: float = JAX_FLOPS
) -> Callable[[Any, Any], Any]:
    """Give the convolution as a function of the images and the weight."""
    if workload.flops > most:
        raise Unavailable("JAX takes 0.1 s and more for the larger workloads")
    return partial(
        jax.lax.conv_general_dilated,
        window_strides=(workload.sh, workload.sw),
        padding=workload.padding.upper(),
        rhs_dilation=(workload.dh, workload.dw),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=workload.c,
    )


def hwio(kernel: Array) -> Array:
    """Give the kernel as (kh, kw, 1, c * m)."""
    kh, kw, c, m = kernel.shape
    return kernel.reshape(kh, kw, 1, c * m)
