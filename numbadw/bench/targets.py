"""Where the calls run: who takes part there, how they are timed, what bounds them."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

from numbadw.bench import peers
from numbadw.bench.ceilings import Ceilings, measure_ceilings
from numbadw.bench.device import ceilings, clock, rehearsal, tasks
from numbadw.bench.device import passes as device_passes
from numbadw.bench.device import peers as device_peers
from numbadw.bench.measure import interleaved
from numbadw.bench.passes import PASSES, Pass
from numbadw.bench.tasks import Task, select_tasks
from numbadw.cuda import device as cuda
from numbadw.dispatch import require_cuda
from numbadw.threads import allowed


class PeerTable(NamedTuple):
    """The modules that a peer needs, and the package that each of these is in."""

    modules: Mapping[str, Sequence[str]]
    packages: Mapping[str, str]


def usual_threads() -> list[int]:
    """Give the thread counts measured by default: one, and all that are allowed."""
    return sorted({1, allowed()})


def nothing(*given: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Target:
    """One kind of device that convolutions are measured on.

    Attributes
    ----------
    passes : mapping of str to Pass
        What is measured there, with numbadw's own calls and the peers'.
    time : callable
        Times calls as `measure.interleaved` does.
    ceilings : callable
        Measures the limits of a number of threads.
    environment : callable
        Gives the variables of a process that measures a number of threads.
    peers : PeerTable
        What the peers need to be installed.
    tasks : callable
        Chooses the tasks of a run, as `tasks.select_tasks`.
    require : callable
        Raises BackendUnavailableError where nothing can be measured.
    rehearse : callable
        Checks whatever the timed calls do not show, and notes what.
    machine : callable
        Tells more of what is measured on.
    threads : callable
        Gives the numbers of threads measured by default.
    seconds : (float, float)
        What the processes of a quick and of a full run measure; their start, the cold
        start and the drawing of charts come on top.
    least : float
        Seconds that a row gets even where the run is late.
    sittings : int
        How often a row is measured, in other memory each time (sittings.py).
    patient : bool
        Whether rows beyond the time keep their peers.
    cold : bool
        Whether the cold start is measured, too, and charts can be drawn.
    """

    passes: Mapping[str, Pass]
    time: Callable[..., dict[str, float]]
    ceilings: Callable[[int], Ceilings]
    environment: Callable[[int], dict[str, str]]
    peers: PeerTable
    tasks: Callable[..., list[Task]] = select_tasks
    require: Callable[[], None] = nothing
    rehearse: Callable[[Callable[[str], None]], None] = nothing
    machine: Callable[[], dict[str, str]] = dict
    threads: Callable[[], list[int]] = usual_threads
    seconds: tuple[float, float] = (85.0, 1800.0)
    least: float = 0.3
    sittings: int = 3
    patient: bool = True
    cold: bool = True


def cpu_environment(threads: int) -> dict[str, str]:
    """Give what keeps every library to the CPU and to a number of threads.

    Most peers are told in their own way when they are prepared; JAX reads NPROC once,
    when it starts, and OpenMP's variable holds for whatever else has a pool.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "NPROC": str(threads),
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def cuda_environment(threads: int) -> dict[str, str]:
    """Give what keeps the libraries from taking all of the device's memory."""
    del threads
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def gpu() -> dict[str, str]:
    """Name the devices, the driver and what compiles for them."""
    facts = {"gpu": cuda.describe()}
    for library in ("numba-cuda", "cuda-core", "cuda-bindings", "cupy-cuda13x"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts[library] = metadata.version(library)
    return facts


TARGETS = {
    "cpu": Target(
        PASSES,
        interleaved,
        measure_ceilings,
        cpu_environment,
        PeerTable(peers.MODULES, peers.PACKAGES),
    ),
    "cuda": Target(
        device_passes.PASSES,
        clock.timed,
        ceilings.measure_ceilings,
        cuda_environment,
        PeerTable(device_peers.MODULES, device_peers.PACKAGES),
        tasks=tasks.select_tasks,
        require=require_cuda,
        rehearse=rehearsal.rehearse,
        machine=gpu,
        threads=lambda: [1],
        # A full run is to end within eight minutes: the start, what the last rows
        # take over and the compilation of kernels have the other two.
        seconds=(60.0, 330.0),
        least=0.05,
        sittings=1,
        patient=False,
        cold=False,
    ),
}
