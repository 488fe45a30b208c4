"""Write the README's speed section from a run: a chart, a table, where and how."""

import shlex
from pathlib import Path

from numbadw.bench import charts
from numbadw.bench.passes import FORWARD
from numbadw.bench.results import Row, Run, geometric_mean
from numbadw.bench.table import count, disturbance, three
from numbadw.bench.tasks import COLD, IMAGE, LARGE, LAYERS

BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
# Beside the README: the chart's file.
CHART = Path("docs", "speed.png")
LOSS = "**LOSS**"
# The chart has every row of these groups, the table those of a few models: the means
# below them count all that were measured.
SHOWN_GROUPS = (LAYERS, LARGE, IMAGE)
SHOWN = ("mobilenet_v1-", "convnext_t-", "image-")
# What a reader wants to know of the machine first; versions follow.
FIRST = ("cpu", "cpus allowed", "system", "python")


def heads(threads: list[int]) -> list[str]:
    """Give the table's headings."""
    cells = ["microseconds a call"]
    for number in threads:
        cells += [f"{count(number)}", "best peer", "ratio"]
    return cells


def block(run: Run) -> str:
    """Write what stands between the markers."""
    threads = run.threads
    lines = [
        f"![GFLOP/s of numbadw and its peers by layer]({CHART.as_posix()})",
        "",
        _line(heads(threads)),
        "|---|" + "--:|---|--:|" * len(threads),
    ]
    for group in SHOWN_GROUPS:
        named = {(row.name, row.threads): row for row in run.rows if row.group == group}
        for name in dict.fromkeys(name for name, _ in named):
            rows = [named.get((name, number)) for number in threads]
            if name.startswith(SHOWN):
                lines.append(_line([name, *(c for row in rows for c in _cells(row))]))
    for group in run.groups:
        cells = [c for number in threads for c in _mean_cells(run, number, group)]
        if any(cells) and group != COLD:
            lines.append(_line([f"**{group}**, geometric mean", *cells]))
    return "\n".join([*lines, "", f"{_facts(run)} {disturbance(run)}".rstrip()])


def write(run: Run, path: Path) -> list[Path]:
    """Replace what stands between the markers of a README, and draw its chart.

    Raises
    ------
    ValueError
        The README has no markers, or the run no row of the forward pass.
    """
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        msg = f"{path} must hold the markers {BEGIN} and {END}"
        raise ValueError(msg)
    shown = [
        row for group in SHOWN_GROUPS for row in run.select(run.threads[-1], group)
    ]
    if not shown:
        msg = f"the run holds none of the README's rows, pass {FORWARD!r}"
        raise ValueError(msg)
    chart = path.parent / CHART
    chart.parent.mkdir(exist_ok=True)
    charts.draw_speed(shown, run, chart)
    path.write_text(f"{before}{BEGIN}\n{block(run)}\n{END}{after}", encoding="utf-8")
    return [path, chart]


def _line(cells: list[str]) -> str:
    """Write one line of the table."""
    return f"| {' | '.join(cells)} |"


def _cells(row: Row | None) -> list[str]:
    """Give one row's cells for one thread count: time, best peer, ratio."""
    if row is None:
        return ["", "", ""]
    best = row.best_peer
    if best is None:
        return [three(row.time * 1e6), "", ""]
    ratio = f"{row.ratio:.2f}" + (f" {LOSS}" if row.lost else "")
    return [three(row.time * 1e6), f"{best} {three(row.seconds[best] * 1e6)}", ratio]


def _mean_cells(run: Run, threads: int, group: str) -> list[str]:
    """Give one group's cells for one thread count: losses, rows and mean."""
    rows = [row for row in run.select(threads, group) if row.best_peer]
    if not rows:
        return ["", "", ""]
    mean = geometric_mean(row.ratio for row in rows)
    losses = sum(row.lost for row in rows)
    return ["", f"{losses} of {len(rows)} lost", f"**{mean:.2f}**"]


def _facts(run: Run) -> str:
    """Write where, when and how the times were taken."""
    facts = run.machine
    cpu, allowed, system, python = (facts[name] for name in FIRST)
    versions = [f"{name} {text}" for name, text in facts.items() if name not in FIRST]
    command = " ".join(shlex.split(run.command))
    peaks = [
        f"{limits.flops / 1e9:.0f} GFLOP/s and {limits.bandwidth(1 << 28) / 1e9:.0f} "
        f"GB/s on {count(limits.threads)}"
        for limits in run.ceilings
    ]
    return (
        "Ratio: time of the best peer over numbadw's (a built layer with `out=`, or "
        f"all gradients); below 1 is a loss. {cpu}, {allowed} cores "
        f"({'; '.join(peaks)}), {system}, "
        f"{run.date}, python {python}, {', '.join(versions)}. Made by `{command}`."
    )
