"""Where the calls run: who takes part there, how they are timed, what bounds them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from numbadw.bench.ceilings import Ceilings, measure_ceilings
from numbadw.bench.measure import interleaved
from numbadw.bench.passes import PASSES, Pass
from numbadw.threads import allowed


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
    """

    passes: Mapping[str, Pass]
    time: Callable[..., dict[str, float]]
    ceilings: Callable[[int], Ceilings]
    environment: Callable[[int], dict[str, str]]


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


TARGETS = {
    "cpu": Target(PASSES, interleaved, measure_ceilings, cpu_environment),
}


def usual_threads() -> list[int]:
    """Give the thread counts measured by default: one, and all that are allowed."""
    return sorted({1, allowed()})
