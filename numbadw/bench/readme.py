"""Write the README's speed table from measured rows, between its two markers."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from numbadw.bench.passes import LAYER
from numbadw.bench.table import Row, summary

BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
# The layers shown; the summary below the table counts all that were measured.
SHOWN = ("mobilenet_v1", "convnext_t", "replknet_31b", "image")


def table(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """Return the table in Markdown: our time, the best rival's and the ratio."""
    threads = sorted({row.threads for row in rows})
    heads = [f"{n} thread{'s' * (n > 1)} | best rival | ratio" for n in threads]
    lines = [
        f"Microseconds a call (a built layer with `out=`), {date.today()}, "
        f"{facts['cpu']}, {facts['cpus allowed']} cores, numba {facts['numba']}, "
        f"numpy {facts['numpy']}; ratio = best rival / numbadw, below 1 is a loss:",
        "",
        f"| layer | {' | '.join(heads)} |",
        "|---|" + "--:|---|--:|" * len(threads),
    ]
    named = {(row.workload.id, row.threads): row for row in rows}
    for name in dict.fromkeys(row.workload.id for row in rows):
        if name.startswith(SHOWN) and "-n32" not in name:
            cells = [_cells(named[name, n]) for n in threads]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    for n in threads:
        texts = [t.strip() for t in summary([r for r in rows if r.threads == n])]
        lines += ["", f"{n} thread{'s' * (n > 1)}: {'; '.join(texts)}."]
    return "\n".join(lines)


def _cells(row: Row) -> str:
    """Return one row's cells for one thread count."""
    best = row.best_rival
    rival = f"{best} {row.seconds[best] * 1e6:.3g}" if best else "-"
    return f"{row.seconds[LAYER] * 1e6:.3g} | {rival} | {row.ratio:.2f}"


def write(path: Path, rows: Sequence[Row], facts: dict[str, str]) -> None:
    """Replace what stands between the markers of a README."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        msg = f"{path} must hold the markers {BEGIN} and {END}"
        raise ValueError(msg)
    block = f"{before}{BEGIN}\n{table(rows, facts)}\n{END}{after}"
    path.write_text(block, encoding="utf-8")
