"""Calls seen before: what their checks and plans came to, found by one look-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

Call = TypeVar("Call")
MOST = 4096
_PLAIN = (str, int, type(None))


class Calls(Generic[Call]):
    """Calls by the shapes, strides and dtypes of their arrays and their options.

    Cleared when full: programs use few shapes, and a miss only costs a plan.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Call] = {}

    def find(self, arrays: Sequence[Any], options: tuple[Any, ...]) -> Call | None:
        """Return the call of such arguments, None if there was none."""
        key = _key(arrays, options)
        return None if key is None else self._known.get(key)

    def keep(
        self,
        call: Call,
        arrays: Sequence[Any],
        options: tuple[Any, ...],
        checked: Sequence[Any],
    ) -> None:
        """Remember a call whose checked arrays are the given ones, not copies."""
        key = _key(arrays, options)
        if key is None or not all(map(_is_given, arrays, checked)):
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = call


def _key(arrays: Sequence[Any], options: tuple[Any, ...]) -> Any:
    """Give all that a call depends on, or None where it takes the checks to tell."""
    kinds: list[Any] = []
    for array in arrays:
        if array is None:
            kinds.append(None)
        elif type(array) is np.ndarray:
            kinds.append((array.shape, array.strides, array.dtype, array.flags.aligned))
        else:
            return None
    # Only exact types: True == 1.
    for option in options:
        if type(option) not in _PLAIN and not (
            type(option) is tuple and all(type(item) in _PLAIN for item in option)
        ):
            return None
    return (*kinds, *options)


def _is_given(given: Any, checked: Any) -> bool:
    """Tell whether a checked array, maybe reshaped, holds the given one's memory."""
    if given is None or checked is None:
        return given is checked
    same = checked.dtype == given.dtype and np.may_share_memory(checked, given)
    return bool(same and checked.strides == given.strides[-checked.ndim :])
