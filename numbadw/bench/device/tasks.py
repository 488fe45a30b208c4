"""What is measured on a device: the layers, by pass, dtype and batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from numbadw.bench.device.passes import PASSES, STAGED
from numbadw.bench.passes import FORWARD
from numbadw.bench.tasks import Task
from numbadw.bench.workloads import IMAGES, Workload, load_layers

DTYPES = ("float32", "bfloat16", "float16")
BATCHES = (1, 32)
# What all arrays of the largest batch hold together; past every cache.
LARGE_BYTES = 1_000_000_000
# Of the layers, those that the quick run takes, and those that go through NumPy.
QUICK = slice(0, None, 6)
QUICK_DTYPES, QUICK_BATCH = DTYPES[:2], 32


def large_batch(workload: Workload) -> int:
    """Give the even batch whose arrays hold about `LARGE_BYTES`."""
    image = workload._replace(n=2).bytes - workload._replace(n=1).bytes
    return 2 * max(1, round(LARGE_BYTES / (2 * image)))


def select_tasks(
    *, full: bool, kind: str | None = None, batch: int | None = None, text: str = ""
) -> list[Task]:
    """Choose the tasks of a run; the arguments are those of `bench.tasks`."""
    tasks = []
    for task in _every(full or bool(text), batch):
        if text in task.workload.id and kind in (None, task.kind):
            tasks.append(task)
    return tasks


def _every(full: bool, batch: int | None) -> Iterator[Task]:
    """Give the tasks of all passes, those of one group together."""
    dtypes = DTYPES if full else QUICK_DTYPES
    chosen = load_layers()[slice(None) if full else QUICK]
    for kind, dtype in itertools.product(PASSES, dtypes):
        if kind != STAGED:
            layers = [layer._replace(dtype=dtype) for layer in chosen]
            for title, sizes in _batches(layers, full, batch).items():
                for layer, n in zip(layers, sizes, strict=True):
                    group = f"{kind}, {dtype}, {title}"
                    yield Task(group, kind, layer._replace(n=n))
    for image in IMAGES:
        yield Task("image filtering", FORWARD, image)
    for n in BATCHES:
        for layer in load_layers(n)[QUICK]:
            yield Task(f"NumPy in and out, batch {n}", STAGED, layer)


def _batches(
    layers: list[Workload], full: bool, batch: int | None
) -> dict[str, list[int]]:
    """Give the batch of every layer, by what the group is called."""
    if batch is not None or not full:
        n = batch or QUICK_BATCH
        return {f"batch {n}": [n] * len(layers)}
    sizes = {f"batch {n}": [n] * len(layers) for n in BATCHES}
    return sizes | {"1 GB": [large_batch(layer) for layer in layers]}
