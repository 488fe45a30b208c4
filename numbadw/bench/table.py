"""The tables of `python -m numbadw bench`: rows, their text, their means and CSV."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from numbadw.bench.oracle import INPUT_GRAD, KERNEL_GRAD
from numbadw.bench.passes import FORWARD, PASSES, Pass
from numbadw.bench.workloads import Workload

LARGE_KERNELS = "replknet"
WIDE_KERNELS = (5, 7)
# Models whose rows are no network layers and count for no mean over the layers.
FILTERS = ("image",)
# A single gradient that takes more than this many forward passes is listed.
FORWARD_LIMIT = 2.0


class Row(NamedTuple):
    """The times of one workload, seconds by name, and what was left out and why."""

    workload: Workload
    threads: int
    seconds: dict[str, float]
    notes: list[str]
    kind: Pass = PASSES[FORWARD]

    @property
    def best_rival(self) -> str | None:
        """Name of the fastest rival, None without rivals."""
        rivals = [name for name in self.seconds if name not in self.kind.ours]
        return min(rivals, key=self.seconds.__getitem__, default=None)

    @property
    def ratio(self) -> float:
        """Time of the best rival over our time; above 1 is faster."""
        best = self.best_rival
        return self.seconds[best] / self.seconds[self.kind.main] if best else np.nan

    def forwards(self, name: str) -> float:
        """Time of one of our calls over that of the forward pass in the same run."""
        return self.seconds[name] / self.seconds[FORWARD]


def geometric_mean(ratios: Iterable[float]) -> float:
    """Give the geometric mean, NaN of nothing."""
    known = [ratio for ratio in ratios if ratio == ratio]
    return float(np.exp(np.mean(np.log(known)))) if known else float("nan")


def header(names: Sequence[str], width: int) -> str:
    """Write the head of the table."""
    cells = [
        f"{'us per call':{width}}",
        *(f"{name:>{_column(name)}}" for name in names),
        "GFLOP/s",
        "  GB/s",
        *(_forwards(name) for name in _gradients(names)),
        " ratio",
        "best rival",
    ]
    return " ".join(cells)


def line(row: Row, names: Sequence[str], width: int) -> str:
    """Write one row: times, our rates, best rival over our time, losses marked."""
    seconds, kind = row.seconds, row.kind
    cells = [f"{row.workload.id:{width}}"]
    for name in names:
        time = _three(seconds[name] * 1e6) if name in seconds else "-"
        cells.append(f"{time:>{_column(name)}}")
    giga = 1e9 * seconds[kind.main]
    cells.append(f"{_three(kind.flops(row.workload) / giga):>7}")
    cells.append(f"{_three(kind.bytes(row.workload) / giga):>6}")
    for name in _gradients(names):
        cells.append(f"{row.forwards(name):{len(_forwards(name))}.2f}")
    cells.append(f"{row.ratio:6.2f}")
    cells.append((row.best_rival or "-") + (" LOSS" if row.ratio < 1 else ""))
    return " ".join(cells)


def summary(rows: Sequence[Row]) -> list[str]:
    """Write the geometric means over the layers, and every row that falls short."""
    kind, batch = rows[0].kind, min(row.workload.n for row in rows)
    layers = [
        row
        for row in rows
        if row.workload.n == batch and row.workload.model not in FILTERS
    ]
    usual = [row for row in layers if LARGE_KERNELS not in row.workload.model]
    large = [row for row in layers if row not in usual]
    groups = {f"layers without {LARGE_KERNELS}": usual}
    if kind.name != FORWARD:
        wide = [row for row in usual if row.workload.kh in WIDE_KERNELS]
        groups["5x5 and 7x7 of these"] = wide
    groups["all layers"] = layers
    groups["images and batches"] = [row for row in rows if row not in layers]
    lines = []
    for title, group in groups.items():
        ratios = [row.ratio for row in group if row.ratio == row.ratio]
        if ratios:
            lines.append(
                f"{title}: geometric mean {geometric_mean(ratios):.2f}x the best "
                f"rival, {min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rows"
            )
    if kind.name != FORWARD:
        lines += _ratios([row for row in large if row.best_rival])
    short = [row for row in rows if row.ratio < kind.target]
    if any(row.best_rival for row in rows):
        title = "losses" if kind.target == 1 else f"below {kind.target}x"
        lines.append(f"{title}: {len(short)} of {len(rows)}")
    lines += _ratios(short)
    for name in _gradients(kind.ours):
        lines += _beside_forward(name, rows)
    return lines


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write one line for each workload, thread count and name."""
    heads = ("workload", "threads", "pass", "name", "seconds", "flops", "bytes")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        for row in rows:
            for name, seconds in row.seconds.items():
                part = row.kind.part(name)
                sizes = part.flops(row.workload), part.bytes(row.workload)
                fields = (row.workload.id, row.threads, part.name, name)
                writer.writerow([*fields, f"{seconds:.4g}", *sizes])


def _ratios(rows: Iterable[Row]) -> list[str]:
    """Write the ratio of each row."""
    return [f"  {row.workload.id}: {row.ratio:.2f} ({row.best_rival})" for row in rows]


def _beside_forward(name: str, rows: Sequence[Row]) -> list[str]:
    """Write how many forward passes a gradient takes, and the rows above the limit."""
    times = [row.forwards(name) for row in rows]
    slow = [row for row in rows if row.forwards(name) > FORWARD_LIMIT]
    head = (
        f"{name}: geometric mean {geometric_mean(times):.2f} times the forward, "
        f"{min(times):.2f} to {max(times):.2f}; above {FORWARD_LIMIT:.0f}: "
        f"{len(slow)} of {len(rows)}"
    )
    return [head, *(f"  {row.workload.id}: {row.forwards(name):.2f}" for row in slow)]


def _gradients(names: Sequence[str]) -> list[str]:
    """Pick the columns that are compared with the forward pass beside them."""
    singles = (INPUT_GRAD, KERNEL_GRAD)
    return [name for name in names if name in singles] if FORWARD in names else []


def _forwards(name: str) -> str:
    """Give the heading of a gradient's time in forward passes."""
    return f"{name}/fwd"


def _column(name: str) -> int:
    """Give the width of a column."""
    return max(len(name), 8)


def _three(number: float) -> str:
    """Write three significant digits, never an exponent."""
    digits = 2 - int(np.floor(np.log10(number))) if number > 0 else 0
    return (
        f"{number:.{max(digits, 0)}f}" if digits > 0 else f"{round(number, digits):.0f}"
    )
