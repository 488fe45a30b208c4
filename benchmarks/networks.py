"""Whole networks beside other libraries: `python benchmarks/networks.py --threads 2`.

MobileNetV1, V2 and EfficientNet-B0, one image of 224x224, float32.  numbadw runs
`examples/mobilenet.py`; the others run the same folded weights as one model, but for
Keras, which has models of its own.  Every result is checked before it is timed.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from network_models import TFLiteWriter, onnx_network, torch_kernel
from network_nodes import (
    NETWORKS,
    Node,
    keras_scores,
    make_problem,
    reference_scores,
)
from numpy.typing import NDArray

import numbadw
from numbadw.bench.measure import interleaved, machine
from numbadw.bench.peers.prepared import Unavailable, require
from numbadw.bench.targets import cpu_environment

Array = NDArray[Any]
Call = Callable[[], Any]
# Of the largest score, as `tests/test_mobilenet.py` asks of Keras.
TOLERANCE = 1e-4


class Entry(NamedTuple):
    """A call that is timed, and the scores that it must give."""

    call: Call
    expected: Array


def prepare_numbadw(name: str, threads: int) -> Entry:
    """Prepare the example, checked against plain NumPy."""
    numbadw.set_num_threads(threads)
    problem = make_problem(name)
    return Entry(lambda: problem.network(problem.pixels), reference_scores(problem))


def prepare_onnxruntime(name: str, threads: int) -> Entry:
    """Prepare ONNX Runtime with all its optimisations."""
    runtime = require("onnxruntime")
    problem = make_problem(name)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = runtime.InferenceSession(
        onnx_network(problem.nodes), options, ["CPUExecutionProvider"]
    )
    data = {"x": np.ascontiguousarray(problem.scaled.transpose(0, 3, 1, 2))}
    return Entry(lambda: session.run(None, data)[0], problem.network(problem.pixels))


def prepare_openvino(name: str, threads: int) -> Entry:
    """Prepare OpenVINO for one image at a time, without bfloat16."""
    ov = require("openvino")
    problem = make_problem(name)
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(onnx_network(problem.nodes)),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    data = np.ascontiguousarray(problem.scaled.transpose(0, 3, 1, 2))

    def call() -> Any:
        return request.infer([data], share_inputs=True, share_outputs=True)[0]

    return Entry(call, problem.network(problem.pixels))


def prepare_litert(name: str, threads: int) -> Entry:
    """Prepare LiteRT, whose XNNPACK delegate must take the network as a whole."""
    module = require("ai_edge_litert.interpreter")
    problem = make_problem(name)
    interpreter = module.Interpreter(
        model_content=TFLiteWriter().write(problem.nodes), num_threads=threads
    )
    interpreter.allocate_tensors()
    names = [operation["op_name"] for operation in interpreter._get_ops_details()]
    if names.count("DELEGATE") != 1:
        raise Unavailable(f"XNNPACK did not take the network whole: {names}")
    data = interpreter.get_input_details()[0]["index"]
    scores = interpreter.get_output_details()[0]["index"]

    def call() -> Any:
        interpreter.set_tensor(data, problem.scaled)
        interpreter.invoke()
        return interpreter.get_tensor(scores)

    return Entry(call, problem.network(problem.pixels))


def prepare_torch(name: str, threads: int) -> Entry:
    """Prepare PyTorch, eager and channels last, with its own padding."""
    torch = require("torch")
    torch.set_num_threads(threads)
    problem = make_problem(name, symmetric=True)
    run = torch_network(torch, problem.nodes)
    data = torch.from_numpy(problem.scaled).permute(0, 3, 1, 2)

    def call() -> Any:
        with torch.inference_mode():
            return run(data).numpy()

    return Entry(call, problem.network(problem.pixels))


def torch_network(torch: Any, nodes: list[Node]) -> Callable[[Any], Any]:
    """Return nodes as a function of the image."""
    functional = torch.nn.functional
    activations = {
        "relu6": functional.relu6,
        "silu": functional.silu,
        "sigmoid": torch.sigmoid,
    }
    weights = {}
    for node in nodes:
        if node.kernel is not None:
            dense = node.kind == "dense"
            kernel = torch.from_numpy(
                np.ascontiguousarray(node.kernel.T) if dense else torch_kernel(node)
            )
            if not dense:
                kernel = kernel.to(memory_format=torch.channels_last)
            weights[node.output] = kernel, torch.from_numpy(node.bias)

    def run(x: Any) -> Any:
        values = {"x": x}
        for node in nodes:
            inputs = [values[name] for name in node.inputs]
            if node.kind in ("conv", "depthwise"):
                groups = node.shape[-1] if node.kind == "depthwise" else 1
                pads = node.pads[0]
                y = functional.conv2d(
                    *inputs, *weights[node.output], node.strides, pads, groups=groups
                )
            elif node.kind == "dense":
                y = functional.linear(*inputs, *weights[node.output])
            elif node.kind == "mean":
                y = inputs[0].mean((2, 3), keepdim=len(node.shape) > 1)
            else:
                y = (torch.mul if node.kind == "multiply" else torch.add)(*inputs)
            if node.activation != "linear":
                y = activations[node.activation](y)
            values[node.output] = y
        return y

    return run


def prepare_keras(name: str, threads: int) -> Entry:
    """Prepare the model of `keras.applications`, one traced TensorFlow function."""
    tf = require("tensorflow")
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    applications = require("keras.applications")
    maker = {
        "v1": applications.MobileNet,
        "v2": applications.MobileNetV2,
        "efficientnet_b0": applications.EfficientNetB0,
    }[name]
    model = maker(weights=None, classifier_activation=None)
    problem = make_problem(name)
    # EfficientNet scales pixels itself.
    scales = name == "efficientnet_b0"
    data = tf.constant(problem.pixels if scales else problem.scaled)
    traced = tf.function(lambda x: model(x, training=False))
    return Entry(lambda: traced(data).numpy(), keras_scores(problem, model))


PEERS: dict[str, Callable[[str, int], Entry]] = {
    "numbadw": prepare_numbadw,
    "onnxruntime": prepare_onnxruntime,
    "openvino": prepare_openvino,
    "litert": prepare_litert,
    "torch": prepare_torch,
    "keras": prepare_keras,
}


def checked(peer: str, name: str, threads: int) -> Call:
    """Prepare a network; return its call once the scores were right."""
    call, expected = PEERS[peer](name, threads)
    got = np.asarray(call())
    error = np.abs(got - expected).max() / np.abs(expected).max()
    if got.shape != expected.shape or not error <= TOLERANCE:
        raise ValueError(f"{peer} on {name}: the scores differ by {error:.1e}")
    return call


def main() -> None:
    """Print a line for each network: milliseconds of everyone, interleaved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--seconds", type=float, default=10, help="for each network")
    arguments = parser.parse_args()
    os.environ.update(cpu_environment(arguments.threads))
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    for name in arguments.networks:
        calls = {}
        for peer in arguments.peers:
            try:
                calls[peer] = checked(peer, name, arguments.threads)
            except Unavailable as reason:
                print(f"without {peer}: {reason}")
        times = interleaved(calls, rounds=1000, budget=arguments.seconds)
        row = ", ".join(f"{peer} {1e3 * time:.2f}" for peer, time in times.items())
        print(f"{name}, {arguments.threads} threads, milliseconds: {row}", flush=True)


if __name__ == "__main__":
    main()
