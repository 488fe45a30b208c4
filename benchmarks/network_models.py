"""Whole networks in the formats of ONNX and TFLite, written node by node."""

from types import ModuleType
from typing import Any

import numpy as np
from network_nodes import SIZE, Node
from numpy.typing import NDArray

from numbadw.bench.peers.models import (
    ONNX_IR_VERSION,
    ONNX_OPSET,
    TFLITE_IDENTIFIER,
    TFLITE_VERSION,
)
from numbadw.bench.peers.prepared import require

Array = NDArray[Any]


def torch_kernel(node: Node) -> Array:
    """Return a kernel as PyTorch and ONNX have it: (F, C, kh, kw) or (C, 1, kh, kw)."""
    axes = (2, 3, 0, 1) if node.kind == "depthwise" else (3, 2, 0, 1)
    return np.ascontiguousarray(node.kernel.transpose(axes))


ONNX_OPERATORS = {
    "conv": "Conv",
    "depthwise": "Conv",
    "dense": "Gemm",
    "multiply": "Mul",
    "add": "Add",
    "mean": "GlobalAveragePool",
}


def onnx_network(nodes: list[Node]) -> bytes:
    """Write an ONNX model from (1, 3, SIZE, SIZE) to scores, channels first."""
    onnx = require("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    constants: dict[str, Array] = {}
    made: list[Any] = []
    for node in nodes:
        names = list(node.inputs)
        options: dict[str, Any] = {}
        if node.kernel is not None:
            kernel = node.kernel if node.kind == "dense" else torch_kernel(node)
            names += [f"{node.output}/kernel", f"{node.output}/bias"]
            constants |= dict(zip(names[1:], (kernel, node.bias), strict=True))
        if node.kind in ("conv", "depthwise"):
            before, after = node.pads
            options = {
                "group": node.shape[-1] if node.kind == "depthwise" else 1,
                "kernel_shape": node.kernel.shape[:2],
                "strides": [node.strides] * 2,
                "pads": [before, before, after, after],
            }
        if node.kind == "dense":
            flat = f"{node.output}/flat"
            made.append(helper.make_node("Flatten", names[:1], [flat]))
            names[0] = flat
        linear = node.activation == "linear"
        target = node.output if linear else f"{node.output}/linear"
        operator = ONNX_OPERATORS[node.kind]
        made.append(helper.make_node(operator, names, [target], **options))
        if node.activation == "relu6":
            constants |= {"zero": np.float32(0), "six": np.float32(6)}
            names = [target, "zero", "six"]
            made.append(helper.make_node("Clip", names, [node.output]))
        elif not linear:
            gate = node.output if node.activation == "sigmoid" else f"{target}/gate"
            made.append(helper.make_node("Sigmoid", [target], [gate]))
            if node.activation == "silu":
                made.append(helper.make_node("Mul", [target, gate], [node.output]))
    from_array = require("onnx.numpy_helper").from_array
    last = nodes[-1]
    graph = helper.make_graph(
        made,
        "network",
        [helper.make_tensor_value_info("x", kind, (1, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info(last.output, kind, (1, *last.shape))],
        [from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=ONNX_IR_VERSION)
    return bytes(model.SerializeToString())


class TFLiteWriter:
    """Writes nodes as a TFLite flatbuffer, channels last."""

    def __init__(self) -> None:
        self.schema: ModuleType = require("ai_edge_litert.schema_py_generated")
        self.tensors: dict[str, int] = {}
        self.records: list[Any] = []
        self.buffers = [b""]  # the empty one, by the format's convention
        self.codes: dict[int, int] = {}
        self.operators: list[Any] = []

    def write(self, nodes: list[Node]) -> bytes:
        """Return the model from (1, SIZE, SIZE, 3) to scores."""
        schema = self.schema
        self.tensor("x", (1, SIZE, SIZE, 3))
        for node in nodes:
            self.node(node)
        graph = schema.SubGraphT(
            name="main",
            tensors=self.records,
            inputs=[self.tensors["x"]],
            outputs=[self.tensors[nodes[-1].output]],
            operators=self.operators,
        )
        model = schema.ModelT(
            version=TFLITE_VERSION,
            operatorCodes=[
                schema.OperatorCodeT(
                    # One byte; larger codes stand in the other field alone.
                    deprecatedBuiltinCode=min(code, 127),
                    builtinCode=code,
                    version=1,
                )
                for code in self.codes
            ],
            subgraphs=[graph],
            buffers=[
                schema.BufferT(np.frombuffer(data, np.uint8)) for data in self.buffers
            ],
        )
        builder = require("flatbuffers").Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=TFLITE_IDENTIFIER)
        return bytes(builder.Output())

    def tensor(
        self, name: str, shape: tuple[int, ...], data: Array | None = None
    ) -> int:
        """Add a tensor, a constant where there is data; return its number."""
        kind = self.schema.TensorType
        integers = data is not None and data.dtype == np.int32
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append(data.tobytes())
        record = self.schema.TensorT(
            name=name,
            shape=list(shape),
            type=kind.INT32 if integers else kind.FLOAT32,
            buffer=buffer,
        )
        self.tensors[name] = len(self.records)
        self.records.append(record)
        return self.tensors[name]

    def operator(
        self, name: str, inputs: list[int], output: int, kind: str = "", **options: Any
    ) -> None:
        """Add an operator; `kind` names the class of its options."""
        schema = self.schema
        code = getattr(schema.BuiltinOperator, name)
        number = self.codes.setdefault(code, len(self.codes))
        operator = schema.OperatorT(opcodeIndex=number, inputs=inputs, outputs=[output])
        if kind:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")(**options)
        self.operators.append(operator)

    def node(self, node: Node) -> None:
        """Add a node: its operator, then its activation where that is not fused."""
        fused = self.schema.ActivationFunctionType
        options = {
            "fusedActivationFunction": fused.RELU6
            if node.activation == "relu6"
            else fused.NONE
        }
        alone = node.activation in ("silu", "sigmoid")
        inputs = [self.tensors[name] for name in node.inputs]
        shape = (1, *node.shape)
        target = self.tensor(node.output + "/linear" * alone, shape)
        if node.kind in ("multiply", "add"):
            name = "MUL" if node.kind == "multiply" else "ADD"
            self.operator(name, inputs, target, f"{name.title()}Options", **options)
        elif node.kind == "mean":
            axes = np.array([1, 2], np.int32)
            inputs.append(self.tensor(f"{node.output}/axes", (2,), axes))
            keep = {"keepDims": len(node.shape) > 1}
            self.operator("MEAN", inputs, target, "ReducerOptions", **keep)
        else:
            self.convolution(node, inputs, target, options)
        if alone:
            gate = self.tensor(
                node.output + "/gate" * (node.activation == "silu"), shape
            )
            self.operator("LOGISTIC", [target], gate)
            if node.activation == "silu":
                output = self.tensor(node.output, shape)
                self.operator("MUL", [target, gate], output, "MulOptions")

    def convolution(
        self, node: Node, inputs: list[int], target: int, options: dict[str, Any]
    ) -> None:
        """Add a convolution or a matrix, with its weights."""
        kernel = node.kernel.transpose((1, 0) if node.kind == "dense" else (3, 0, 1, 2))
        for name, data in (("kernel", kernel), ("bias", node.bias)):
            inputs.append(self.tensor(f"{node.output}/{name}", data.shape, data))
        if node.kind == "dense":
            kind = "FullyConnectedOptions"
            self.operator("FULLY_CONNECTED", inputs, target, kind, **options)
            return
        options |= {
            "padding": self.schema.Padding.SAME,
            "strideH": node.strides,
            "strideW": node.strides,
        }
        name, kind = "CONV_2D", "Conv2DOptions"
        if node.kind == "depthwise":
            name, kind = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
            options |= {"depthMultiplier": 1}
        self.operator(name, inputs, target, kind, **options)
