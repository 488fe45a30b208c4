"""The command `python -m numbadw bench`: numbadw beside its peers, row by row."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from numbadw.bench import results, table
from numbadw.bench.bar import Bar
from numbadw.bench.cold import cold_rows
from numbadw.bench.measure import machine
from numbadw.bench.passes import FORWARD
from numbadw.bench.peers import PEERS
from numbadw.bench.results import Row, Run
from numbadw.bench.targets import TARGETS, Target
from numbadw.bench.tasks import COLD
from numbadw.bench.worker import Job, WorkerError, start_job
from numbadw.console import progress, say
from numbadw.dispatch import BackendUnavailableError
from numbadw.threads import allowed

QUICK_STARTS, FULL_STARTS = 1.5, 6.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison that the arguments ask for, or read one, and report it."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    command = shlex.join(["python", "-m", "numbadw", "bench", *(argv or ())])
    try:
        if arguments.from_json:
            run = results.load(arguments.from_json)
            _print(run)
        else:
            TARGETS[arguments.backend].require()
            run = _measure(arguments, command)
            if not run.rows:
                return 1
        _write(run, arguments)
    except BackendUnavailableError as error:
        progress(str(error))
        return 1
    except (OSError, ValueError, WorkerError, ImportError) as error:
        progress(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _measure(arguments: argparse.Namespace, command: str) -> Run:
    """Measure everything asked for, printing every row as it comes."""
    target = TARGETS[arguments.backend]
    tasks = target.tasks(
        full=arguments.full,
        kind=arguments.kind,
        batch=arguments.batch,
        text=arguments.filter,
    )
    run = Run(command, str(date.today()), arguments.backend, machine())
    run.machine.update(target.machine())
    if not tasks:
        progress(f"no workload has {arguments.filter!r} in its name")
        return run
    say("; ".join(f"{name} {value}" for name, value in run.machine.items()))
    complete = (arguments.kind, arguments.batch, arguments.filter) == (None, None, "")
    seconds = target.seconds[arguments.full]
    count = len(arguments.threads)
    try:
        with Bar(len(tasks) * count) as bar:
            for threads in sorted(arguments.threads):
                job = Job(
                    arguments.backend,
                    threads,
                    tuple(tasks),
                    tuple(arguments.peers),
                    arguments.rounds,
                    seconds / count,
                    run.alone,
                )
                _run_job(job, run, bar)
    except KeyboardInterrupt:
        progress("stopped; this is what was measured until then")
        complete = False
    if complete and target.cold:
        starts = FULL_STARTS if arguments.full else QUICK_STARTS
        present = [name for name in arguments.peers if name not in run.missing]
        rows = cold_rows(present, max(arguments.threads), starts)
        run.rows += rows
        _print_rows(COLD, rows)
    for text in _conclusion(run):
        say(text)
    return run


def _run_job(job: Job, run: Run, bar: Bar) -> None:
    """Measure with one number of threads; print and keep what comes."""
    width = max(len(task.workload.id) for task in job.tasks)
    group = None
    with closing(start_job(job)) as events:
        for name, value in events:
            if name == "missing":
                run.missing.update(value)
            elif name == "ceilings":
                limits = results.read_ceilings(value)
                run.ceilings.append(limits)
                bar.say(f"\n{table.count(job.threads)}, {table.limits(limits)}")
                bar.say(table.header(width))
            elif name == "note":
                run.notes.append(value)
                bar.say(value)
            elif name == "waited":
                run.waited = max(run.waited, value)
            else:
                row = results.read_row(value)
                run.rows.append(row)
                if row.group != group:
                    bar.say(f"{row.group}:")
                    group = row.group
                bar.say(table.line(row, width))
                bar.step(row.name)


def _print(run: Run) -> None:
    """Print a run that was read as it was printed when measured."""
    say("; ".join(f"{name} {value}" for name, value in run.machine.items()))
    say(f"{run.command}, {run.date}")
    for note in run.notes:
        say(note)
    for limits in run.ceilings:
        say(f"\n{table.count(limits.threads)}, {table.limits(limits)}")
        for group in run.groups:
            _print_rows(group, run.select(limits.threads, group))
    for text in _conclusion(run):
        say(text)


def _print_rows(group: str, rows: Sequence[Row]) -> None:
    """Print one group."""
    if rows:
        width = max(len(row.name) for row in rows)
        say(table.header(width))
        say(f"{group}:")
        for row in rows:
            say(table.line(row, width))


def _conclusion(run: Run) -> list[str]:
    """Write the means, what was left out, and what can be installed."""
    lines = []
    for threads in run.threads:
        lines += ["", *table.summary(run, threads)]
    notes = dict.fromkeys(note for row in run.rows for note in row.notes)
    lines += [f"left out: {note}" for note in notes]
    lines += [f"missing: {name}: {why}" for name, why in run.missing.items()]
    if disturbed := table.disturbance(run):
        lines.append(disturbed)
    return lines


def _write(run: Run, arguments: argparse.Namespace) -> None:
    """Write the files asked for."""
    if arguments.json:
        results.save(run, arguments.json)
        say(f"wrote {arguments.json}")
    if arguments.plot:
        from numbadw.bench import charts

        for path in charts.draw_all(run, arguments.plot):
            say(f"wrote {path}")
    if arguments.readme:
        from numbadw.bench import report

        for path in report.write(run, arguments.readme):
            say(f"wrote {path}")
    if arguments.compare:
        for text in table.compare(run, results.load(arguments.compare)):
            say(text)


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Complete the arguments, and explain those that cannot be followed."""
    target = _check_target(parser, arguments)
    peers = target.passes[arguments.kind or FORWARD].peers
    if arguments.peers is None:
        arguments.peers = list(peers)
    for name in arguments.peers:
        if name not in peers:
            parser.error(f"peers are {', '.join(peers)}; got {name!r}")
    if arguments.batch is not None and arguments.batch < 1:
        parser.error(f"--batch must be at least 1, got {arguments.batch}")
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    if not arguments.threads:
        arguments.threads = target.threads()
    for threads in arguments.threads:
        if not 1 <= threads <= allowed():
            parser.error(f"--threads must be 1 to {allowed()} here, got {threads}")


