"""PNG charts of a run: speed beside the peers, roofline, scaling.

numbadw is the filled, dark blue mark everywhere; every peer has a colour of its own
that no other chart gives to another.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numbadw.bench.ceilings import Ceilings
from numbadw.bench.passes import FORWARD, GRADIENTS
from numbadw.bench.results import Row, Run, geometric_mean
from numbadw.bench.table import count
from numbadw.bench.tasks import BATCHES, IMAGE, LARGE, LAYERS, SPECIAL, TRAINING

OURS, OUR_COLOUR = "numbadw", "#0b3d91"
COLOURS = {
    "torch_channels_last": "#ee4c2c",
    "torch_contiguous": "#f4a58a",
    "onnxruntime": "#8a8a8a",
    "openvino": "#c77dff",
    "openvino_nhwc": "#7b2cbf",
    "litert": "#2a9d3f",
    "tensorflow": "#ff9f1c",
    "jax": "#00a6a6",
    "opencv": "#d4b106",
    "scipy": "#b5838d",
}
PAPER, GRID = "#ffffff", "#d9d9d9"
PEER_EDGE, LOSS_COLOUR = "#e07a1f", "#c1121f"
DPI = 110
GIGA = 1e9
# Groups whose rows are layers, so that one chart holds them.
FORWARD_GROUPS = (LAYERS, LARGE, IMAGE, SPECIAL)
ROOFLINE_GROUPS = (*FORWARD_GROUPS, BATCHES)
# Marks of the roofline by the kernel's larger side, up to and including it.
KERNEL_MARKS = ((3, "o", "3x3"), (7, "s", "up to 7x7"), (99, "D", "larger"))
# Copies whose speed the roofline shows as a slope, by bytes moved.
SLOPES = (1 << 17, 1 << 22, 1 << 28)


def draw_all(run: Run, folder: Path) -> Iterator[Path]:
    """Draw every chart that the run has rows for; give the paths as they are written.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        message = 'charts need matplotlib: pip install "numbadw[plot]"'
        raise ImportError(message) from error
    folder.mkdir(parents=True, exist_ok=True)
    threads = run.threads[-1]
    for kind, groups in ((FORWARD, FORWARD_GROUPS), (GRADIENTS, (TRAINING,))):
        rows = [row for group in groups for row in run.select(threads, group)]
        if rows:
            path = folder / f"speed_{kind}.png"
            draw_speed(rows, run, path)
            yield path
    if any(row.group in ROOFLINE_GROUPS for row in run.rows):
        path = folder / "roofline.png"
        draw_roofline(run, path)
        yield path
    path = folder / "scaling.png"
    if draw_scaling(run, path):
        yield path


