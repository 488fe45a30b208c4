"""ONNX Runtime, OpenVINO and LiteRT: models of one operator, run as they are."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbadw.bench.peers.models import onnx_model, openvino_model, tflite_model
from numbadw.bench.peers.prepared import (
    Prepared,
    Unavailable,
    in_layout,
    reader,
    require,
    result_array,
)
from numbadw.bench.workloads import Workload

Array = NDArray[Any]


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
    data, result = in_layout(inputs, "NCHW"), result_array(workload, "NCHW")
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, data.shape, data.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)
    call = partial(session.run_with_iobinding, binding)
    return Prepared(call, reader(call, result, "NCHW"), workload.padding, (data,))


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
    data, result = in_layout(inputs, layout), result_array(workload, layout)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(data, shared_memory=True))
    request.set_output_tensor(ov.Tensor(result, shared_memory=True))
    # Without `share_outputs` every call copies the result once more.
    call = partial(request.infer, share_outputs=True)
    return Prepared(call, reader(call, result, layout), workload.padding, (data,))


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
