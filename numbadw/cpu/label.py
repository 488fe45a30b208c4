"""The label of a compiled tile: all that its machine code depends on."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """What one compiled strip depends on; `label` is its name everywhere."""

    form: str  # block | rows | wide (tile.py) | flat (flat.py)
    dtype: str  # f32 | f64
    lanes: int
    kh: int  # 0 where the emitter takes it at run time
    kw: int
    sh: int
    sw: int
    width: int
    multiplier: int  # outputs per input lane; 0: one input lane for all outputs
    guarded: bool
    masked: bool  # masks cost nothing (AVX-512); else whole vectors go without
    activation: str

    @property
    def label(self) -> str:
        """Name the tile, for example `block_f32x16_k3x3_s1x1_w7_m1_guard_relu`."""
        guard = "guard" if self.guarded else "inner"
        mask = "mask" if self.masked else "tail"
        return (
            f"{self.form}_{self.dtype}x{self.lanes}_k{self.kh}x{self.kw}"
            f"_s{self.sh}x{self.sw}_w{self.width}_m{self.multiplier}"
            f"_{guard}_{mask}_{self.activation}"
        )

    @classmethod
    def parse(cls, label: str) -> Tile:
        """Return the tile that has this label."""
        form, vector, k, s, w, m, guard, mask, activation = label.split("_", 8)
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
            mask == "mask",
            activation,
        )
