"""Depthwise 2-D convolution for NumPy arrays at the speed of the hardware."""

from numbadw.dispatch import BackendUnavailableError
from numbadw.functional import depthwise_conv2d
from numbadw.threads import get_num_threads, num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailableError",
    "__version__",
    "depthwise_conv2d",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
]
