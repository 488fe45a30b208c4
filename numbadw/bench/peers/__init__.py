"""The libraries numbadw is compared with, each prepared as its users would.

Every entry of `PEERS` (the forward pass) and of `gradient_peers` is a function
`prepare(workload, inputs, kernel, threads)`.
It builds the model, converts the data to the layout the library wants and gives a
`Prepared`: the call that is timed, and a way to read its result. What a library
cannot do, or a library that is not installed, is an `Unavailable` with the reason.

TensorFlow and JAX keep the thread count that they start with, so every thread count
is measured in a process of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from numbadw.bench.peers import filters, frameworks, runtimes
from numbadw.bench.peers.prepared import Prepare, Unavailable, require

PEERS: dict[str, Prepare] = {
    "torch_channels_last": partial(frameworks.prepare_torch, "NHWC"),
    "torch_contiguous": partial(frameworks.prepare_torch, "NCHW"),
    "onnxruntime": runtimes.prepare_onnxruntime,
    "openvino": partial(runtimes.prepare_openvino, "NCHW"),
    "openvino_nhwc": partial(runtimes.prepare_openvino, "NHWC"),
    "litert": runtimes.prepare_litert,
    "tensorflow": frameworks.prepare_tensorflow,
    "jax": frameworks.prepare_jax,
    "opencv": filters.prepare_opencv,
    "scipy": filters.prepare_scipy,
}
# The modules that a peer needs, and what pip calls the packages they come from.
MODULES = {
    "torch_channels_last": ("torch",),
    "torch_contiguous": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
    "openvino_nhwc": ("openvino",),
    "litert": ("ai_edge_litert.interpreter", "flatbuffers"),
    "tensorflow": ("tensorflow",),
    "jax": ("jax",),
    "opencv": ("cv2",),
    "scipy": ("scipy.ndimage",),
}
PACKAGES = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "openvino": "openvino",
    "ai_edge_litert.interpreter": "ai-edge-litert",
    "flatbuffers": "flatbuffers",
    "tensorflow": "tensorflow-cpu",
    "jax": "jax[cpu]",
    "cv2": "opencv-python-headless",
    "scipy.ndimage": "scipy",
}


def gradient_peers(*wanted: str) -> dict[str, Prepare]:
    """Give the libraries that compute the wanted gradients; no other has them."""
    mask = ("input_grad" in wanted, "kernel_grad" in wanted, "bias_grad" in wanted)
    return {
        "torch_channels_last": partial(
            frameworks.prepare_torch_gradients, "NHWC", mask
        ),
        "torch_contiguous": partial(frameworks.prepare_torch_gradients, "NCHW", mask),
        "tensorflow": partial(frameworks.prepare_tensorflow_gradients, mask),
        "jax": partial(frameworks.prepare_jax_gradients, mask),
    }


def missing_peers(
    names: Iterable[str],
    modules: Mapping[str, Sequence[str]] = MODULES,
    packages: Mapping[str, str] = PACKAGES,
) -> dict[str, str]:
    """Import what the named peers need; give those that cannot be, and why.

    The text ends with the command that installs what is missing.
    """
    missing = {}
    for name in names:
        for module in modules[name]:
            try:
                require(module)
            except Unavailable as reason:
                missing[name] = f"{reason}; pip install {packages[module]!r}"
                break
    return missing
