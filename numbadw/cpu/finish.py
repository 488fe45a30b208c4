"""The end of every tile: bias, activation and store of one output row."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numbadw.cpu.label import Tile
from numbadw.cpu.simd import Cell, Int, Simd, Vec
from numbadw.cpu.vecmath import emit_activation

Mask = Callable[[int], Any]


class Finish:
    """Bias, activation and store of one output row, for every form of tile."""

    def __init__(self, simd: Simd, tile: Tile, arguments: dict[str, Int]) -> None:
        self.simd = simd
        self.tile = tile
        self.bias = arguments["b"]
        self.stream = arguments["stream"]
        self.parameter = arguments["parameter"]
        self.begin = arguments["begin"] if tile.transposed else None

    def row(
        self,
        accs: list[Cell],
        address: Int,
        step: Int,
        mask: Mask,
        columns: Int | None = None,
        bias_mask: Any = None,
        whole: Any = None,
        streams: bool = True,
        biases: int = 1,
        grad: Int | None = None,
    ) -> None:
        """Finish vectors `step` bytes apart; `columns` limits a guarded tile's.

        `biases` is the number of bias vectors that the outputs take in turn.  `grad` is
        where a tile that ends in a derivative finds what to multiply it with.
        """
        simd = self.simd
        size = simd.lanes * simd.itemsize
        with simd.when(self.bias.compare("!=", 0)):
            for t, acc in enumerate(accs):
                if t < biases:
                    bias = simd.load(self.bias + t * size, bias_mask)
                acc.set(acc.get(simd.builder) + bias)
        self._activate(accs, columns)
        self.store(accs, address, step, mask, columns, whole, streams, grad)

    def store(
        self,
        accs: list[Cell],
        address: Int,
        step: Int,
        mask: Mask,
        columns: Int | None = None,
        whole: Any = None,
        streams: bool = True,
        grad: Int | None = None,
    ) -> None:
        """Store vectors `step` bytes apart, past the caches where that pays."""
        simd = self.simd

        def each(word: Callable[[Vec, Int, int], None]) -> None:
            place = simd.walk(address, step, range(len(accs)))
            for t, acc in enumerate(accs):
                with self._guard(t, columns):
                    word(acc.get(simd.builder), place(t), t)

        def plain(mask: Mask) -> None:
            def store(value: Vec, at: Int, t: int) -> None:
                if grad is not None and self.tile.derives:
                    value = value * simd.load(grad + t * step, mask(t))
                simd.store(value, at, mask(t))

            each(store)

        if not streams or self.tile.derives:
            self._choose(plain, mask, whole)
            return
        with simd.builder.if_else(self.stream.compare("!=", 0)) as (streamed, cached):
            with streamed:
                each(lambda value, at, t: simd.stream(value, at))
            with cached:
                self._choose(plain, mask, whole)

    def _activate(self, accs: list[Cell], columns: Int | None) -> None:
        """Apply the activation to the columns that are stored."""
        simd, name = self.simd, self.tile.activation
        if name == "linear":
            return
        parameter = simd.load_parameter(self.parameter)
        for t, acc in enumerate(accs):
            with self._guard(t, columns):
                value = acc.get(simd.builder)
                acc.set(emit_activation(simd, name, parameter, value))

    def folded(
        self,
        accs: list[Cell],
        address: Int,
        step: Int,
        count: Int,
        adds: Int,
        columns: Int,
    ) -> None:
        """Store the sums of neighbouring lanes, `tile.fold` at a time (0: of all).

        `count` lanes are in use; where `adds` is not 0 the sums are added to what the
        result holds.
        """
        fold, lanes = self.tile.fold, self.tile.lanes
        builder, dtype = self.simd.builder, self.tile.dtype
        if fold == 0:
            width = used = 1
            whole = None
            mask = None
        else:
            used = lanes // fold
            width = used if lanes % fold == 0 else lanes
        out = Simd(builder, dtype, width)
        if fold:
            groups = out.integer(builder.udiv(count.value, out.integer(fold).value))
            whole = groups.compare("==", width)
            mask = out.mask(groups)
        for t, acc in enumerate(accs):
            value = self._fold(acc.get(builder), out, used)
            at = address + t * step
            with self._guard(t, columns):
                if fold:
                    with builder.if_else(whole) as (full, tail):
                        with full:
                            out.store(value, at)
                        with tail:
                            out.store(value, at, mask)
                else:
                    total = out.variable(value)
                    with out.when(adds.compare("!=", 0)):
                        total.set(out.load(at) + value)
                    out.store(total.get(builder), at)

    def _fold(self, value: Vec, out: Simd, used: int) -> Vec:
        """Sum groups of neighbouring lanes, by halves or lowest lane first."""
        simd, fold = self.simd, self.tile.fold or self.tile.lanes
        firsts = [min(i, used - 1) * fold for i in range(out.lanes)]
        if fold & (fold - 1) == 0:
            step = 1
            while step < fold:
                swapped = [lane ^ step for lane in range(simd.lanes)]
                value = value + simd.shuffle(value, value, swapped)
                step *= 2
            return Vec(out, simd.shuffle(value, value, firsts).value)
        parts = []
        for q in range(fold):
            pattern = [first + q for first in firsts]
            parts.append(Vec(out, simd.shuffle(value, value, pattern).value))
        return functools.reduce(operator.add, parts)

    @contextmanager
    def _guard(self, t: int, columns: Int | None) -> Iterator[None]:
        """Emit the body behind the guard of output column `t`, if it has one."""
        begin = self.begin
        if not self.tile.guarded or columns is None or (begin is None and t == 0):
            yield
            return
        low = self.simd.integer(0) if begin is None else begin
        with self.simd.when(self.simd.integer(t).within(low, columns)):
            yield

    def _choose(self, store: Callable[[Mask], None], mask: Mask, whole: Any) -> None:
        """Store whole vectors without a mask: masked ones that straddle are slow."""
        if whole is None:
            store(mask)
            return
        with self.simd.builder.if_else(whole) as (full, tail):
            with full:
                store(lambda t: None)
            with tail:
                store(mask)
