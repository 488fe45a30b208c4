"""A child process of the long self-test: all calls of some kinds, in order.

    python -m numbadw.selftest.batch SEED FIRST LAST CALLS BACKEND

Writes one line of JSON after each kind.  A child keeps the memory of what it compiled,
and a crash, to itself.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from numbadw.console import say
from numbadw.selftest.check import fault_of
from numbadw.selftest.draws import kinds


class Report(NamedTuple):
    """What came of the calls of one kind."""

    kind: int
    calls: int
    compiled: list[str]  # the labels of all kernels that its process has compiled
    wrong: list[tuple[str, str]]  # case, as the option --case takes it, and fault


def main(argv: Sequence[str]) -> int:
    """Run the kinds and report each."""
    seed, first, last, calls = map(int, argv[:4])
    (backend,) = argv[4:]
    for number, kind in enumerate(itertools.islice(kinds(seed), last)):
        if number >= first:
            say(json.dumps(run(kind, seed, number, calls, backend)))
    return 0


def run(kind: Any, seed: int, number: int, calls: int, backend: str) -> Report:
    """Make the calls of a kind."""
    wrong = []
    for draw in range(calls):
        fault = fault_of(kind, seed, number, draw, backend)
        if fault:
            wrong.append((f"{number}:{draw}", fault))
    return Report(number, calls, compiled(backend), wrong)


def compiled(backend: str) -> list[str]:
    """Return the labels of the kernels compiled (or loaded) so far."""
    if backend == "cuda":
        from numbadw.cuda import launch

        return sorted(launch.LOADED)
    from numbadw.cpu import kernels

    return sorted({kernel.__name__ for kernel in kernels.COMPILED})


def read(line: str) -> Report:
    """Return the report that a line holds."""
    report = Report(*json.loads(line))
    return report._replace(wrong=[(case, fault) for case, fault in report.wrong])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