def _check_target(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> Target:
    """Give the target, and explain what it does not have."""
    target = TARGETS[arguments.backend]
    if arguments.kind not in (None, *target.passes):
        names = ", ".join(target.passes)
        parser.error(f"--pass on {arguments.backend} is one of {names}")
    if not target.cold and (arguments.plot or arguments.readme):
        parser.error("--plot and --readme are for runs on the CPU")
    return target


def _parser() -> argparse.ArgumentParser:
    """Make the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m numbadw bench",
        description="Time numbadw beside the installed libraries, layer by layer.",
    )
    add = parser.add_argument
    add(
        "--full",
        action="store_true",
        help="every workload: half an hour, not three minutes; on cuda some minutes",
    )
    add(
        "--threads",
        type=_list_of(int),
        metavar="N[,N]",
        help="default: 1 and all allowed",
    )
    add(
        "--peers",
        type=_list_of(str),
        metavar="NAME[,NAME]",
        help=f"some of {', '.join(PEERS)}; empty for none (default: all installed)",
    )
    add("--json", type=Path, metavar="PATH", help="write everything measured")
    add("--plot", type=Path, metavar="DIR", help="draw charts as PNG files")
    add(
        "--readme",
        type=Path,
        metavar="PATH",
        help="write the table and the chart of a README between its markers",
    )
    add(
        "--from-json",
        type=Path,
        metavar="PATH",
        help="report this run, measure nothing",
    )
    add(
        "--compare",
        type=Path,
        metavar="PATH",
        help="compare the means with another run's",
    )
    add(
        "--pass",
        dest="kind",
        choices=list(
            dict.fromkeys(name for t in TARGETS.values() for name in t.passes)
        ),
        help="only this pass; gradients: of input, kernel and bias; numpy: on cuda",
    )
    add("--batch", type=int, metavar="N", help="the layers alone, at this batch")
    add("--filter", default="", metavar="TEXT", help="all workloads named with TEXT")
    add("--rounds", type=int, default=30, metavar="N", help="most rounds (default 30)")
    add("--backend", choices=list(TARGETS), default="cpu", help="default cpu")
    return parser


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Make a parser of comma-separated values."""

    def parse(text: str) -> list[Any]:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]

    return parse
