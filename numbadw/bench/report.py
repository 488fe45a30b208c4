"""The table of `python -m numbadw bench`: numbadw beside its rivals, layer by layer."""

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import numbadw
from numbadw.bench.measure import Oracle, interleaved, machine
from numbadw.bench.models import Unavailable
from numbadw.bench.rivals import RIVALS, Prepared
from numbadw.bench.workloads import (
    Workload,
    aligned_copy,
    load_workloads,
    make_data,
)
from numbadw.console import say
from numbadw.memory import aligned_empty

Array = NDArray[Any]

# What numbadw is measured as: a built layer with `out=`, the function on 64-byte
# aligned data, and the function on data as NumPy aligns it.
LAYER, FUNCTION, FUNCTION_16 = "layer", "function", "function_16"
OURS = (LAYER, FUNCTION, FUNCTION_16)
NUMPY_ALIGNMENT = 16
# scipy is slower by a factor of ten to a hundred: only on demand.
DEFAULT_RIVALS = tuple(name for name in RIVALS if name != "scipy")
LARGE_KERNELS = "replknet"
# Models whose rows are no network layers and count for no mean over the layers.
FILTERS = ("image",)


class Row(NamedTuple):
    """The times of one workload, seconds by name, and what was left out and why."""

    workload: Workload
    threads: int
    seconds: dict[str, float]
    notes: list[str]

    @property
    def best_rival(self) -> str | None:
        """Name of the fastest rival, None without rivals."""
        rivals = [name for name in self.seconds if name not in OURS]
        return min(rivals, key=self.seconds.__getitem__, default=None)

    @property
    def ratio(self) -> float:
        """Time of the best rival over the time of our layer; above 1 is faster."""
        best = self.best_rival
        return self.seconds[best] / self.seconds[LAYER] if best else float("nan")


def prepare_ours(
    workload: Workload, inputs: Array, kernel: Array
) -> dict[str, Callable[[], Array]]:
    """Make the calls of numbadw that are timed; each gives its result."""
    layer = numbadw.DepthwiseConv2D(
        (workload.kh, workload.kw),
        strides=(workload.sh, workload.sw),
        padding=workload.padding,
        dilation_rate=(workload.dh, workload.dw),
        depth_multiplier=workload.m,
        use_bias=False,
    )
    layer.build(workload.input_shape)
    layer.kernel[...] = kernel
    out = aligned_empty(workload.output_shape, np.float32)
    inputs_16 = aligned_copy(inputs, offset=NUMPY_ALIGNMENT)
    kernel_16 = aligned_copy(kernel, offset=NUMPY_ALIGNMENT)
    convolve, options = numbadw.depthwise_conv2d, workload.options
    return {
        LAYER: lambda: layer(inputs, out=out),
        FUNCTION: lambda: convolve(inputs, kernel, **options),
        FUNCTION_16: lambda: convolve(inputs_16, kernel_16, **options),
    }


def measure(
    workload: Workload, threads: int, rivals: Iterable[str], rounds: int
) -> Row:
    """Check and time one workload with numbadw and the named rivals.

    A rival that is missing or wrong is left out with a note; numbadw being wrong is
    an error.
    """
    inputs, kernel = make_data(workload)
    oracle = Oracle(workload, inputs, kernel)
    calls: dict[str, Callable[[], object]] = {}
    notes: list[str] = []
    # Some rivals read their data by address: they live until the times are taken.
    alive: list[Prepared] = []
    for name, ours in prepare_ours(workload, inputs, kernel).items():
        oracle.check(name, ours(), workload.padding)
        calls[name] = ours
    for name in rivals:
        try:
            rival = RIVALS[name](workload, inputs, kernel, threads)
            oracle.check(name, rival.fetch(), rival.padding)
        except (Unavailable, ValueError) as error:
            notes.append(f"{name}: {error}")
            continue
        alive.append(rival)
        calls[name] = rival.call
    return Row(workload, threads, interleaved(calls, rounds=rounds), notes)


def geometric_mean(ratios: Iterable[float]) -> float:
    """Give the geometric mean, NaN of nothing."""
    known = [ratio for ratio in ratios if ratio == ratio]
    return float(np.exp(np.mean(np.log(known)))) if known else float("nan")


def header(names: Sequence[str], width: int) -> str:
    """Write the head of the table."""
    cells = [
        f"{'us per call':{width}}",
        *(f"{name:>{_column(name)}}" for name in names),
    ]
    return " ".join([*cells, "GFLOP/s", "  GB/s", " ratio", "best rival"])


