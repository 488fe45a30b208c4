"""The long self-test: all its kinds in child processes, resumable.

    while kinds are left:
        a child runs the calls of the next few kinds, `jobs` children at a time
        what it reports goes into the state file, which is replaced as a whole

A child that ends badly or hangs costs the kind it was at, which counts as wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from numbadw import jit
from numbadw.selftest.batch import Report, read

# Kinds a child runs: each keeps some 40 MB of compiled code.
BATCH = 8
# Seconds after which a child hangs: it needs about 60.
PATIENCE = 3600


class StateError(Exception):
    """The state file cannot be used; the message says why."""


class State(NamedTuple):
    """What is done, and what decides the calls."""

    sources: str  # a hash: results of other sources do not count
    seed: int
    calls: int  # of each kind
    backend: str
    seconds: float
    done: dict[int, int]  # calls made, by kind
    compiled: list[str]
    wrong: list[tuple[str, str]]

    @property
    def total(self) -> int:
        """All calls made."""
        return sum(self.done.values())

    def add(self, reports: list[Report]) -> State:
        """Return the state with some kinds more."""
        done = self.done | {report.kind: report.calls for report in reports}
        labels = {label for report in reports for label in report.compiled}
        wrong = [fault for report in reports for fault in report.wrong]
        return self._replace(
            done=done,
            compiled=sorted({*self.compiled, *labels}),
            wrong=self.wrong + wrong,
        )


def default_path(backend: str) -> Path:
    """Return where the state is kept if the user does not say."""
    return (jit.cache_folder() or Path()) / f"numbadw-selftest-{backend}.json"


def load(path: Path, seed: int | None, calls: int, backend: str) -> State:
    """Return the state in a file, or a new one where there is none.

    Raises
    ------
    StateError
        The file cannot be read, or is of another test.
    """
    fresh = State(jit.source_hash(), seed or 0, calls, backend, 0.0, {}, [], [])
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return fresh
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path} cannot be read: {error}") from None
    advice = "remove it to begin anew, or name another file with --state"
    try:
        state = _parse(text)
    except (LookupError, ValueError, TypeError, AttributeError):
        raise StateError(f"{path} is no state of a self-test: {advice}") from None
    if state.sources != fresh.sources:
        raise StateError(f"{path} is of another version of numbadw: {advice}")
    if seed not in (None, state.seed):
        raise StateError(f"{path} is of seed {state.seed}, not {seed}: {advice}")
    if backend != state.backend:
        raise StateError(f"{path} is of backend {state.backend}: {advice}")
    if calls != state.calls:
        raise StateError(
            f"{path} has {state.calls} calls a kind, not {calls}: {advice}"
        )
    return state


def _parse(text: str) -> State:
    fields = json.loads(text)
    return State(
        sources=str(fields["sources"]),
        seed=int(fields["seed"]),
        calls=int(fields["calls"]),
        backend=str(fields["backend"]),
        seconds=float(fields["seconds"]),
        done={int(kind): int(made) for kind, made in fields["done"].items()},
        compiled=[str(label) for label in fields["compiled"]],
        wrong=[(str(case), str(fault)) for case, fault in fields["wrong"]],
    )


def save(state: State, path: Path) -> None:
    """Replace the file by the state, at once."""
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(state._asdict(), file, indent=1)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def run(
    state: State, path: Path, kinds: int, jobs: int, tell: Callable[[State], None]
) -> State:
    """Run what is left of so many kinds; keep and `tell` the state after each child.

    Raises
    ------
    KeyboardInterrupt
        As it came, with everything kept that the children had finished.
    """
    start = time.monotonic() - state.seconds
    children = Children(state.seed, state.calls, state.backend)
    batches = _batches([kind for kind in range(kinds) if kind not in state.done])
    running: set[Future[list[Report]]] = set()

    def keep(finished: set[Future[list[Report]]]) -> None:
        nonlocal state
        for future in finished:
            state = state.add(future.result())
        state = state._replace(seconds=round(time.monotonic() - start, 1))
        save(state, path)

    with ThreadPoolExecutor(jobs) as threads:
        try:
            while True:
                for batch in batches:
                    running.add(threads.submit(children.run, *batch))
                    if len(running) == jobs:
                        break
                if not running:
                    return state
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                keep(finished)
                tell(state)
        except BaseException:
            children.stop()
            keep(wait(running).done)
            raise


def _batches(left: list[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges of kinds that follow each other, of at most BATCH."""
    while left:
        first = last = left[0]
        while last - first < BATCH and last in left:
            last += 1
        left = [kind for kind in left if kind >= last]
        yield first, last


class Children:
    """The child processes: started, read and ended."""

    def __init__(self, seed: int, calls: int, backend: str) -> None:
        self._seed, self._calls, self._backend = seed, calls, backend
        self._lock, self._alive = threading.Lock(), set[subprocess.Popen[str]]()
        self._stopped = False

    def run(self, first: int, last: int) -> list[Report]:
        """Run a range of kinds and return what was reported."""
        reports: list[Report] = []
        while first < last and not self._stopped:
            lines, end = self._child(first, last)
            reports += map(read, lines)
            first += len(lines)
            if end and first < last and not self._stopped:
                reports.append(Report(first, 0, [], [(str(first), end)]))
                first += 1
        return reports

    def stop(self) -> None:
        """End all children; their runs return what is finished."""
        with self._lock:
            self._stopped = True
            for child in self._alive:
                child.kill()

    def _child(self, first: int, last: int) -> tuple[list[str], str]:
        """Run a child; return the lines it wrote and why it ended early."""
        numbers = (self._seed, first, last, self._calls)
        # Hundreds of kernels that nobody asked for need not stay in the user's cache.
        with tempfile.TemporaryDirectory() as folder:
            with self._lock:
                if self._stopped:
                    return [], ""
                child = subprocess.Popen(
                    command(*numbers, self._backend),
                    env={**os.environ, "NUMBADW_CACHE_DIR": folder},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for the parent to handle
                )
                self._alive.add(child)
            late = False
            try:
                out, errors = child.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                late = True
                child.kill()
                out, errors = child.communicate()
            with self._lock:
                self._alive.discard(child)
        lines = [line for line in out.splitlines(True) if line.endswith("\n")]
        if late:
            return lines, f"no end after {PATIENCE} s"
        code = child.returncode
        tail = errors[-2000:].strip()
        return lines, f"the process ended with status {code}: {tail}" if code else ""


def command(seed: int, first: int, last: int, calls: int, backend: str) -> list[str]:
    """Return the command line of a child."""
    numbers = map(str, (seed, first, last, calls))
    return [sys.executable, "-m", "numbadw.selftest.batch", *numbers, backend]
