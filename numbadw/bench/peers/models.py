"""Models of a single depthwise convolution, in the formats of the peers."""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbadw.bench.peers.prepared import oihw, require
from numbadw.bench.workloads import Workload

Array = NDArray[Any]

ONNX_OPSET = 17
ONNX_IR_VERSION = 8
TFLITE_VERSION = 3
TFLITE_IDENTIFIER = b"TFL3"
# The version that brought dilation to TFLite's DEPTHWISE_CONV_2D.
TFLITE_DEPTHWISE_VERSION = 2


def onnx_model(workload: Workload, kernel: Array) -> bytes:
    """Write an ONNX model of one grouped Conv, channels first."""
    onnx = require("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    n, oh, ow, channels = workload.output_shape
    geometry = workload.geometry()
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        group=workload.c,
        kernel_shape=[workload.kh, workload.kw],
        strides=[workload.sh, workload.sw],
        dilations=[workload.dh, workload.dw],
        pads=[geometry.pt, geometry.pl, geometry.pb, geometry.pr],
    )
    x_shape = (n, workload.c, workload.h, workload.w)
    graph = helper.make_graph(
        [node],
        "depthwise",
        [helper.make_tensor_value_info("x", kind, x_shape)],
        [helper.make_tensor_value_info("y", kind, (n, channels, oh, ow))],
        [require("onnx.numpy_helper").from_array(oihw(kernel), "w")],
    )
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=ONNX_IR_VERSION)
    return bytes(model.SerializeToString())


def openvino_model(workload: Workload, kernel: Array, layout: str) -> Any:
    """Make an OpenVINO model of one GroupConvolution for tensors in `layout`."""
    ov = require("openvino")
    ops = require("openvino.opset13")
    kh, kw, c, m = kernel.shape
    geometry = workload.geometry()
    x_shape = (workload.n, workload.c, workload.h, workload.w)
    parameter = ops.parameter(x_shape, np.float32, name="x")
    node = ops.group_convolution(
        parameter,
        ops.constant(oihw(kernel).reshape(c, m, 1, kh, kw)),
        strides=[workload.sh, workload.sw],
        pads_begin=[geometry.pt, geometry.pl],
        pads_end=[geometry.pb, geometry.pr],
        dilations=[workload.dh, workload.dw],
    )
    model = ov.Model([node], [parameter], "depthwise")
    steps = require("openvino.preprocess").PrePostProcessor(model)
    for side in (steps.input(), steps.output()):
        side.tensor().set_layout(ov.Layout(layout))
        side.model().set_layout(ov.Layout("NCHW"))
    return steps.build()


def tflite_model(workload: Workload, kernel: Array) -> bytes:
    """Write a TFLite flatbuffer of one DEPTHWISE_CONV_2D, channels last."""
    schema = require("ai_edge_litert.schema_py_generated")
    flatbuffers = require("flatbuffers")
    channels = workload.c * workload.m
    tensors = [
        ("x", workload.input_shape, 0),
        ("kernel", (1, workload.kh, workload.kw, channels), 1),
        ("bias", (channels,), 2),
        ("y", workload.output_shape, 0),
    ]
    graph = schema.SubGraphT(
        name="main",
        tensors=[
            schema.TensorT(
                name=name,
                shape=list(shape),
                type=schema.TensorType.FLOAT32,
                buffer=buffer,
            )
            for name, shape, buffer in tensors
        ],
        inputs=[0],
        outputs=[3],
        operators=[_tflite_operator(schema, workload)],
    )
    operation = schema.BuiltinOperator.DEPTHWISE_CONV_2D
    code = schema.OperatorCodeT(
        deprecatedBuiltinCode=operation,
        builtinCode=operation,
        version=TFLITE_DEPTHWISE_VERSION,
    )
    # Buffer 0 is the empty one, by the format's convention.
    constants = (b"", kernel.tobytes(), np.zeros(channels, np.float32).tobytes())
    model = schema.ModelT(
        version=TFLITE_VERSION,
        operatorCodes=[code],
        subgraphs=[graph],
        buffers=[schema.BufferT(np.frombuffer(data, np.uint8)) for data in constants],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=TFLITE_IDENTIFIER)
    return bytes(builder.Output())


def _tflite_operator(schema: ModuleType, workload: Workload) -> Any:
    """Make the operator node: tensors 0, 1, 2 in, tensor 3 out."""
    options = schema.DepthwiseConv2DOptionsT(
        padding=getattr(schema.Padding, workload.padding.upper()),
        strideH=workload.sh,
        strideW=workload.sw,
        dilationHFactor=workload.dh,
        dilationWFactor=workload.dw,
        depthMultiplier=workload.m,
    )
    return schema.OperatorT(
        opcodeIndex=0,
        inputs=[0, 1, 2],
        outputs=[3],
        builtinOptionsType=schema.BuiltinOptions.DepthwiseConv2DOptions,
        builtinOptions=options,
    )
