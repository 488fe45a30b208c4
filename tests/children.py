"""Programs that run in processes of their own, and end whatever they do."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from cases import environment

# What most programs begin with: a problem large enough for several threads.
WORK = """
import os, signal, sys, threading, time
import numpy as np
import numbadw as ndw

def problem(seed, activation=None):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 40, 41, 48)).astype("f4")
    k = rng.standard_normal((3, 3, 48, 1)).astype("f4")
    return x, k, {"padding": "same", "activation": activation}

def work(seed, activation=None):
    x, k, options = problem(seed, activation)
    y = ndw.depthwise_conv2d(x, k, **options)
    grads = ndw.depthwise_conv2d_grad(x, k, y, **options)
    options["backend"] = "reference"
    right = ndw.depthwise_conv2d(x, k, **options)
    rights = ndw.depthwise_conv2d_grad(x, k, y, **options)
    pairs = [(y, right), *zip(grads, rights)]
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)

def alone(seed):
    return work(seed) and ndw.get_num_threads() == 1

def check(results):
    results = list(results)
    assert results and all(results), results

class Worked:
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return alone(index)
"""


class End(NamedTuple):
    """How a program ended."""

    status: int
    out: str
    errors: str


def run(program, folder, *flags, timeout=120, user=None, **variables):
    """Run a program from a file in `folder`, and give how it ended.

    What it starts ends with it.  A variable that is None is removed.
    """
    file = Path(folder) / "program.py"
    file.write_text(program, encoding="utf-8")
    given = {name: value for name, value in variables.items() if value is not None}
    child = subprocess.Popen(
        [sys.executable, *flags, str(file)],
        env={
            name: value
            for name, value in environment(**given).items()
            if variables.get(name, "") is not None
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        user=user,
    )
    try:
        out, errors = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, errors = child.communicate()
        pytest.fail(f"it hangs: {out}\n{errors}")
    return End(child.returncode, out, errors)


def run_fine(body, folder, *flags, **options):
    """Run `WORK` and a body that must end well; give what it wrote to stderr."""
    body = textwrap.indent(textwrap.dedent(body), "    ")
    program = f"{WORK}\nif __name__ == '__main__':\n{body}\n    print('fine')\n"
    end = run(program, folder, *(flags or ("-W", "ignore")), **options)
    assert end.status == 0, end
    assert end.out.endswith("fine\n"), end
    return end.errors