def draw_speed(rows: Sequence[Row], run: Run, path: Path) -> None:
    """Draw one line for each row: numbadw as a bar, every peer as a dot."""
    figure, axis = _figure((10, 1.9 + 0.25 * len(rows)))
    places = range(len(rows))
    rates = [row.needed / row.time / GIGA for row in rows]
    bars = axis.barh(places, rates, 0.62, color=OUR_COLOUR, label=OURS, zorder=2)
    marks = [bars]
    for name, colour in COLOURS.items():
        found = [place for place in places if name in rows[place].peers]
        if found:
            speeds = [rows[i].needed / rows[i].peers[name] / GIGA for i in found]
            style = {"edgecolors": "white", "linewidths": 0.6, "zorder": 3}
            marks.append(
                axis.scatter(speeds, found, s=34, color=colour, label=name, **style)
            )
    for place, row in enumerate(rows):
        if row.best_peer:
            axis.annotate(
                f"{row.ratio:.2f}x" + (" LOSS" if row.lost else ""),
                (1.01, place),
                xycoords=axis.get_yaxis_transform(),
                va="center",
                fontsize=9,
                color=LOSS_COLOUR if row.lost else "black",
                weight="bold" if row.lost else "normal",
            )
    axis.set_yticks(places, [row.name for row in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel("GFLOP/s, padding not counted (further right is faster)")
    axis.grid(axis="x", color=GRID, zorder=0)
    what = "forward pass" if rows[0].kind == FORWARD else "gradients"
    figure.suptitle(
        f"Depthwise convolution, {what}: numbadw (bar) beside other libraries (dots)\n"
        f"{run.machine['cpu']}, {count(rows[0].threads)}, float32; "
        "at the right: times as fast as the best of the others",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    figure.legend(
        handles=marks, loc="outside lower center", ncols=6, fontsize=9, frameon=False
    )
    _save(figure, path)


def draw_roofline(run: Run, path: Path) -> None:
    """Draw the limits of every thread count and a dot for each forward row below.

    Operations on padding, which nobody has to do, are not counted here.
    """
    figure, axes = _figure((5.6 * len(run.ceilings), 5.4), len(run.ceilings))
    for axis, limits in zip(np.atleast_1d(axes), run.ceilings, strict=True):
        rows = [
            row
            for row in run.rows
            if row.group in ROOFLINE_GROUPS and row.threads == limits.threads
        ]
        _draw_limits(axis, limits, rows)
        least = 0
        for most, mark, label in KERNEL_MARKS:
            chosen = [
                row
                for row in rows
                if row.workload is not None
                and least < max(row.workload.kh, row.workload.kw) <= most
            ]
            least = most
            if chosen:
                axis.scatter(
                    [row.needed / row.bytes for row in chosen],
                    [row.needed / row.time / GIGA for row in chosen],
                    marker=mark,
                    s=30,
                    color=OUR_COLOUR,
                    alpha=0.75,
                    linewidths=0,
                    zorder=3,
                    label=f"numbadw, kernel {label}",
                )
        others = [row for row in rows if row.best_peer]
        axis.scatter(
            [row.needed / row.bytes for row in others],
            [row.needed / min(row.peers.values()) / GIGA for row in others],
            s=22,
            facecolors="none",
            edgecolors=PEER_EDGE,
            zorder=3,
            label="best other library",
        )
        axis.set(xscale="log", yscale="log")
        axis.set_ylim(top=1.6 * limits.flops / GIGA)
        _plain_ticks(axis)
        axis.set_xlabel("operations for each byte moved (FLOP/byte, none on padding)")
        axis.set_ylabel("speed (GFLOP/s)")
        axis.set_title(f"Roofline, {count(limits.threads)}", fontsize=11)
        axis.grid(color=GRID, zorder=0)
        axis.legend(loc="lower right", fontsize=8)
    figure.suptitle(
        f"{run.machine['cpu']}: each mark is a layer; lines are measured limits",
        fontsize=11,
    )
    _save(figure, path)


def _draw_limits(axis: Any, limits: Ceilings, rows: Sequence[Row]) -> None:
    """Draw the multiply-adds as a flat line, the copies as slopes, with their speed."""
    found = [row.needed / row.bytes for row in rows]
    ends = min(found) / 1.5, max(found) * 1.5
    peak = limits.flops / GIGA
    axis.axhline(peak, color="black", zorder=2)
    axis.text(ends[0], peak * 1.05, f"multiply-adds {peak:.0f} GFLOP/s", fontsize=8)
    for size, style in zip(SLOPES, (":", "--", "-"), strict=True):
        speed = limits.bandwidth(size) / GIGA
        line = np.geomspace(ends[0], ends[1], 50)
        heights = np.minimum(line * speed, peak)
        text = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
        axis.plot(
            line,
            heights,
            style,
            color="black",
            linewidth=1,
            zorder=2,
            label=f"copies of {text}: {speed:.0f} GB/s",
        )


def draw_scaling(run: Run, path: Path) -> bool:
    """Draw the speed over threads and over batch sizes; False with neither."""
    batches = _batch_rows(run)
    panels = [panel for panel in (len(run.threads) > 1, bool(batches)) if panel]
    if not panels:
        return False
    figure, axes = _figure((6.8 * len(panels), 4.8), len(panels))
    free = list(np.atleast_1d(axes))
    if len(run.threads) > 1:
        _draw_threads(free.pop(0), run)
    if batches:
        _draw_batches(free.pop(0), batches)
    _save(figure, path)
    return True


def _draw_threads(axis: Any, run: Run) -> None:
    """Draw how many times as fast each library is as on the least threads."""
    first = run.threads[0]
    by_name: dict[str, list[float]] = {}
    for name in (OURS, *COLOURS):
        gains = []
        for threads in run.threads:
            pairs = zip(
                _forward_times(run, first, name),
                _forward_times(run, threads, name),
                strict=True,
            )
            gains.append(geometric_mean(a / b for a, b in pairs))
        if gains[0] == gains[0]:
            by_name[name] = gains
    for name, gains in by_name.items():
        _line(axis, run.threads, gains, name)
    axis.plot(
        run.threads,
        [n / first for n in run.threads],
        "--",
        color="black",
        linewidth=1,
        label="ideal",
        zorder=1,
    )
    axis.set_xticks(run.threads)
    axis.set_ylim(0)
    axis.set_xlabel("threads")
    axis.set_ylabel(f"times as fast as on {count(first)}")
    axis.set_title("Scaling with threads, all layers (geometric mean)", fontsize=11)
    _finish(axis)


def _forward_times(run: Run, threads: int, name: str) -> list[float]:
    """Give a library's seconds on the layers, NaN where it did not run."""
    rows = [row for group in (LAYERS, LARGE) for row in run.select(threads, group)]
    return [
        row.time if name == OURS else row.peers.get(name, float("nan")) for row in rows
    ]


def _batch_rows(run: Run) -> list[Row]:
    """Give the rows of the layer that was measured at most batch sizes, in order."""
    threads = run.threads[-1]
    by_layer: dict[Any, list[Row]] = {}
    rows = [row for group in (LAYERS, BATCHES) for row in run.select(threads, group)]
    for row in rows:
        if row.workload is not None:
            by_layer.setdefault(row.workload._replace(n=1), []).append(row)
    best = max(by_layer.values(), key=len, default=[])
    return sorted(best, key=_batch) if len(best) > 1 else []


def _batch(row: Row) -> int:
    return row.workload.n if row.workload is not None else 1


def _draw_batches(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the images a second of every library over the batch size."""
    for name in (OURS, *COLOURS):
        points = [
            (_batch(row), _batch(row) / seconds / 1e3)
            for row in rows
            if (seconds := row.time if name == OURS else row.peers.get(name))
        ]
        if points:
            sizes, speeds = zip(*points, strict=True)
            _line(axis, sizes, speeds, name)
    axis.set(xscale="log", yscale="log")
    _plain_ticks(axis, [_batch(row) for row in rows])
    axis.set_xlabel("images in a batch")
    axis.set_ylabel("thousand images a second")
    axis.set_title(f"{rows[0].name}, {count(rows[0].threads)}", fontsize=11)
    _finish(axis)


def _line(axis: Any, x: Any, y: Any, name: str) -> None:
    """Draw one library's line, ours on top."""
    ours = name == OURS
    axis.plot(
        x,
        y,
        "o-",
        color=OUR_COLOUR if ours else COLOURS[name],
        label=name,
        linewidth=3 if ours else 1.4,
        markersize=7 if ours else 4,
        zorder=4 if ours else 2,
    )


def _plain_ticks(axis: Any, places: Sequence[int] | None = None) -> None:
    """Write numbers, not powers, at logarithmic axes; `places` are those along x."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    for part in (axis.xaxis, axis.yaxis):
        part.set_major_locator(LogLocator(subs=(1, 2, 5)))
        part.set_major_formatter(FormatStrFormatter("%g"))
        part.set_minor_formatter(NullFormatter())
    if places:
        axis.set_xticks(places, [str(place) for place in places])
        axis.minorticks_off()


def _finish(axis: Any) -> None:
    """Add the grid, and the legend beside what it explains."""
    axis.grid(color=GRID, zorder=0)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)


def _figure(size: tuple[float, float], columns: int = 1) -> tuple[Any, Any]:
    """Make a figure that no window system is asked for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def _save(figure: Any, path: Path) -> None:
    """Write a PNG of 256 colours, a quarter of the size of one with all.

    The octree keeps every colour of ours; the usual median cut merged some of them.
    """
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    octree = Image.Quantize.FASTOCTREE
    picture.quantize(method=octree).save(path, optimize=True)
