"""The command `python -m numbadw bench`: numbadw beside its rivals, layer by layer."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numbadw
from numbadw.bench.measure import interleaved, machine
from numbadw.bench.models import Unavailable
from numbadw.bench.oracle import Oracle
from numbadw.bench.passes import FORWARD, PASSES, Pass
from numbadw.bench.rivals import Prepared
from numbadw.bench.table import Row, header, line, summary, write_csv
from numbadw.bench.workloads import Workload, load_layers, load_workloads, make_data
from numbadw.console import say


class Contest:
    """One pass over one workload: its data, and calls that are checked before timed.

    The calls need it alive: some rivals read their data by address.
    """

    def __init__(self, kind: Pass, workload: Workload) -> None:
        self.kind, self.workload = kind, workload
        self._data = make_data(workload)
        self._oracle = Oracle(workload, *self._data)
        self._ours = kind.prepare(workload, *self._data)
        self._alive: list[Prepared] = []

    def call(self, name: str, threads: int) -> Callable[[], object]:
        """Give what is timed under a name of numbadw's or a rival's.

        Raises
        ------
        Unavailable
            The rival is not installed or cannot run the workload.
        ValueError
            The result is wrong.
        """
        workload, check = self.workload, self._oracle.check
        if name in self.kind.ours:
            ours, results = self._ours[name], self.kind.part(name).results
            check(name, ours(), workload.padding, results)
            return ours
        rival = self.kind.rivals[name](workload, *self._data, threads)
        check(name, rival.fetch(), rival.padding, self.kind.results)
        self._alive.append(rival)
        return rival.call


def measure(
    kind: Pass, workload: Workload, threads: int, rivals: Iterable[str], rounds: int
) -> Row:
    """Check and time one workload with numbadw and the named rivals.

    A rival that is missing or wrong is left out with a note; numbadw being wrong is
    an error.
    """
    contest = Contest(kind, workload)
    calls = {name: contest.call(name, threads) for name in kind.ours}
    notes: list[str] = []
    for name in rivals:
        try:
            calls[name] = contest.call(name, threads)
        except (Unavailable, ValueError) as error:
            notes.append(f"{name}: {error}")
    seconds = interleaved(calls, rounds=rounds, yardstick=kind.yardstick)
    return Row(workload, threads, seconds, notes, kind)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison that the arguments ask for and print it."""
    arguments = _arguments(argv)
    kind, batch = PASSES[arguments.kind], arguments.batch
    plain = kind.name == FORWARD and batch == 1
    workloads = load_workloads() if plain else load_layers(batch)
    workloads = [workload for workload in workloads if arguments.filter in workload.id]
    if not workloads:
        say(f"no workload has {arguments.filter!r} in its name")
        return 1
    rows: list[Row] = []
    for threads in arguments.threads:
        with numbadw.num_threads(threads):
            rows += _run(kind, workloads, threads, arguments)
    if arguments.csv:
        write_csv(arguments.csv, rows)
    if arguments.readme:
        from numbadw.bench import readme

        readme.write(arguments.readme, rows, machine(max(arguments.threads)))
    return 0


def _run(
    kind: Pass,
    workloads: Sequence[Workload],
    threads: int,
    arguments: argparse.Namespace,
) -> list[Row]:
    """Measure and print the table of one thread count."""
    facts = machine(numbadw.get_num_threads())
    say("; ".join(f"{name} {value}" for name, value in facts.items()))
    names = [*kind.ours, *arguments.rivals]
    width = max(len(workload.id) for workload in workloads)
    say(header(names, width))
    rows, notes = [], dict[str, None]()
    for workload in workloads:
        row = measure(kind, workload, threads, arguments.rivals, arguments.rounds)
        say(line(row, names, width))
        rows.append(row)
        notes.update(dict.fromkeys(row.notes))
    for text in [*summary(rows), *(f"left out: {note}" for note in notes), ""]:
        say(text)
    return rows


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments and check what one of them demands of another."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    kind = PASSES[arguments.kind]
    if arguments.rivals is None:
        arguments.rivals = list(kind.default_rivals)
    for name in arguments.rivals:
        if name not in kind.rivals:
            known = ", ".join(kind.rivals)
            parser.error(f"rivals of --pass {kind.name} are {known}; got {name!r}")
    if arguments.batch < 1:
        parser.error(f"--batch must be at least 1, got {arguments.batch}")
    if arguments.readme and (kind.name, arguments.batch) != (FORWARD, 1):
        parser.error("--readme writes the table of the forward pass at batch 1")
    return arguments


def _parser() -> argparse.ArgumentParser:
    """Make the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m numbadw bench",
        description="Time numbadw beside the installed rivals, layer by layer.",
    )
    add = parser.add_argument
    add(
        "--pass",
        dest="kind",
        choices=list(PASSES),
        default=FORWARD,
        help="what is timed (default forward); gradients: of input, kernel and bias",
    )
    add(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="images of every layer (default 1)",
    )
    add(
        "--threads",
        type=_list_of(int),
        default=[1, 2],
        metavar="N[,N]",
        help="thread counts, one table each (default 1,2)",
    )
    add("--filter", default="", metavar="TEXT", help="only workloads named with TEXT")
    add("--rounds", type=int, default=30, metavar="N", help="rounds (default 30)")
    add("--csv", type=Path, metavar="PATH", help="also write a CSV file")
    add("--readme", type=Path, metavar="PATH", help="also write a README's table")
    add(
        "--rivals",
        type=_list_of(str),
        metavar="NAME[,NAME]",
        help=f"some of {', '.join(PASSES[FORWARD].rivals)}, gradients only of torch_*; "
        "empty for none (default: all but scipy)",
    )
    return parser


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Make a parser of comma-separated values."""

    def parse(text: str) -> list[Any]:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]

    return parse
