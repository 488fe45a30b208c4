"""Times: interleaved rounds, the minimum counts."""

import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numbadw
from numbadw.info import cpu_name
from numbadw.threads import allowed

LIBRARIES = (
    "numpy",
    "numba",
    "llvmlite",
    "torch",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "tensorflow-cpu",
    "tensorflow",
    "jax",
    "opencv-python-headless",
    "opencv-python",
    "scipy",
)

# Long enough for the timer's own 100 ns to vanish, short enough that an interruption
# spoils one batch of many.
BATCH_SECONDS = 2e-4
BATCHES_PER_TURN = 4
# Calls longer than this need no warm-up and run once a turn.
LONG_SECONDS = 2e-2
# Thread pools spin after a call: PyTorch's for 12 ms, ONNX Runtime's for 48 ms. On two
# cores a spinning pool halves the next library, so each turn waits until this process
# uses no CPU. A probe is longer than a kernel tick (4 ms), at which CPU time is booked.
PROBE_SECONDS = 5e-3
IDLE_SHARE = 0.1
SETTLE_SECONDS = 0.1
# So many rounds run even if they take longer than the time allowed; after them a
# callable this many times slower than the yardstick stops: more rounds would change
# its time by some percent and who is the fastest not at all. One that is slow by
# another order, and takes longer than a pause of the system, is timed once.
LEAST_ROUNDS = 3
SLOW = 3.0
HOPELESS, HOPELESS_SECONDS = 30.0, 0.1


def interleaved(
    callables: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    min_time: float = BATCH_SECONDS,
    budget: float = 5.0,
    settle: float = SETTLE_SECONDS,
    yardstick: str | None = None,
) -> dict[str, float]:
    """Time callables fairly and give the seconds of one call of each.

    In every round each callable warms up and runs a few short batches, whose length
    was chosen to take about `min_time`; the order is rotated from round to round. The
    minimum over all batches counts: noise only ever adds.

    Parameters
    ----------
    callables : mapping of str to callable
        What to time, without arguments.
    rounds : int, default 30
        Most turns of each callable.
    min_time : float, default 2e-4
        Length of a batch in seconds, unless one call takes longer.
    budget : float, default 5.0
        Seconds after which no fourth or later round begins.
    settle : float, default 0.1
        Longest wait before a turn for the thread pools of this process to sleep.
    yardstick : str, optional
        What the others are compared with; those three times slower than it stop after
        three rounds, and one call has to do where 30 times as slow and longer than
        0.1 s. By default the fastest, and all run at least three rounds.

    Returns
    -------
    dict of str to float
        Seconds per call, in the order of `callables`.
    """
    with _no_collection():
        end = time.perf_counter() + budget
        repeats, best = _calibrate_all(callables, min_time, yardstick)
        active = list(repeats)
        for number in range(max(rounds, 1)):
            shift = number % max(len(active), 1)
            for name in active[shift:] + active[:shift]:
                _settle(settle)
                seconds = _turn(callables[name], repeats[name], best[name])
                best[name] = min(best[name], seconds)
            if number + 1 >= LEAST_ROUNDS and time.perf_counter() > end:
                break
            if number + 1 == LEAST_ROUNDS:
                fastest = min(best.values(), default=0.0)
                limit = SLOW * (best[yardstick] if yardstick else fastest)
                active = [name for name in active if best[name] <= limit]
    return best


def core_seconds(path: Path = Path("/proc/self/schedstat")) -> tuple[float, float]:
    """Give the seconds that the first thread ran, and waited for a core (Linux)."""
    try:
        ran, waited, _ = path.read_text().split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(ran) * 1e-9, int(waited) * 1e-9


def machine() -> dict[str, str]:
    """Describe what the times are measured on: CPU, system, versions."""
    facts = {
        "cpu": cpu_name(),
        "cpus allowed": str(allowed()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numbadw": numbadw.__version__,
    }
    for library in LIBRARIES:
        try:
            facts[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return facts


def _turn(call: Callable[[], object], repeat: int, known: float) -> float:
    """Give the best seconds of one call over a few batches."""
    if known > LONG_SECONDS and repeat == 1:
        return _batch(call, repeat)
    _batch(call, repeat // 2 + 1)
    return min(_batch(call, repeat) for _ in range(BATCHES_PER_TURN)) / repeat


def _batch(call: Callable[[], object], repeat: int) -> float:
    """Give the seconds that `repeat` calls take."""
    start = time.perf_counter_ns()
    for _ in range(repeat):
        call()
    return (time.perf_counter_ns() - start) * 1e-9


def _calibrate_all(
    callables: Mapping[str, Callable[[], object]],
    min_time: float,
    yardstick: str | None,
) -> tuple[dict[str, int], dict[str, float]]:
    """Give how many calls make a batch, and the seconds of what is not timed again."""
    repeats: dict[str, int] = {}
    best = dict.fromkeys(callables, float("inf"))
    limit = float("inf")
    for name in sorted(callables, key=lambda name: name != yardstick):
        repeats[name], seconds = _calibrate(callables[name], min_time)
        if name == yardstick:
            limit = max(HOPELESS * seconds, HOPELESS_SECONDS)
        elif seconds > limit:
            best[name] = seconds
            del repeats[name]
    return {name: repeats[name] for name in callables if name in repeats}, best


def _calibrate(call: Callable[[], object], min_time: float) -> tuple[int, float]:
    """Find how many calls take about `min_time`, and give the seconds of one."""
    if (seconds := _batch(call, 1)) > LONG_SECONDS:
        seconds = min(seconds, _batch(call, 1))
    if seconds > LONG_SECONDS:
        return 1, seconds
    repeat = 1
    while (taken := _batch(call, repeat)) < min_time / 2:
        repeat *= 2
    return max(1, round(repeat * min_time / taken)), taken / repeat


def _settle(limit: float) -> None:
    """Wait until the thread pools of this process have gone to sleep."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(PROBE_SECONDS)
        if time.process_time() - busy < IDLE_SHARE * PROBE_SECONDS:
            return


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off for a while."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
