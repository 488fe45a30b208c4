"""Measure with one number of threads, in a process of its own.

A process each because TensorFlow and JAX cannot change their threads once they run,
and because a library that ends its process must not end the run. A job is read from
the standard input and every result written to the standard output at once, as lines of
JSON; what the libraries print goes to the standard error.
"""

import contextlib
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numbadw
from numbadw.bench.measure import core_seconds
from numbadw.bench.peers import missing_peers
from numbadw.bench.results import Row
from numbadw.bench.sittings import Sittings
from numbadw.bench.targets import TARGETS
from numbadw.bench.tasks import Task
from numbadw.bench.workloads import Workload

Emit = Callable[[str, Any], None]
# A row gets no longer where the run is early.
MOST_SECONDS = 8.0
# Where the fastest peer takes so many times as long on several threads as on one, the
# cores were not all there, sometimes for seconds: the row is measured again after a
# pause, a few times at most, and the least counts, for everybody. Peers lost more than
# numbadw, whose calling thread does what others do not get to: 14x14x384 3x3 on two
# threads was once 7 times as fast as all of them.
HELD_UP, PAUSE_SECONDS, MOST_TIMES = 1.25, 2.0, 3
# Lines of a failed worker's messages that are shown.
SHOWN_LINES = 15


class WorkerError(Exception):
    """A measuring process failed; the text holds the end of what it wrote."""


@dataclass(frozen=True)
class Job:
    """What one process measures: tasks, peers by name, and how long it may take.

    `alone` gives the seconds that the fastest peer took on one thread, by the pass and
    the workload's id, where that is known.
    """

    backend: str
    threads: int
    tasks: tuple[Task, ...]
    peers: tuple[str, ...]
    rounds: int
    seconds: float
    alone: dict[str, float] = field(default_factory=dict)


def run_job(job: Job, emit: Emit) -> None:
    """Measure a job's tasks and emit what is found out.

    `emit` gets "missing", a "note" of each thing that was checked beforehand,
    "ceilings", a "row" for each task, and "waited": the share of its time that the
    measuring thread waited for a core.
    """
    target = TARGETS[job.backend]
    end = time.perf_counter() + job.seconds
    missing = missing_peers(job.peers, *target.peers)
    emit("missing", missing)
    peers = [name for name in job.peers if name not in missing]
    # TensorFlow alone brings so many objects that looking through them before every
    # row, for garbage, would take 0.2 s.
    gc.freeze()
    before = core_seconds()
    with numbadw.num_threads(job.threads):
        target.rehearse(partial(emit, "note"))
        ceilings = target.ceilings(job.threads)
        emit("ceilings", asdict(ceilings))
        for number, task in enumerate(job.tasks):
            share = (end - time.perf_counter()) / (len(job.tasks) - number)
            kind, workload = target.passes[task.kind], task.workload
            sittings = Sittings(kind, workload, target.time, job.threads, job.rounds)
            budget = min(max(share, target.least), MOST_SECONDS)
            named = peers if target.patient or share > 0 else []
            measure = partial(sittings.measure, named, budget, target.sittings)
            seconds, notes = measure()
            alone = job.alone.get(f"{kind.name} {workload.id}", math.inf)
            for _ in range(MOST_TIMES - 1):
                if not held_up(seconds, kind.ours, alone):
                    break
                time.sleep(PAUSE_SECONDS)
                again, _ = measure()
                seconds |= {k: min(v, seconds.get(k, v)) for k, v in again.items()}
            if named != peers:
                notes = (*notes, "the peers of rows that came after the time was up")
            needed, size = kind.needed(workload), kind.bytes(workload)
            row = Row(
                task.group,
                workload.id,
                kind.name,
                job.threads,
                kind.ours,
                seconds,
                kind.flops(workload),
                needed,
                size,
                ceilings.seconds(needed, size),
                workload,
                notes,
            )
            emit("row", asdict(row))
    ran, waited = (b - a for a, b in zip(before, core_seconds(), strict=True))
    emit("waited", waited / (ran + waited) if waited else 0.0)


def held_up(seconds: Mapping[str, float], ours: Sequence[str], alone: float) -> bool:
    """Tell whether every peer takes longer on several threads than one on one."""
    peers = [taken for name, taken in seconds.items() if name not in ours]
    return min(peers, default=0.0) > HELD_UP * alone


def start_job(job: Job) -> Generator[tuple[str, Any], None, None]:
    """Run a job in a process of its own and give what it emits, as it does.

    Raises
    ------
    WorkerError
        The process failed.
    """
    package = Path(numbadw.__file__).parents[1]
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **TARGETS[job.backend].environment(job.threads),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    command = [sys.executable, "-m", "numbadw.bench.worker"]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            try:
                given, results = process.stdin, process.stdout
                if given is not None and results is not None:
                    # A process that fails at once reads nothing; its status tells.
                    with contextlib.suppress(BrokenPipeError):
                        given.write(json.dumps(asdict(job)))
                        given.close()
                    for line in results:
                        name, value = json.loads(line)
                        yield name, value
                status = process.wait()
            finally:
                process.kill()
        if status:
            errors.seek(0)
            lines = errors.read().splitlines()[-SHOWN_LINES:]
            raise WorkerError("\n".join([f"exit status {status}", *lines]))


def main() -> int:
    """Read a job, run it and write what it emits."""
    fields = json.load(sys.stdin)
    tasks = tuple(Task(g, k, Workload(*w)) for g, k, w in fields.pop("tasks"))
    peers = tuple(fields.pop("peers"))
    # Libraries write to the standard output, too: keep it, and give them the other.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)

        def emit(name: str, value: Any) -> None:
            output.write(json.dumps([name, value]) + "\n")
            output.flush()

        run_job(Job(**fields, tasks=tasks, peers=peers), emit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
