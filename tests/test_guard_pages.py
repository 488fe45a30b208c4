"""No kernel touches a byte outside its arrays: see `guarded.py`, which runs apart."""

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cases import environment

SCRIPT = str(Path(__file__).with_name("guarded.py"))


def run_guarded(*arguments, **variables):
    """Run the cases in a child; fail with the last case where it does not end well."""
    child = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = child.stdout.splitlines() or ["nothing"]
    if child.returncode:
        code = child.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        pytest.fail(f"{how} after {lines[-1]}\n{child.stderr[-2000:]}")
    assert lines[-1] == "all guards held"
    return lines


@pytest.mark.skipif(os.name != "posix", reason="needs mmap and mprotect")
def test_no_array_is_read_or_written_outside():
    lines = run_guarded()
    assert sum(line.startswith(("nhwc", "nchw")) for line in lines) > 200
    assert mmap.PAGESIZE >= 4096
