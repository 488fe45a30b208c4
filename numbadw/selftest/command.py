"""The options of `python -m numbadw selftest`, and its verdict."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numbadw import threads
from numbadw.console import progress, say
from numbadw.dispatch import BackendUnavailableError, require_cuda
from numbadw.selftest import families, long
from numbadw.selftest.batch import compiled
from numbadw.selftest.check import describe, fault_of, fault_of_family
from numbadw.selftest.draws import COMMON, draw_call, kind_number
from numbadw.selftest.families import FAMILIES

# The quick test: so many calls of each common kind, or as many as the seconds allow.
QUICK_CALLS, QUICK_SECONDS = 100, 20.0
LONG_KINDS, LONG_CALLS = 334, 300
MOST_JOBS = 8
MOST_CONTEXTS = 4  # each process has one of its own on the GPU
MOST_FAULTS = 20  # shown
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the self-test; 1 where a call gave a wrong result."""
    parser = argparse.ArgumentParser(
        prog="python -m numbadw selftest",
        description="Compare random forward and gradient calls with the float64 "
        "reference: an installation in half a minute, or every kind of kernel "
        "with --long.",
    )
    add = parser.add_argument
    add("--seed", type=int, help="another choice of calls (default 0)")
    add(
        "--case",
        type=_case,
        metavar="K[:D]",
        help=f"call D of kind K alone, or all of K; also {', '.join(FAMILIES)}",
    )
    add("--long", action="store_true", help="100,200 calls over 334 kinds of kernels")
    add("--state", type=Path, metavar="PATH", help="where --long keeps what is done")
    add("--kinds", type=_count, default=LONG_KINDS, help="of --long (default 334)")
    add("--calls", type=_count, default=LONG_CALLS, help="of a kind (default 300)")
    add("--jobs", type=_count, help="processes of --long (default: one a thread)")
    add("--backend", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    options = parser.parse_args(argv)
    if options.seed is not None and options.seed < 0:
        parser.error(f"argument --seed: expected a number >= 0, got {options.seed}")
    if options.backend == "cuda":
        try:
            require_cuda()
        except BackendUnavailableError as error:
            progress(str(error))
            return 1
    if options.case:
        return _one(options)
    if not options.long:
        return _quick(options.seed or 0, options.backend)
    path = options.state or long.default_path(options.backend)
    try:
        return _long(options, path)
    except (long.StateError, OSError) as error:
        parser.error(str(error))


def _quick(seed: int, backend: str) -> int:
    """Make calls of the common kinds, one kind after the other, until time is up."""
    start = last = time.monotonic()
    made = 0
    wrong: list[tuple[str, str]] = []
    kinds = [*range(len(COMMON)), *(FAMILIES if backend == "cpu" else ())]
    for draw, number in itertools.product(range(QUICK_CALLS), kinds):
        now = time.monotonic()
        if now - start > QUICK_SECONDS:
            progress("time is up; the next run makes more calls: compiled code is kept")
            break
        if now - last > 1:
            progress(f"{made} calls, {len(wrong)} wrong, {now - start:.0f} s")
            last = now
        fault = _fault(number, seed, draw, backend)
        made += 1
        if fault:
            wrong.append((f"{number}:{draw}", fault))
    counts = made, min(made, len(kinds)), len(compiled(backend))
    return _verdict((seed, backend), counts, time.monotonic() - start, wrong)


def _fault(number: int | str, seed: int, draw: int, backend: str) -> str:
    """Make one call of a kind or of a family and tell what is wrong."""
    if isinstance(number, str):
        return fault_of_family(number, seed, draw)
    return fault_of(kind_number(seed, number), seed, number, draw, backend)


def _one(options: Any) -> int:
    """Make the calls that a fault names again."""
    (number, draw), seed, backend = options.case, options.seed or 0, options.backend
    start = time.monotonic()
    draws = range(options.calls) if draw is None else range(draw, draw + 1)
    if not isinstance(number, str):
        kind = kind_number(seed, number)
        say(f"kind {number}: {kind.label}")
        if draw is not None:
            say(describe(draw_call(kind, seed, number, draw)))
    elif draw is not None:
        say(families.draw(number, seed, draw).text)
    wrong = []
    for each in draws:
        fault = _fault(number, seed, each, backend)
        if fault:
            wrong.append((f"{number}:{each}", fault))
    counts = len(draws), 1, len(compiled(backend))
    return _verdict((seed, backend), counts, time.monotonic() - start, wrong)


def _long(options: Any, path: Path) -> int:
    """Go on with the long test where its state file says that it ended."""
    state = long.load(path, options.seed, options.calls, options.backend)
    most = MOST_CONTEXTS if options.backend == "cuda" else MOST_JOBS
    jobs = options.jobs or min(threads.state.allowed, most)
    total = options.kinds * options.calls
    say(f"seed {state.seed}, {total:,} calls over {options.kinds} kinds; state: {path}")
    if state.done:
        say(f"{state.total:,} calls over {len(state.done)} kinds are done already")

    def tell(state: long.State) -> None:
        progress(
            f"{len(state.done)} of {options.kinds} kinds, {state.total:,} calls, "
            f"{len(state.wrong)} wrong, {state.seconds:.0f} s"
        )

    try:
        state = long.run(state, path, options.kinds, jobs, tell)
    except KeyboardInterrupt:
        progress("interrupted: the same command goes on from here")
        return INTERRUPTED
    counts = state.total, len(state.done), len(state.compiled)
    return _verdict((state.seed, state.backend), counts, state.seconds, state.wrong)


def _verdict(
    which: tuple[int, str],
    counts: tuple[int, int, int],
    seconds: float,
    wrong: list[tuple[str, str]],
) -> int:
    """Say how it went, and return the exit status."""
    seed, backend = which
    place = "" if backend == "cpu" else f" --backend {backend}"
    for case, fault in wrong[:MOST_FAULTS]:
        say(f"WRONG: {fault}")
        say(f"  again: python -m numbadw selftest{place} --seed {seed} --case {case}")
    calls, many, kernels = counts
    verdict = f"{len(wrong)} of them WRONG" if wrong else "all results are right"
    say(
        f"{calls:,} calls over {many} kinds of kernels ({kernels} compiled), "
        f"seed {seed}, {seconds:.0f} s: {verdict}"
    )
    return 1 if wrong else 0


def _case(text: str) -> tuple[int | str, int | None]:
    """Read "17", "17:203" or "pixels:3"."""
    try:
        name, _, draw = text.partition(":")
        number = name if name in FAMILIES else int(name)
        case = number, int(draw) if draw else None
        if min(0 if isinstance(number, str) else number, case[1] or 0) < 0:
            raise ValueError
    except ValueError:
        message = f"expected a case as in 17 or 17:203, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return case


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 1, got {text!r}")
    return int(text)
