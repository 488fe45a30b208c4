"""The tables of `python -m numbadw bench`: a line for each row, then the means."""

from collections.abc import Sequence

from numbadw.bench.ceilings import Ceilings, describe
from numbadw.bench.results import Row, Run, geometric_mean, means

# Waiting for a core this share of the time is worth a warning.
DISTURBED = 0.05


def header(width: int) -> str:
    """Write the head of the table."""
    return (
        f"{'':{width}} {'numbadw':>9} {'GFLOP/s':>7} {'GB/s':>6} {'of limit':>8} "
        f"{'best peer':>9} {'ratio':>6}"
    )


def line(row: Row, width: int) -> str:
    """Write one row: our time and rates, the best peer's time, losses marked.

    numbadw's other calls stand at the end.
    """
    best, giga = row.best_peer, 1e9 * row.time
    cells = [f"{row.name:{width}} {duration(row.time):>9}"]
    if row.least:
        cells.append(f"{three(row.flops / giga):>7} {three(row.bytes / giga):>6}")
        cells.append(f"{row.share:>8.0%}")
    else:
        cells.append(f"{'-':>7} {'-':>6} {'-':>8}")
    if best:
        mark = " LOSS" if row.lost else ""
        cells.append(f"{duration(row.seconds[best]):>9} {row.ratio:6.2f} {best}{mark}")
    beside = [f"{name} {duration(row.seconds[name])}" for name in row.ours[1:]]
    if beside:
        cells.append(f"({', '.join(beside)})")
    return " ".join(cells)


def limits(ceilings: Ceilings) -> str:
    """Write the machine's limits in a line."""
    copies = describe(ceilings.copies)
    return f"limits: {ceilings.flops / 1e9:.0f} GFLOP/s of multiply-adds; {copies}"


def summary(run: Run, threads: int) -> list[str]:
    """Write the geometric means and losses of every group, and of every peer."""
    lines = []
    for group in run.groups:
        rows = [row for row in run.select(threads, group) if row.best_peer]
        if rows:
            lines.append(f"  {group}: {mean_text(rows)}")
            lines += [
                f"    {row.name}: {row.ratio:.2f} ({row.best_peer})"
                for row in rows
                if row.lost
            ]
    if lines:
        lines.insert(0, f"Times as fast as the best peer, {count(threads)}:")
    beside = _peer_means(run, threads)
    if beside:
        lines += [f"Times as fast as each peer, {count(threads)}:", *beside]
    return lines


def mean_text(rows: Sequence[Row]) -> str:
    """Write the geometric mean, the range and the number of losses."""
    ratios = [row.ratio for row in rows]
    losses = sum(row.lost for row in rows)
    return (
        f"geometric mean {geometric_mean(ratios):.2f}, {min(ratios):.2f} to "
        f"{max(ratios):.2f}, {losses} of {len(rows)} lost"
    )


def count(threads: int) -> str:
    """Write a number of threads."""
    return f"{threads} thread{'s' * (threads > 1)}"


def disturbance(run: Run) -> str:
    """Write a warning where others kept the measuring thread waiting, else nothing."""
    if run.waited <= DISTURBED:
        return ""
    return (
        f"Disturbed: {run.waited:.0%} of its time the measuring thread waited for a "
        "core that other programs or the peers' own threads had; times may be too "
        "long, most of all of libraries whose threads wait for each other."
    )


def compare(run: Run, other: Run) -> list[str]:
    """Write how far two runs' geometric means are apart."""
    before, now = means(other), means(run)
    lines = [f"Geometric means beside those of {other.date}, {other.command}:"]
    for group, threads in now:
        if (group, threads) in before:
            old, new = before[group, threads], now[group, threads]
            lines.append(
                f"  {group}, {count(threads)}: {old:.2f} -> {new:.2f} "
                f"({new / old - 1:+.0%})"
            )
    return lines


def _peer_means(run: Run, threads: int) -> list[str]:
    """Write the geometric mean beside each peer, over the rows that it ran."""
    rows = [row for row in run.rows if row.threads == threads and row.least]
    names = dict.fromkeys(name for row in rows for name in row.peers)
    lines = []
    for name in names:
        parts = []
        for kind in dict.fromkeys(row.kind for row in rows):
            ratios = [
                row.seconds[name] / row.time
                for row in rows
                if row.kind == kind and name in row.peers
            ]
            if ratios:
                mean = geometric_mean(ratios)
                parts.append(f"{kind} {mean:.2f} ({len(ratios)} rows)")
        lines.append(f"  {name}: {', '.join(parts)}")
    return lines


def duration(seconds: float) -> str:
    """Write a time with three digits in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{three(seconds * factor)} {unit}"
    return f"{three(seconds * 1e6)} us"


def three(number: float) -> str:
    """Write three significant digits, never an exponent."""
    for digits, limit in ((2, 10), (1, 100)):
        if number < limit:
            return f"{number:.{digits}f}"
    return f"{number:.0f}"
