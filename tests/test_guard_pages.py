"""No kernel touches a byte outside its arrays: see `guarded.py`, which runs apart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cases import environment

SCRIPT = str(Path(__file__).with_name("guarded.py"))


def start(*arguments, **variables):
    """Start the cases in a child."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
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


@pytest.mark.skipif(os.name != "posix", reason="needs mmap and mprotect")
def test_no_array_is_read_or_written_outside():
    lines = finish(start())
    assert sum(line.startswith(("nhwc", "nchw")) for line in lines) > 200
