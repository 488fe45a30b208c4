"""Ctrl-C, held back where an exception would do lasting harm.

An exception in the middle of a compilation leaves Numba's tables of known functions
half filled, and no later compilation succeeds; in a callback of LLVM's it is lost.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held() -> Iterator[None]:
    """Let a SIGINT that comes within the block take effect at its end.

    Python runs signal handlers on the main thread alone, so only there is something
    to hold back; a handler that is not Python's is left alone.
    """
    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not callable(handler):
        yield
        return
    caught: list[Any] = []
    signal.signal(signal.SIGINT, lambda *arguments: caught.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[0])
