"""One pass over one workload: everybody's result checked, then everybody timed."""

from collections.abc import Callable, Iterable

from numbadw.bench.oracle import Oracle
from numbadw.bench.passes import Pass
from numbadw.bench.peers.prepared import Prepared, Unavailable
from numbadw.bench.workloads import Workload, make_data


class Contest:
    """The data of one pass over a workload, and calls that are checked before timed.

    The calls need it alive: some peers read their data by address. A contest `before`
    is one whose right results serve again; its memory does not.
    """

    def __init__(
        self, kind: Pass, workload: Workload, before: "Contest | None" = None
    ) -> None:
        self.kind, self.workload = kind, workload
        part = workload._replace(n=workload.distinct) if kind.sampled else workload
        self._data = make_data(part)
        oracle = (
            before._oracle
            if before
            else Oracle(workload, *self._data, sampled=kind.sampled)
        )
        self._oracle: Oracle = oracle
        self._ours = kind.prepare(workload, *self._data)
        self._alive: list[Prepared] = []

    def call(self, name: str, threads: int) -> Callable[[], object]:
        """Give what is timed under a name of numbadw's or a peer's.

        Raises
        ------
        Unavailable
            The peer is not installed or cannot run the workload.
        ValueError
            The result is wrong.
        """
        workload, check = self.workload, self._oracle.check
        if name in self.kind.ours:
            ours, results = self._ours[name], self.kind.part(name).results
            check(name, self.kind.read(ours(), workload), workload.padding, results)
            return ours
        peer = self.kind.peers[name](workload, *self._data, threads)
        check(name, peer.fetch(), peer.padding, self.kind.results)
        self._alive.append(peer)
        return peer.call

    def calls(
        self, peers: Iterable[str], threads: int
    ) -> tuple[dict[str, Callable[[], object]], list[str]]:
        """Give the calls of numbadw and of the peers, and a note on each left out.

        A peer that cannot run the workload, or is wrong, is left out; numbadw being
        wrong is a ValueError.
        """
        calls = {name: self.call(name, threads) for name in self.kind.ours}
        notes = []
        for name in peers:
            if name not in self.kind.peers:
                continue
            try:
                calls[name] = self.call(name, threads)
            except Unavailable as reason:
                notes.append(f"{name}: {reason}")
            except Exception as error:
                # Libraries raise what they like; one that fails spoils no other row.
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                notes.append(f"{name} failed on {self.workload.id}: {text}")
        return calls, notes
