"""OpenCV and scipy.ndimage: filters of images, one kernel and one image at a time."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbadw.bench.peers.prepared import (
    Prepared,
    Unavailable,
    reader,
    require,
    result_array,
)
from numbadw.bench.workloads import Workload, aligned_copy
from numbadw.memory import aligned_empty

Array = NDArray[Any]

# scipy's filter runs once per result channel: with more of them a call takes minutes.
SCIPY_CHANNELS = 32
OPENCV_CHANNELS = (1, 3, 4)


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
    result = result_array(workload, "NHWC")
    planes = [
        (inputs[0, :, :, c], kernel[:, :, c, q], result[0, :, :, c * workload.m + q])
        for c in range(workload.c)
        for q in range(workload.m)
    ]

    def call() -> None:
        for plane, taps, output in planes:
            correlate(plane, taps, output, mode="constant")

    return Prepared(call, reader(call, result, "NHWC"), workload.padding)


def _require_plain_filter(workload: Workload, name: str) -> None:
    """Refuse strides and dilation, which image filters do not have."""
    if (workload.sh, workload.sw, workload.dh, workload.dw) != (1, 1, 1, 1):
        raise Unavailable(f"{name} has no strides and no dilation")
