"""No kernel touches a byte outside its arrays.

See `guarded.py`, `guarded_gradients.py` and `guarded_random.py`, which run apart.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cases import environment, lanes

FORWARD, GRADIENTS, RANDOM = "guarded.py", "guarded_gradients.py", "guarded_random.py"
POINTWISE = "guarded_pointwise.py"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs mmap and mprotect")
# The name alone would keep the features of this CPU; an empty list takes them off.
LESSER = {
    cpu: {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
    for cpu in ("haswell", "nehalem")
}


def start(script, *arguments, **variables):
    """Start the cases of a script in a child."""
    path = str(Path(__file__).with_name(script))
    return subprocess.Popen(
        [sys.executable, path, *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child):
    """Return what a child wrote; fail with its last case where it does not end well."""
    try:
        out, errors = child.communicate(timeout=300)
    finally:
        child.kill()
    lines = out.splitlines() or ["nothing"]
    if child.returncode:
        code = child.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        pytest.fail(f"{how} after {lines[-1]}\n{errors[-2000:]}")
    assert lines[-1] == "all guards held"
    return lines


def count_cases(lines):
    """Count the lines that name a case."""
    return sum(line.startswith(("nhwc", "nchw")) for line in lines)


@pytest.mark.parametrize(
    ("script", "least"),
    [(FORWARD, 200), (GRADIENTS, 350), (RANDOM, 1999), (POINTWISE, 90)],
)
def test_no_array_is_read_or_written_outside(script, least):
    assert count_cases(finish(start(script))) > least


@pytest.mark.skipif(lanes() < 8, reason="this CPU has nothing to leave out")
@pytest.mark.parametrize("cpu", LESSER)
def test_gradients_on_lesser_cpus(cpu):
    # The forward pass on them: test_codegen.py, which compiles it anew to read it.
    assert count_cases(finish(start(GRADIENTS, "few", **LESSER[cpu]))) > 150
