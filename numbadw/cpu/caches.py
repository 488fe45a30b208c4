"""The sizes of the data caches, as Linux tells them, else those of a usual CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

LINE = 64


class Caches(NamedTuple):
    """Bytes of the last and the second level, and how the first one finds a line.

    A line of the first level lies in one set of `ways` lines, and addresses `sets`
    lines apart have the same set.
    """

    last: int = 16 * 1024 * 1024
    ways: int = 8
    sets: int = 64
    second: int = 512 * 1024


@functools.cache
def caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> Caches:
    """Return the caches of the first CPU."""
    known = {}
    sizes = []
    try:
        for folder in root.glob("index*"):

            def read(name: str, folder: Path = folder) -> str:
                return (folder / name).read_text().strip()

            text = read("size")
            unit = {"K": 1024, "M": 1024**2}.get(text[-1:], 1)
            sizes.append(int(text.rstrip("KM")) * unit)
            if read("level") == "2":
                known["second"] = sizes[-1]
            if read("level") == "1" and read("type") != "Instruction":
                known["ways"] = int(read("ways_of_associativity"))
                known["sets"] = int(read("number_of_sets"))
    except (OSError, ValueError):
        return Caches()
    known = {name: value for name, value in known.items() if value > 0}
    return Caches(max(sizes), **known) if sizes else Caches()
