"""The libraries numbadw is compared with, each prepared as its users would.

Every entry of `RIVALS` (the forward pass) and of `gradient_rivals` is a function
`prepare(workload, inputs, kernel, threads)`.
It builds the model, converts the data to the layout the library wants and gives a
`Prepared`: the call that is timed, and a way to read its result. What a library
cannot do, or a library that is not installed, is an `Unavailable` with the reason.

PyTorch and OpenCV keep one thread count per process: prepare and measure for one
thread count at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbadw.bench.models import (
    Unavailable,
    oihw,
    onnx_model,
    openvino_model,
    require,
    tflite_model,
)
from numbadw.bench.workloads import Workload, aligned_copy, make_grad
from numbadw.convert import kernel_from_torch
from numbadw.geometry import Padding
from numbadw.memory import aligned_empty

Array = NDArray[Any]
Result = Array | tuple[Array, ...]

# scipy's filter runs once per result channel: with more of them a call takes minutes.
SCIPY_CHANNELS = 32
OPENCV_CHANNELS = (1, 3, 4)


class Prepared(NamedTuple):
    """A rival that is ready to be timed on one workload.

    `call` computes, `fetch` calls once and gives the result as (n, oh, ow, c * m), or
    a tuple of gradients in the layouts of numbadw.
    `padding` is what the rival computed with: peers without asymmetric padding pad
    both sides with the larger one. `memory` keeps alive what is read by address.
    """

    call: Callable[[], object]
    fetch: Callable[[], Result]
    padding: Padding
    memory: tuple[object, ...] = ()


Prepare = Callable[[Workload, Array, Array, int], Prepared]


def prepare_torch(
    layout: str, workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare `torch.nn.functional.conv2d` on data in NHWC or NCHW memory order."""
    torch = require("torch")
    torch.set_num_threads(threads)
    data, weight = _torch_images(inputs, layout), _torch_weight(kernel, layout)
    padding = workload.symmetric_padding()
    arguments = (
        (workload.sh, workload.sw),
        (padding[0][0], padding[1][0]),
        (workload.dh, workload.dw),
        workload.c,
    )
    conv2d = torch.nn.functional.conv2d

    def call() -> Any:
        return conv2d(data, weight, None, *arguments)

    def fetch() -> Array:
        return np.asarray(call().permute(0, 2, 3, 1).numpy())

    return Prepared(call, fetch, padding)


def prepare_torch_gradients(
    layout: str,
    wanted: tuple[bool, bool, bool],
    workload: Workload,
    inputs: Array,
    kernel: Array,
    threads: int,
) -> Prepared:
    """Prepare PyTorch's backward pass, on data in NHWC or NCHW memory order.

    `wanted` are the gradients computed: at the input, the kernel and the bias.
    """
    torch = require("torch")
    torch.set_num_threads(threads)
    padding = workload.symmetric_padding()
    arguments = (
        _torch_images(make_grad(workload, padding), layout),
        _torch_images(inputs, layout),
        _torch_weight(kernel, layout),
        [workload.c * workload.m],
        [workload.sh, workload.sw],
        [padding[0][0], padding[1][0]],
        [workload.dh, workload.dw],
        False,  # not transposed
        [0, 0],
        workload.c,
        wanted,
    )
    call = partial(torch.ops.aten.convolution_backward.default, *arguments)

    def fetch() -> tuple[Array, ...]:
        images, weight, bias = call()
        results: list[Array] = []
        if wanted[0]:
            results.append(np.asarray(images.permute(0, 2, 3, 1).numpy()))
        if wanted[1]:
            results.append(kernel_from_torch(weight, workload.m))
        if wanted[2]:
            results.append(np.asarray(bias.numpy()))
        return tuple(results)

    return Prepared(call, fetch, padding)


def prepare_onnxruntime(
    workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare ONNX Runtime: one Conv node, input and result bound to our memory."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The highest level, NCHWc kernels between two reorders, is 5 to 15 times faster.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = runtime.InferenceSession(
        onnx_model(workload, kernel), options, ["CPUExecutionProvider"]
    )
    data, result = _in_layout(inputs, "NCHW"), _result(workload, "NCHW")
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, data.shape, data.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)
    call = partial(session.run_with_iobinding, binding)
    return Prepared(call, _reader(call, result, "NCHW"), workload.padding, (data,))


def prepare_openvino(
    layout: str, workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare OpenVINO: one GroupConvolution, tensors shared with our memory."""
    ov = require("openvino")
    compiled = ov.Core().compile_model(
        openvino_model(workload, kernel, layout),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    data, result = _in_layout(inputs, layout), _result(workload, layout)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(data, shared_memory=True))
    request.set_output_tensor(ov.Tensor(result, shared_memory=True))
    # Without `share_outputs` every call copies the result once more.
    call = partial(request.infer, share_outputs=True)
    return Prepared(call, _reader(call, result, layout), workload.padding, (data,))


def prepare_litert(
    workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare LiteRT: one DEPTHWISE_CONV_2D, run by its XNNPACK delegate."""
    module = require("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(
        model_content=tflite_model(workload, kernel), num_threads=threads
    )
    interpreter.allocate_tensors()
    names = [operation["op_name"] for operation in interpreter._get_ops_details()]
    if "DELEGATE" not in names:
        raise Unavailable(
            f"XNNPACK did not take the model, whose operators are {names}"
        )
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    output = interpreter.get_output_details()[0]["index"]

    def fetch() -> Array:
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(output))

    return Prepared(interpreter.invoke, fetch, workload.padding)


