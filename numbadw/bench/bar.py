"""A progress bar where tqdm is installed and somebody looks, else plain lines.

Every result is printed as it comes; who sends these to a file sees what was counted.
"""

import importlib
import sys
from types import TracebackType
from typing import Any

from numbadw.console import progress, say


class Bar:
    """Progress over a number of rows on the standard error; a context manager."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                tqdm = importlib.import_module("tqdm").tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, unit="row", leave=False, dynamic_ncols=True)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """Write a line of the result, with the bar out of its way."""
        if self._bar is None:
            say(text)
            return
        self._bar.clear()
        say(text)
        self._bar.refresh()

    def step(self, name: str) -> None:
        """Count one row as done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif sys.stderr.isatty() and not sys.stdout.isatty():
            progress(f"[{self._done}/{self._total}] {name}")
