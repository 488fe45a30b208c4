"""What must be right before anything is timed, besides every timed call's own result.

Random calls with poisoned results, ragged sizes and offset pointers; an array of more
than 2**31 elements; and NVIDIA's compute-sanitizer over a few calls where it is there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from numbadw.bench.contest import Contest
from numbadw.bench.device.passes import DEVICE, PASSES, read_whole
from numbadw.bench.passes import FORWARD
from numbadw.bench.workloads import Workload
from numbadw.cuda import device
from numbadw.selftest.check import fault_of
from numbadw.selftest.draws import COMMON

# Random calls go on so long, the sanitizer's at most.
SECONDS, SANITIZER_SECONDS = 20.0, 90.0
SANITIZER = "compute-sanitizer"
SANITIZED_CALLS = 6
FOUND = 9  # its exit status
# 2**31 elements and some: every other image is the same.
VAST = Workload("vast", 2100, 128, 128, 64, 3, 3, dtype="bfloat16")
MIDDLE = 2**31
MARGIN = 1 << 30


class Wrong(ValueError):
    """A result is wrong: there is nothing to time."""


def rehearse(note: Callable[[str], None], seconds: float = SECONDS) -> None:
    """Check what the timed calls do not show, and note what was checked."""
    note(_random_calls(seconds))
    note(_vast_arrays())
    note(_sanitized())


def _random_calls(seconds: float) -> str:
    end, made = time.monotonic() + seconds, 0
    # A seed of the clock's: other calls in every run, and named if wrong.
    seed = int(end) % 100_000
    while time.monotonic() < end:
        draw, number = divmod(made, len(COMMON))
        kind = COMMON[number]
        fault = fault_of(kind, seed, number, draw, "cuda")
        if fault:
            raise Wrong(
                f"{fault}; again: python -m numbadw selftest --backend cuda "
                f"--seed {seed} --case {number}:{draw}"
            )
        made += 1
    return f"checked: {made} random calls against the float64 reference"


def _vast_arrays(workload: Workload = VAST) -> str:
    """Compare images on both sides of element `MIDDLE` with the first ones."""
    bindings = device.driver()
    with device.using(device.current()):
        free, _ = device.check(bindings.cuMemGetInfo())
    if free < workload.bytes + MARGIN:
        return f"not checked: {workload.bytes:,} bytes of arrays do not fit the device"
    contest = Contest(PASSES[FORWARD], workload)
    out: Any = contest.call(DEVICE, 1)()
    step = workload.distinct
    first = read_whole(out.part(0, step), workload)
    image = int(np.prod(workload.output_shape[1:]))
    middle = MIDDLE // image // step * step
    for at in (middle - step, middle, middle + step, workload.n - step):
        if not np.array_equal(read_whole(out.part(at, at + step), workload), first):
            raise Wrong(f"image {at} of {workload.id} is not that of image 0")
    count = workload.n * image
    return f"checked: an array of {count:,} elements, also past the {MIDDLE:,}th"


def _sanitized() -> str:
    found = shutil.which(SANITIZER)
    if found is None:
        return f"not checked: {SANITIZER} is not on PATH"
    line = [found, "--error-exitcode", str(FOUND), sys.executable, "-m", "numbadw"]
    line += ["selftest", "--backend", "cuda", "--case", "0"]
    line += ["--calls", str(SANITIZED_CALLS)]
    try:
        child = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=SANITIZER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not checked: {SANITIZER} took more than {SANITIZER_SECONDS:.0f} s"
    if child.returncode:
        raise Wrong(f"{SANITIZER}: {(child.stdout + child.stderr)[-2000:]}")
    return f"checked: {SANITIZED_CALLS} calls under {SANITIZER}, no errors"