def prepare_opencv(
    workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare OpenCV's filter2D: few channels, the same kernel for all of them."""
    if workload.n != 1 or workload.c not in OPENCV_CHANNELS:
        raise Unavailable(f"filter2D takes one image of {OPENCV_CHANNELS} channels")
    if workload.m != 1 or not (kernel == kernel[:, :, :1]).all():
        raise Unavailable("filter2D takes one kernel for all channels")
    _require_plain_filter(workload, "filter2D")
    cv2 = require("cv2")
    cv2.setNumThreads(threads)
    image = inputs[0]
    taps = aligned_copy(kernel[:, :, 0, 0])
    result = aligned_empty(image.shape, np.float32)
    geometry = workload.geometry()
    call = partial(
        cv2.filter2D,
        image,
        -1,
        taps,
        dst=result,
        anchor=(geometry.pl, geometry.pt),
        borderType=cv2.BORDER_CONSTANT,
    )

    def fetch() -> Array:
        call()
        return result[np.newaxis]

    return Prepared(call, fetch, workload.padding)


def prepare_scipy(
    workload: Workload, inputs: Array, kernel: Array, threads: int
) -> Prepared:
    """Prepare scipy.ndimage.correlate, channel by channel and on one thread."""
    del threads
    if workload.n != 1 or workload.c * workload.m > SCIPY_CHANNELS:
        raise Unavailable(f"too slow with more than {SCIPY_CHANNELS} result channels")
    if workload.kh % 2 == 0 or workload.kw % 2 == 0:
        raise Unavailable("an even kernel has another centre in scipy")
    _require_plain_filter(workload, "correlate")
    correlate = require("scipy.ndimage").correlate
    result = _result(workload, "NHWC")
    planes = [
        (inputs[0, :, :, c], kernel[:, :, c, q], result[0, :, :, c * workload.m + q])
        for c in range(workload.c)
        for q in range(workload.m)
    ]

    def call() -> None:
        for plane, taps, output in planes:
            correlate(plane, taps, output, mode="constant")

    return Prepared(call, _reader(call, result, "NHWC"), workload.padding)


def _require_plain_filter(workload: Workload, name: str) -> None:
    """Refuse strides and dilation, which image filters do not have."""
    if (workload.sh, workload.sw, workload.dh, workload.dw) != (1, 1, 1, 1):
        raise Unavailable(f"{name} has no strides and no dilation")


def _torch_images(images: Array, layout: str) -> Any:
    """Give (n, h, w, c) as a tensor (n, c, h, w) in memory of the layout."""
    torch = require("torch")
    # Tensors made in inference mode need no mode, and no autograd, in the timed call.
    with torch.inference_mode():
        tensor = torch.from_numpy(_in_layout(images, layout))
        return tensor.permute(0, 3, 1, 2) if layout == "NHWC" else tensor


def _torch_weight(kernel: Array, layout: str) -> Any:
    """Give the kernel as a tensor (c * m, 1, kh, kw) in memory of the layout."""
    torch = require("torch")
    with torch.inference_mode():
        weight = torch.from_numpy(oihw(kernel))
        last = layout == "NHWC"
        return weight.to(memory_format=torch.channels_last) if last else weight


def _in_layout(inputs: Array, layout: str) -> Array:
    """Give (n, h, w, c) in aligned memory of the layout, NHWC or NCHW."""
    return inputs if layout == "NHWC" else aligned_copy(inputs.transpose(0, 3, 1, 2))


def _result(workload: Workload, layout: str) -> Array:
    """Make an aligned array for the result in the layout."""
    n, oh, ow, channels = workload.output_shape
    shape = (n, oh, ow, channels) if layout == "NHWC" else (n, channels, oh, ow)
    return aligned_empty(shape, np.float32)


def _reader(
    call: Callable[[], object], result: Array, layout: str
) -> Callable[[], Any]:
    """Make the `fetch` of a rival whose `call` fills `result`."""

    def fetch() -> Array:
        call()
        return result if layout == "NHWC" else result.transpose(0, 2, 3, 1)

    return fetch


RIVALS: dict[str, Prepare] = {
    "torch_channels_last": partial(prepare_torch, "NHWC"),
    "torch_contiguous": partial(prepare_torch, "NCHW"),
    "onnxruntime": prepare_onnxruntime,
    "openvino": partial(prepare_openvino, "NCHW"),
    "openvino_nhwc": partial(prepare_openvino, "NHWC"),
    "litert": prepare_litert,
    "opencv": prepare_opencv,
    "scipy": prepare_scipy,
}


def gradient_rivals(*wanted: str) -> dict[str, Prepare]:
    """Give the libraries that compute the wanted gradients; no other has them."""
    mask = ("input_grad" in wanted, "kernel_grad" in wanted, "bias_grad" in wanted)
    return {
        "torch_channels_last": partial(prepare_torch_gradients, "NHWC", mask),
        "torch_contiguous": partial(prepare_torch_gradients, "NCHW", mask),
    }
