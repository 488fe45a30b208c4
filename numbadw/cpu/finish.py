"""The end of every tile: bias, activation and store of one output row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numbadw.cpu.label import Tile
from numbadw.cpu.simd import Cell, Int, Simd, Vec
from numbadw.cpu.vecmath import emit_activation


class Finish:
    """Bias, activation and store of one output row, for every form of tile."""

    def __init__(self, simd: Simd, tile: Tile, arguments: dict[str, Int]) -> None:
        self.simd = simd
        self.tile = tile
        self.bias = arguments["b"]
        self.stream = arguments["stream"]
        self.parameter = arguments["parameter"]

    def row(
        self,
        accs: list[Cell],
        address: Int,
        step: Int,
        mask: Callable[[int], Any],
        columns: Int | None = None,
        bias_mask: Any = None,
        whole: Any = None,
        streams: bool = True,
        biases: int = 1,
    ) -> None:
        """Finish vectors `step` bytes apart; `columns` limits a guarded tile's.

        `biases` is the number of bias vectors that the outputs take in turn.
        """
        simd = self.simd
        size = simd.lanes * simd.itemsize
        with simd.when(self.bias.compare("!=", 0)):
            for t, acc in enumerate(accs):
                if t < biases:
                    bias = simd.load(self.bias + t * size, bias_mask)
                acc.set(acc.get(simd.builder) + bias)
        parameter = simd.load_parameter(self.parameter)
        values = [
            emit_activation(
                simd, self.tile.activation, parameter, acc.get(simd.builder)
            )
            for acc in accs
        ]

        def store(word: Callable[[Vec, Int, int], None]) -> None:
            for t, value in enumerate(values):
                if self.tile.guarded and columns is not None and t:
                    with simd.when(columns.compare(">", t)):
                        word(value, address + t * step, t)
                else:
                    word(value, address + t * step, t)

        if not streams:
            self._plain(store, mask, whole)
            return
        with simd.builder.if_else(self.stream.compare("!=", 0)) as (streamed, plain):
            with streamed:
                store(lambda value, at, t: simd.stream(value, at))
            with plain:
                self._plain(store, mask, whole)

    def _plain(self, store: Any, mask: Callable[[int], Any], whole: Any) -> None:
        """Store whole vectors without a mask: masked ones that straddle are slow."""
        simd = self.simd
        if whole is None:
            store(lambda value, at, t: simd.store(value, at, mask(t)))
            return
        with simd.builder.if_else(whole) as (full, tail):
            with full:
                store(lambda value, at, t: simd.store(value, at))
            with tail:
                store(lambda value, at, t: simd.store(value, at, mask(t)))
