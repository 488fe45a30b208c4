"""One row of the report: the same calls timed in several sittings, each in new memory.

Where the system puts the pages of an array decides which of them share a set of a
cache, and stays as it is for as long as the array lives: 14x14x512 3x3 on one thread
took 15.8 to 22.4 us in six allocations, each of which gave the same time again within
2 %. So everybody's data and results are made anew for every sitting. Within one noise
only adds and the minimum counts (`measure.interleaved`); of the sittings the mean of
the two best, so that neither a lucky nor a disturbed one decides.
"""

import statistics
import time
from collections.abc import Callable, Sequence

from numbadw.bench.contest import Contest
from numbadw.bench.measure import contenders
from numbadw.bench.passes import Pass
from numbadw.bench.workloads import Workload

COUNTED = 2  # sittings that count, the best ones


class Sittings:
    """What one pass over a workload takes everybody, measured again and again."""

    def __init__(
        self,
        kind: Pass,
        workload: Workload,
        timer: Callable[..., dict[str, float]],
        threads: int,
        rounds: int,
    ) -> None:
        self._kind, self._workload = kind, workload
        self._timer, self._threads, self._rounds = timer, threads, rounds

    def measure(
        self, peers: Sequence[str], budget: float, many: int
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Give the seconds of a call by name, and why peers were left out.

        The sittings share `budget` seconds. Peers that stop in the first one, being
        too slow beside numbadw, have no other.
        """
        end = time.perf_counter() + budget
        taken: dict[str, list[float]] = {}
        notes: dict[str, None] = {}
        # All stay alive: memory given back would be handed out again as it was.
        contests: list[Contest] = []
        for number in range(many):
            before = contests[0] if contests else None
            contests.append(Contest(self._kind, self._workload, before))
            calls, left_out = contests[-1].calls(peers, self._threads)
            notes |= dict.fromkeys(left_out)
            left = (end - time.perf_counter()) / (many - number)
            seconds = self._timer(
                calls, rounds=self._rounds, budget=left, yardstick=self._kind.main
            )
            for name, least in seconds.items():
                taken.setdefault(name, []).append(least)
            peers = [n for n in contenders(seconds, self._kind.main) if n in peers]
        best = {name: sorted(t)[:COUNTED] for name, t in taken.items()}
        return {name: statistics.fmean(t) for name, t in best.items()}, tuple(notes)
