"""Calls seen before: what their checks and plans came to, found by one look-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy import ndarray

Call = TypeVar("Call")
MOST = 4096
_PLAIN = frozenset((str, int, type(None)))
# The shape that no array tells: argument, axes and least size.
SHAPES = {
    "input": ("input_shape", "(N, H, W, C) or (N, C, H, W)", 0),
    "kernel": ("kernel_shape", "(kh, kw, C, M)", 1),
}


class Calls(Generic[Call]):
    """Calls by the shapes, strides and dtypes of their arrays and by their options.

    The options are one tuple; two that are equal must mean the same: what `exact` says
    of numbers, and of strings and None in any case.  Cleared when full: programs use
    few shapes, and a miss only costs a plan.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Call] = {}

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget all calls."""
        self._known.clear()

    def find(
        self,
        options: tuple[Any, ...],
        a: Any,
        b: Any = None,
        c: Any = None,
        d: Any = None,
        put: Call | None = None,
    ) -> Call | None:
        """Return the call of such arguments, None if there was none.

        The first two are arrays, the others may be None; with `put` this is the call
        from now on.  What is no plain NumPy array (masked ones must not hit) and
        options that cannot be hashed are never found: the checks name them.
        """
        # In a loop over any number of arrays this takes 0.1 us more.
        if type(a) is not ndarray or type(b) is not ndarray:
            return None
        if c is not None:
            if type(c) is not ndarray:
                return None
            c = c.shape, c.strides, c.dtype
        if d is not None:
            if type(d) is not ndarray:
                return None
            d = d.shape, d.strides, d.dtype
        kinds = a.shape, a.strides, a.dtype, b.shape, b.strides, b.dtype
        key = options, kinds, c, d
        try:
            if put is None:
                return self._known.get(key)
        except TypeError:
            return None
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = put
        return put

    def keep(
        self,
        call: Call,
        options: tuple[Any, ...],
        given: Sequence[Any],
        checked: Sequence[Any],
    ) -> None:
        """Remember a call whose checked arrays are the given ones, not copies.

        The first four are those that `find` takes; the options hold `kind` of others.
        """
        if all(map(as_given, given, checked)):
            a, b, c, d = (*given, None, None, None)[:4]
            self.find(options, a, b, c, d, put=call)


def exact(option: Any) -> bool:
    """Tell whether all that equals an option and is `exact`, too, means the same.

    Among numbers these are Python's integers alone: True and 1.0 equal 1.
    """
    kind = type(option)
    return kind in _PLAIN or (
        kind is tuple
        and (_PLAIN.issuperset(map(type, option)) or all(map(exact, option)))
    )


def aligned(a: Any, b: Any) -> bool:
    """Tell whether two plain NumPy arrays are on their dtype's boundary, or None."""
    return (a is None or (type(a) is ndarray and a.flags.aligned)) and (
        b is None or (type(b) is ndarray and b.flags.aligned)
    )


def kind(array: Any) -> Any:
    """Give what a call depends on of one array more than `find` takes."""
    if type(array) is not ndarray:
        return type(array)
    return array.shape, array.strides, array.dtype


def as_given(given: Any, checked: Any) -> bool:
    """Tell whether a checked array, maybe reshaped, is the given one and no copy."""
    if given is checked:
        return True
    if not isinstance(given, ndarray) or checked is None:
        return False
    same = checked.dtype == given.dtype and np.may_share_memory(checked, given)
    return bool(same and checked.strides == given.strides[-checked.ndim :])
