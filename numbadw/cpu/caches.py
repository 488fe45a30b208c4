"""The sizes of the data caches, as Linux tells them, else those of a usual CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

LINE = 64


class Caches(NamedTuple):
    """Bytes and ways of L1, bytes of L2 and of the last level."""

    l1: int = 32 * 1024
    l1_ways: int = 8
    l2: int = 512 * 1024
    last: int = 16 * 1024 * 1024

    def sets_touched(self, step: int) -> int:
        """Return how many L1 sets addresses `step` bytes apart fall into.

        Steps of a large power of two share few sets, so few lines fit at once.
        """
        sets = self.l1 // LINE // self.l1_ways
        lines = max(1, abs(step) // LINE)
        shared = sets & -sets if lines % sets == 0 else min(sets, lines & -lines)
        return max(1, sets // shared)


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()


@functools.cache
def caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> Caches:
    """Return the caches of the first CPU."""
    found = Caches()
    try:
        for folder in sorted(root.glob("index*")):
            if _read(folder, "type") == "Instruction":
                continue
            size = _read(folder, "size")
            units = {"K": 1024, "M": 1024**2}.get(size[-1:], 1)
            size_bytes = int(size.rstrip("KM")) * units
            level = _read(folder, "level")
            if level == "1":
                ways = int(_read(folder, "ways_of_associativity"))
                found = found._replace(l1=size_bytes, l1_ways=max(1, ways))
            elif level == "2":
                found = found._replace(l2=size_bytes)
            found = found._replace(last=size_bytes)
    except (OSError, ValueError):
        return Caches()
    return found
