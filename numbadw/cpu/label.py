"""The label of a compiled tile: all that its machine code depends on."""

from __future__ import annotations

from typing import NamedTuple

PRIME = "_prime"  # ends the name of an activation's derivative
# Lanes that do not fill a vector: every load and store has a mask, or only those of a
# second function that takes these lanes, or there are none.  Masks cost nothing with
# AVX-512, but the prefetchers of Zen 5 do not follow masked loads: from memory one core
# reads 51 GB/s by plain loads, 31 by masked ones.
MASKED, APART, ABSENT = "mask", "apart", "full"


def usual_tail(vector_bytes: int) -> str:
    """Return what becomes of the last lanes in most tiles of a CPU."""
    return MASKED if vector_bytes == 64 else APART


class Tile(NamedTuple):
    """What one compiled strip depends on; `label` is its name everywhere."""

    form: (
        str  # block | roll | rows | wide | swath, tblock | trows,
        # taps | tswath | tedge, both, flat | phased, ftaps, vectors,
        # multiply (kh rows of `width` vectors of `vectors` panels)
    )
    dtype: str  # f32 | f64
    lanes: int
    kh: int  # 0 where the emitter takes it at run time
    kw: int
    sh: int
    sw: int
    width: int
    multiplier: int  # outputs per input lane; 0: one input lane for all outputs
    guarded: bool
    tail: str  # MASKED, APART or ABSENT: what becomes of the last lanes
    activation: str
    fold: int = 1  # input lanes that sum into one output; 0: all of them
    vectors: int = 1  # neighbouring vectors of a lane record, taken together

    def reads(self, kw: int) -> dict[int, list[tuple[int, int]]]:
        """Return the (output, tap) pairs of every input column that an output reads."""
        pairs: dict[int, list[tuple[int, int]]] = {}
        for output in range(self.width):
            for tap in range(kw):
                pairs.setdefault(self.sw * output + tap, []).append((output, tap))
        return dict(sorted(pairs.items()))

    @property
    def turned(self) -> bool:
        """Whether rows and columns change places: swaths."""
        return self.form in ("swath", "tswath", "tedge")

    @property
    def transposed(self) -> bool:
        """Whether the outputs are the inputs of a strided convolution."""
        return self.form in ("tblock", "trows")

    @property
    def single(self) -> bool:
        """Whether a tile of taps takes one output at a time."""
        return self.form == "taps" and self.width == 1

    @property
    def derives(self) -> bool:
        """Whether the tile ends in a derivative, times the gradient it reads."""
        return self.activation.endswith(PRIME)

    @classmethod
    def mover(cls, dtype: str, lanes: int) -> Tile:
        """Return the tile of the kernels that only move or add vectors."""
        return cls("vectors", dtype, lanes, 0, 0, 0, 0, 1, 1, False, MASKED, "linear")

    @property
    def label(self) -> str:
        """Name the tile, as `block_f32x16_k3x3_s1x1_w7_m1_f1_v1_guard_mask_relu`."""
        guard = "guard" if self.guarded else "inner"
        return (
            f"{self.form}_{self.dtype}x{self.lanes}_k{self.kh}x{self.kw}"
            f"_s{self.sh}x{self.sw}_w{self.width}_m{self.multiplier}"
            f"_f{self.fold}_v{self.vectors}_{guard}_{self.tail}_{self.activation}"
        )

    @classmethod
    def parse(cls, label: str) -> Tile:
        """Return the tile that has this label."""
        form, vector, k, s, w, m, f, v, guard, tail, activation = label.split("_", 10)
        dtype, lanes = vector.split("x")
        kh, kw = k[1:].split("x")
        sh, sw = s[1:].split("x")
        return cls(
            form,
            dtype,
            int(lanes),
            int(kh),
            int(kw),
            int(sh),
            int(sw),
            int(w[1:]),
            int(m[1:]),
            guard == "guard",
            tail,
            activation,
            int(f[1:]),
            int(v[1:]),
        )
