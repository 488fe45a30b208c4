"""Times: interleaved rounds, the minimum counts."""

import functools
import gc
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import numbadw
from numbadw.info import cpu_name
from numbadw.threads import allowed, uncollected

# Gives the seconds that a number of calls take.
Clock = Callable[[Callable[[], object], int], float]

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
TURN_SECONDS = 8e-3
# A thread that is woken after a pause may be put on the core of the one that waits for
# it, where both take turns of 4 ms while another core idles: on two threads LiteRT had
# the speed of one in every second turn. A turn in which this thread waited for a core
# for such a share of the time is taken again, a few times at most.
WAITED_SHARE, TRIES = 0.1, 4
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
LEAST_ROUNDS = 2
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
    clock: Clock | None = None,
) -> dict[str, float]:
    """Time callables fairly and give the seconds of one call of each.

    In every round each callable warms up and runs short batches of about `min_time`
    for `TURN_SECONDS`; the order is rotated from round to round. The minimum over all
    batches counts: noise only ever adds.

    Parameters
    ----------
    callables : mapping of str to callable
        What to time, without arguments.
    rounds : int, default 30
        Most turns of each callable.
    min_time : float, default 2e-4
        Length of a batch in seconds, unless one call takes longer.
    budget : float, default 5.0
        Seconds after which no third or later round begins.
    settle : float, default 0.1
        Longest wait before a turn for the thread pools of this process to sleep.
    yardstick : str, optional
        What the others are compared with; those three times slower than it stop after
        two rounds, and one call has to do where 30 times as slow and longer than
        0.1 s. By default the fastest, and all run at least two rounds.
    clock : callable, optional
        Gives the seconds that so many calls take; by default the host's time.

    Returns
    -------
    dict of str to float
        Seconds per call, in the order of `callables`.
    """
    batch = clock or _batch
    gc.collect()
    with uncollected():
        end = time.perf_counter() + budget
        guesses, best = _guess_all(batch, callables, yardstick)
        active = list(guesses)
        for number in range(max(rounds, 1)):
            shift = number % max(len(active), 1)
            for name in active[shift:] + active[:shift]:
                guess = min(guesses[name], best[name])
                turn = functools.partial(_turn, batch, callables[name], guess, min_time)
                best[name] = min(best[name], _undisturbed(turn, settle))
            if number + 1 >= LEAST_ROUNDS and time.perf_counter() > end:
                break
            if number + 1 == LEAST_ROUNDS:
                chosen = yardstick or min(best, key=best.__getitem__, default="")
                active = contenders({name: best[name] for name in active}, chosen)
    return best


def contenders(seconds: Mapping[str, float], yardstick: str) -> list[str]:
    """Give the names that are not so slow beside the yardstick that they stop."""
    limit = SLOW * seconds.get(yardstick, float("inf"))
    return [name for name, taken in seconds.items() if taken <= limit]


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


def _undisturbed(turn: Callable[[], float], settle: float) -> float:
    """Give the best seconds of a turn, taken again while there was no core for it."""
    best = float("inf")
    for _ in range(TRIES):
        _settle(settle)
        before = core_seconds()
        best = min(best, turn())
        ran, waited = (b - a for a, b in zip(before, core_seconds(), strict=True))
        if waited <= WAITED_SHARE * (ran + waited):
            break
    return best


def _turn(
    batch: Clock, call: Callable[[], object], guess: float, min_time: float
) -> float:
    """Give the best seconds of one call over the batches of a turn."""
    if guess > LONG_SECONDS:
        return batch(call, 1)
    end, best = time.perf_counter() + TURN_SECONDS, float("inf")
    batch(call, round(min_time / guess) // 2 + 1)
    while best == float("inf") or time.perf_counter() < end:
        repeat = max(1, round(min_time / min(guess, best)))
        best = min(best, batch(call, repeat) / repeat)
    return best


def _batch(call: Callable[[], object], repeat: int) -> float:
    """Give the seconds that `repeat` calls take."""
    start = time.perf_counter_ns()
    for _ in range(repeat):
        call()
    return (time.perf_counter_ns() - start) * 1e-9


def _guess_all(
    batch: Clock,
    callables: Mapping[str, Callable[[], object]],
    yardstick: str | None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Give about the seconds of one call, and those of what is not timed again."""
    guesses: dict[str, float] = {}
    best = dict.fromkeys(callables, float("inf"))
    limit = float("inf")
    for name in sorted(callables, key=lambda name: name != yardstick):
        seconds = _guess(batch, callables[name])
        if name == yardstick:
            limit = max(HOPELESS * seconds, HOPELESS_SECONDS)
        if seconds > limit:
            best[name] = seconds
        else:
            guesses[name] = seconds
    return {name: guesses[name] for name in callables if name in guesses}, best


def _guess(batch: Clock, call: Callable[[], object]) -> float:
    """Give the least seconds of a few calls, none of which warmed anything up."""
    seconds = min(batch(call, 1), batch(call, 1))
    return seconds if seconds > LONG_SECONDS else min(seconds, batch(call, 1))


def _settle(limit: float) -> None:
    """Wait until the thread pools of this process have gone to sleep."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(PROBE_SECONDS)
        if time.process_time() - busy < IDLE_SHARE * PROBE_SECONDS:
            return
