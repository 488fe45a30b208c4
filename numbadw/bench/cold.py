"""Cold start: what a process waits for before its first result, each in a new process.

The rows are the import of the package, beside that of every peer's; the first call of
a kernel with nothing in the cache on disk and with everything in it; and the first
call of a second kernel in the same process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numbadw
from numbadw.bench.peers import MODULES
from numbadw.bench.results import Row
from numbadw.bench.tasks import COLD

IMPORT = "import"
FIRST, FURTHER = "first call", "further kernel"
# How often the first call is made with nothing cached, and after each with the cache
# that this left: compiling takes long, and is compared with no peer.
EMPTY_CACHES, FULL_CACHES = 2, 2
# The modules of a peer that its users import; the others build the models.
IMPORT_PROGRAM = """
import importlib, json, sys, time
start = time.perf_counter()
importlib.import_module(sys.argv[1])
print(json.dumps([time.perf_counter() - start]))
"""
CALL_PROGRAM = """
import json, time
start = time.perf_counter()
import numbadw
spent = [time.perf_counter() - start]
import numpy as np
images = np.ones((1, 64, 64, 32), np.float32)
for size in (3, 5):
    kernel = np.ones((size, size, 32, 1), np.float32)
    start = time.perf_counter()
    numbadw.depthwise_conv2d(images, kernel, padding="same")
    spent.append(time.perf_counter() - start)
print(json.dumps(spent))
"""


def cold_rows(peers: Iterable[str], threads: int, seconds: float) -> list[Row]:
    """Measure every row of the cold start; the least of several new processes counts.

    numbadw starts `EMPTY_CACHES * (1 + FULL_CACHES)` times, the import of every peer
    again and again until that has taken `seconds`. Peers that cannot be imported are
    left out: the run names them elsewhere.
    """
    least: dict[str, dict[str, float]] = {IMPORT: {}}

    def keep(row: str, name: str, taken: float) -> None:
        known = least.setdefault(row, {})
        known[name] = min(taken, known.get(name, taken))

    for _ in range(EMPTY_CACHES):
        for row, taken in _own_starts(threads):
            keep(row, "numbadw", taken)
    ends = {MODULES[name][0]: seconds for name in peers}
    while ends:
        for module in list(ends):
            start = time.perf_counter()
            try:
                (taken,) = _run(IMPORT_PROGRAM, threads, None, module)
            except subprocess.CalledProcessError:
                del ends[module]
                continue
            keep(IMPORT, module.partition(".")[0], taken)
            ends[module] -= time.perf_counter() - start
            if ends[module] <= 0:
                del ends[module]
    return [
        Row(COLD, row, COLD, threads, ("numbadw",), taken)
        for row, taken in least.items()
    ]


def _own_starts(threads: int) -> Iterator[tuple[str, float]]:
    """Give row and seconds of numbadw's starts, the first with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + FULL_CACHES):
            state = "cached" if number else "nothing cached"
            imported, first, further = _run(CALL_PROGRAM, threads, folder)
            yield IMPORT, imported
            yield f"{FIRST}, {state}", first
            yield f"{FURTHER}, {state}", further


def _run(program: str, threads: int, cache: str | None, *arguments: str) -> list[float]:
    """Run a program in a new process and give the seconds that it prints."""
    package = str(Path(numbadw.__file__).parents[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]),
    }
    if cache:
        environment["NUMBADW_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return [float(seconds) for seconds in json.loads(done.stdout.splitlines()[-1])]