def line(row: Row, names: Sequence[str], width: int) -> str:
    """Write one row: times, our rates, best rival over our layer, losses marked."""
    workload, seconds = row.workload, row.seconds
    cells = [f"{workload.id:{width}}"]
    for name in names:
        time = _three(seconds[name] * 1e6) if name in seconds else "-"
        cells.append(f"{time:>{_column(name)}}")
    cells.append(f"{_three(workload.flops / seconds[LAYER] / 1e9):>7}")
    cells.append(f"{_three(workload.bytes / seconds[LAYER] / 1e9):>6}")
    cells.append(f"{row.ratio:6.2f}")
    cells.append((row.best_rival or "-") + (" LOSS" if row.ratio < 1 else ""))
    return " ".join(cells)


def summary(rows: Sequence[Row]) -> list[str]:
    """Write the geometric means over the layers, and every loss."""
    layers = [
        row for row in rows if row.workload.n == 1 and row.workload.model not in FILTERS
    ]
    usual = [row for row in layers if LARGE_KERNELS not in row.workload.model]
    others = [row for row in rows if row not in layers]
    groups = {
        f"layers without {LARGE_KERNELS}": usual,
        "all layers": layers,
        "images and batches": others,
    }
    lines = []
    for title, group in groups.items():
        ratios = [row.ratio for row in group if row.ratio == row.ratio]
        if ratios:
            lines.append(
                f"{title}: geometric mean {geometric_mean(ratios):.2f}x the best "
                f"rival, {min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rows"
            )
    losses = [row for row in rows if row.ratio < 1]
    if any(row.best_rival for row in rows):
        lines.append(f"losses: {len(losses)} of {len(rows)}")
    lines += [
        f"  {row.workload.id}: {row.ratio:.2f} ({row.best_rival})" for row in losses
    ]
    return lines


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write one line for each workload, thread count and name."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["workload", "threads", "name", "seconds", "flops", "bytes"])
        for row in rows:
            sizes = (row.workload.flops, row.workload.bytes)
            for name, seconds in row.seconds.items():
                fields = (row.workload.id, row.threads, name, f"{seconds:.4g}")
                writer.writerow([*fields, *sizes])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison that the arguments ask for and print it."""
    arguments = _parser().parse_args(argv)
    workloads = [
        workload for workload in load_workloads() if arguments.filter in workload.id
    ]
    if not workloads:
        say(f"no workload has {arguments.filter!r} in its name")
        return 1
    width = max(len(workload.id) for workload in workloads)
    rows: list[Row] = []
    for threads in arguments.threads:
        with numbadw.num_threads(threads):
            rows += _run(workloads, threads, arguments, width)
    if arguments.csv:
        write_csv(arguments.csv, rows)
    if arguments.readme:
        from numbadw.bench import readme

        readme.write(arguments.readme, rows, machine(max(arguments.threads)))
    return 0


def _run(
    workloads: Sequence[Workload],
    threads: int,
    arguments: argparse.Namespace,
    width: int,
) -> list[Row]:
    """Measure and print the table of one thread count."""
    facts = machine(numbadw.get_num_threads())
    say("; ".join(f"{name} {value}" for name, value in facts.items()))
    names = [*OURS, *arguments.rivals]
    say(header(names, width))
    rows, notes = [], dict[str, None]()
    for workload in workloads:
        row = measure(workload, threads, arguments.rivals, arguments.rounds)
        say(line(row, names, width))
        rows.append(row)
        notes.update(dict.fromkeys(row.notes))
    for text in [*summary(rows), *(f"left out: {note}" for note in notes), ""]:
        say(text)
    return rows


def _parser() -> argparse.ArgumentParser:
    """Make the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m numbadw bench",
        description="Time numbadw beside the installed rivals, layer by layer.",
    )
    parser.add_argument(
        "--threads",
        type=_list_of(int),
        default=[1, 2],
        metavar="N[,N]",
        help="thread counts, one table each (default 1,2)",
    )
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="only workloads named with TEXT"
    )
    parser.add_argument(
        "--rounds", type=int, default=30, metavar="N", help="rounds (default 30)"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="PATH", help="also write a CSV file"
    )
    parser.add_argument(
        "--readme", type=Path, metavar="PATH", help="also write a README's table"
    )
    parser.add_argument(
        "--rivals",
        type=_list_of(_rival),
        default=list(DEFAULT_RIVALS),
        metavar="NAME[,NAME]",
        help=f"some of {', '.join(RIVALS)}; empty for none (default: all but scipy)",
    )
    return parser


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Make a parser of comma-separated values."""

    def parse(text: str) -> list[Any]:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]

    return parse


def _rival(name: str) -> str:
    """Check the name of a rival."""
    if name not in RIVALS:
        raise argparse.ArgumentTypeError(
            f"rivals are {', '.join(RIVALS)}; got {name!r}"
        )
    return name


def _column(name: str) -> int:
    """Give the width of a column."""
    return max(len(name), 8)


def _three(number: float) -> str:
    """Write three significant digits, never an exponent."""
    digits = 2 - int(np.floor(np.log10(number))) if number > 0 else 0
    return (
        f"{number:.{max(digits, 0)}f}" if digits > 0 else f"{round(number, digits):.0f}"
    )
