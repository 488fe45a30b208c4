"""A run's results: rows of times with their rates, and the JSON file they live in."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from numbadw.bench.ceilings import Ceilings
from numbadw.bench.workloads import Workload

# Raised when an older file no longer holds what the report reads.
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """The times of one thing that was measured, and what they are compared with.

    Attributes
    ----------
    group, name : str
        Where the row stands and what it is: a workload's id, or what was started.
    kind : str
        The pass: "forward", "gradients" and so on, or "cold start".
    threads : int
        Threads of numbadw and of every peer.
    ours : tuple of str
        The names of numbadw's calls; the first is compared with the peers.
    seconds : dict of str to float
        Seconds a call by name, ours first.
    flops, needed, bytes : int
        Operations as everyone counts them, those that are on no padding, and bytes
        moved if everything is read and written once.
    least : float
        The seconds that the machine's ceilings allow; 0 where they say nothing.
    workload : Workload, optional
        What was computed.
    notes : tuple of str
        Which peers were left out, and why.
    """

    group: str
    name: str
    kind: str
    threads: int
    ours: tuple[str, ...]
    seconds: dict[str, float]
    flops: int = 0
    needed: int = 0
    bytes: int = 0
    least: float = 0.0
    workload: Workload | None = None
    notes: tuple[str, ...] = ()

    @property
    def time(self) -> float:
        """Seconds of our call that is compared."""
        return self.seconds[self.ours[0]]

    @property
    def peers(self) -> dict[str, float]:
        """Seconds of the peers."""
        return {k: v for k, v in self.seconds.items() if k not in self.ours}

    @property
    def best_peer(self) -> str | None:
        """Name of the fastest peer, None without peers."""
        return min(self.peers, key=self.peers.__getitem__, default=None)

    @property
    def ratio(self) -> float:
        """Time of the best peer over our time; above 1 is faster, NaN without peers."""
        best = self.best_peer
        return self.seconds[best] / self.time if best else float("nan")

    @property
    def lost(self) -> bool:
        """Whether the best peer is faster by what two digits show."""
        return round(self.ratio, 2) < 1

    @property
    def share(self) -> float:
        """Share of the roofline: the time that the ceilings allow over our time."""
        return self.least / self.time


@dataclass
class Run:
    """Everything that one run of the benchmark found out.

    `waited` is the share of its time that the measuring thread waited for a core while
    another thread had it, the worst of the thread counts; `notes` say what was checked
    before anything was timed.
    """

    command: str
    date: str
    backend: str
    machine: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)
    ceilings: list[Ceilings] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    waited: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def threads(self) -> list[int]:
        """The thread counts measured, in order."""
        return sorted({row.threads for row in self.rows})

    @property
    def groups(self) -> list[str]:
        """The groups measured, in the order of the report."""
        return list(dict.fromkeys(row.group for row in self.rows))

    @property
    def alone(self) -> dict[str, float]:
        """Seconds of the fastest peer on one thread, by the pass and the row's name."""
        rows = [row for row in self.rows if row.threads == 1 and row.best_peer]
        return {f"{r.kind} {r.name}": min(r.peers.values()) for r in rows}

    def select(self, threads: int, group: str) -> list[Row]:
        """Give the rows of one group and thread count."""
        return [r for r in self.rows if (r.threads, r.group) == (threads, group)]


def geometric_mean(ratios: Iterable[float]) -> float:
    """Give the geometric mean of what is no NaN, NaN of nothing."""
    known = [ratio for ratio in ratios if ratio == ratio]
    return float(np.exp(np.mean(np.log(known)))) if known else float("nan")


def means(run: Run) -> dict[tuple[str, int], float]:
    """Give the geometric mean of the ratios by group and thread count."""
    return {
        (group, threads): geometric_mean(r.ratio for r in run.select(threads, group))
        for group in run.groups
        for threads in run.threads
        if any(row.best_peer for row in run.select(threads, group))
    }


def save(run: Run, path: Path) -> None:
    """Write a run as JSON."""
    text = json.dumps({"format": FORMAT, **asdict(run)}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """Read a run that `save` wrote.

    Raises
    ------
    ValueError
        The file holds something else.
    """
    fields = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        msg = f"{path} is no run of `python -m numbadw bench --json` in format {FORMAT}"
        raise ValueError(msg)
    rows = [read_row(row) for row in fields.pop("rows")]
    ceilings = [read_ceilings(limits) for limits in fields.pop("ceilings")]
    return Run(**fields, rows=rows, ceilings=ceilings)


def read_row(fields: dict[str, Any]) -> Row:
    """Make a row of what JSON gives."""
    sizes = fields["workload"]
    return Row(
        **{
            **fields,
            "ours": tuple(fields["ours"]),
            "notes": tuple(fields["notes"]),
            "workload": None if sizes is None else Workload(*sizes),
        }
    )


def read_ceilings(fields: dict[str, Any]) -> Ceilings:
    """Make ceilings of what JSON gives."""
    return Ceilings(
        fields["threads"],
        fields["flops"],
        tuple(
            (int(size), plain, streamed) for size, plain, streamed in fields["copies"]
        ),
    )
