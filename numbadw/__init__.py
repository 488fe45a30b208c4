"""Depthwise convolution for NumPy arrays at the speed of the hardware."""

# Imported at once: a fork during a first call could leave a half-done import behind.
import numbadw.cpu
import numbadw.reference  # noqa: F401
from numbadw.convert import kernel_from_torch, kernel_to_torch
from numbadw.dispatch import BackendUnavailableError
from numbadw.folding import fold_batch_norm
from numbadw.functional import depthwise_conv2d
from numbadw.gradients import (
    depthwise_conv2d_grad,
    depthwise_conv2d_input_grad,
    depthwise_conv2d_kernel_grad,
)
from numbadw.info import show_config, warmup
from numbadw.layers import DepthwiseConv1D, DepthwiseConv2D, SeparableConv2D
from numbadw.pointwise import pointwise_conv2d, pointwise_conv2d_grad
from numbadw.prepared import prepare_pointwise_conv2d
from numbadw.separable import separable_conv2d, separable_conv2d_grad
from numbadw.sequence import (
    depthwise_conv1d,
    depthwise_conv1d_grad,
    depthwise_conv1d_update,
)
from numbadw.threads import get_num_threads, num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailableError",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv2D",
    "__version__",
    "depthwise_conv1d",
    "depthwise_conv1d_grad",
    "depthwise_conv1d_update",
    "depthwise_conv2d",
    "depthwise_conv2d_grad",
    "depthwise_conv2d_input_grad",
    "depthwise_conv2d_kernel_grad",
    "fold_batch_norm",
    "get_num_threads",
    "kernel_from_torch",
    "kernel_to_torch",
    "num_threads",
    "pointwise_conv2d",
    "pointwise_conv2d_grad",
    "prepare_pointwise_conv2d",
    "separable_conv2d",
    "separable_conv2d_grad",
    "set_num_threads",
    "show_config",
    "warmup",
]
