"""What is measured: groups of workloads, and which of them the quick run takes."""

from collections.abc import Sequence
from typing import NamedTuple

from numbadw.bench.passes import FORWARD, GRADIENTS
from numbadw.bench.workloads import (
    IMAGES,
    LARGE_KERNELS,
    NETWORK_FILTERS,
    ODD,
    TINY,
    Workload,
    load_layers,
)

LAYERS, LARGE, IMAGE = "layers", "large kernels", "image filtering"
SPECIAL, BATCHES = "odd, dilated, multiplied", "batches"
TRAINING, TRAINING_BATCH = "gradients", "gradients, batch 16"
OVERHEAD, COLD = "call overhead", "cold start"
GRADIENT_BATCH = 16
# Batches of a late and the first layer of MobileNetV1; 32 of some between, too.
BATCH_SIZES = (2, 4, 8, 16, 32)
BATCHED, BATCHED_LARGE = (6, 0), (1, 2, 3)


class Task(NamedTuple):
    """One pass over one workload, in the group that its row stands in."""

    group: str
    kind: str
    workload: Workload


class Group(NamedTuple):
    """Tasks of one title, and the part of them that the quick run takes."""

    title: str
    kind: str
    workloads: Sequence[Workload]
    quick: slice


def groups() -> list[Group]:
    """Give every group in the order of the report."""
    layers = load_layers()
    large = [layer for layer in layers if layer.model.startswith(LARGE_KERNELS)]
    banks = [layer for layer in layers if layer.model == NETWORK_FILTERS]
    usual = [layer for layer in layers if layer not in (*large, *banks)]
    batches = [layers[i]._replace(n=n) for i in BATCHED for n in BATCH_SIZES]
    batches += [layers[i]._replace(n=BATCH_SIZES[-1]) for i in BATCHED_LARGE]
    trained = [layer for layer in layers if layer not in banks]
    batched = [layer._replace(n=GRADIENT_BATCH) for layer in usual]
    every = slice(None)
    return [
        # With the layers that are batched below: they are the batch of one.
        Group(LAYERS, FORWARD, usual, slice(0, None, 3)),
        Group(LARGE, FORWARD, large, slice(2, None)),
        Group(IMAGE, FORWARD, [*banks, *IMAGES], slice(1, None, 2)),
        Group(SPECIAL, FORWARD, ODD, slice(1, None, 2)),
        Group(BATCHES, FORWARD, batches, slice(len(BATCH_SIZES))),
        Group(TRAINING, GRADIENTS, trained, slice(6, None, 7)),
        Group(TRAINING_BATCH, GRADIENTS, batched, slice(6, None, 7)),
        Group(OVERHEAD, FORWARD, [TINY], every),
        Group(OVERHEAD, GRADIENTS, [TINY], every),
    ]


def select_tasks(
    *, full: bool, kind: str | None = None, batch: int | None = None, text: str = ""
) -> list[Task]:
    """Choose the tasks of a run.

    Parameters
    ----------
    full : bool
        All of them instead of the quick run's.
    kind : str, optional
        Only this pass; one of a single gradient takes the layers of `layers.csv`.
    batch : int, optional
        The layers of `layers.csv` at this batch instead of all groups.
    text : str, default ""
        Only tasks with the text in the workload's id, all of these.
    """
    chosen = groups()
    named = kind or FORWARD
    if batch is not None or named not in (FORWARD, GRADIENTS):
        layers = load_layers(batch or 1)
        title = f"{named}, batch {batch or 1}"
        chosen = [Group(title, named, layers, slice(0, None, 3))]
    tasks = []
    for group in chosen:
        part = slice(None) if full or text else group.quick
        for workload in group.workloads[part]:
            task = Task(group.title, group.kind, workload)
            if text in workload.id and kind in (None, group.kind):
                tasks.append(task)
    return tasks
