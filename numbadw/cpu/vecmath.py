"""exp, expm1, log1p, tanh and erfc on vectors, so activations run in the kernel.

`VectorOps` gives the words that the formulas of `activations.py` ask of `ops`, on
`Vec` values of either element type and any lane count.  Every word is a straight line
of vector instructions: no branch, no table and no call, as LLVM turns `llvm.exp` into
one libm call per lane.  Each follows the same three steps:

    reduce      exp:   x = n ln 2 + r, |r| <= ln 2 / 2; n by adding 1.5 * 2**mantissa
                log1p: 1 + y = 2**k (1 + f), 1 + f in [sqrt 1/2, sqrt 2)
    polynomial  Horner's rule, in the variable the reduction leaves
    rebuild     2**n and 2**-k by integer arithmetic on the exponent bits, or 2**n by
                the instruction that AVX-512 has for it, with the same rounding

`simd.fma` may round twice where the CPU has no fused multiply-add, so no step relies
on it: what has to be exact is exact because one factor has few bits.  Results may
differ in the last bit between CPUs with and without FMA.

Sources: the reductions follow Cody and Waite, "Software Manual for the Elementary
Functions", 1980; log(1 + f) = f - z (f - R(z**2)) with z = f / (2 + f) is that of
FreeBSD's msun, e_log.c; erfc(a) = t Q(t) exp(-a**2) with t = K / (K + a) is from
Shepherd and Laframboise, Mathematics of Computation 36(153), 1981, with a polynomial
of our own.  Every polynomial interpolates its function at Chebyshev nodes, computed
in 50 digits with mpmath; the largest error found stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from numbadw import jit
from numbadw.activations import ACTIVATIONS
from numbadw.cpu.label import PRIME
from numbadw.cpu.simd import Simd, Vec

AVX512 = 512  # bits of a vector, on no other CPU
LOG2_E = 1.4426950408889634
# ln 2 = high + low; high is 355 / 512, 9 bits, and exponents have at most 11, so their
# product is exact in either element type.
LN2_HIGH = 0.693359375
LN2_LOW = -0.00021219444005469057


class _Format(NamedTuple):
    """The constants of one element type; polynomials have the lowest power first."""

    mantissa: int  # bits of the mantissa that are stored
    bias: int  # of the exponent
    round: float  # 1.5 * 2**mantissa: adding it rounds to an integer, kept in low bits
    round_bits: int
    half_binade: int  # bits of 1.0 less the bits of sqrt(1/2)
    exp_low: float  # exp is 0 here after rounding ...
    exp_high: float  # ... and infinite here
    unit: float  # 1 - exp(-unit) is 1 after rounding
    erfc_zero: float  # erfc is 0 here after rounding
    keep: int  # mask of the leading half of the mantissa: the square is exact
    erfc_k: float  # K of t = K / (K + a), the one that needs the lowest degree
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r**2, |r| <= 1.01 ln 2 / 2
    log: tuple[
        float, ...
    ]  # (2 atanh(z) / z - 2) / w, w = z**2 <= 1.005 (3 - 8**0.5)**2
    erfc: tuple[float, ...]  # exp(a**2) erfc(a) / t in t - 1/2, a in [0, erfc_zero]


_FORMATS = {
    "f32": _Format(
        mantissa=23,
        bias=127,
        round=12582912.0,
        round_bits=0x4B400000,
        half_binade=0x3F800000 - 0x3F3504F3,
        exp_low=-104.0,
        exp_high=89.0,
        unit=20.0,
        erfc_zero=10.1,
        keep=0xFFFFF000,
        erfc_k=2.5,
        # Relative to expm1: 2.6e-8.
        exp=(
            0.5,
            0.16666573381900845,
            0.04166655011030512,
            0.008363773874405574,
            0.0013926926614021907,
        ),
        # Relative to log1p: 2.9e-9.
        log=(0.6666668531998778, 0.39988666078330715, 0.2958513265638884),
        # Relative: 1.9e-8.
        erfc=(
            0.42161273121155074,
            0.6437214162623511,
            0.7262616576278215,
            0.5480121438223939,
            0.18155239291769185,
            -0.10775577459861996,
            -0.12365947672776527,
            0.02716729153982199,
            0.067846395801191,
            -0.03333993312922594,
        ),
    ),
    "f64": _Format(
        mantissa=52,
        bias=1023,
        round=6755399441055744.0,
        round_bits=0x4338000000000000,
        half_binade=0x3FF0000000000000 - 0x3FE6A09E667F3BCD,
        exp_low=-746.0,
        exp_high=710.0,
        unit=40.0,
        erfc_zero=27.3,
        keep=0xFFFFFFFFF8000000,
        erfc_k=3.5,
        # Relative to expm1: 4.6e-17.
        exp=(
            0.5000000000000001,
            0.16666666666666669,
            0.04166666666662064,
            0.008333333333329793,
            0.0013888888918939168,
            0.00019841269864380513,
            2.4801518641395993e-05,
            2.75572664186123e-06,
            2.7621338669142925e-07,
            2.510134692835034e-08,
        ),
        # Relative to log1p: 4.8e-18.
        log=(
            0.666666666666667,
            0.399999999998964,
            0.2857142862737874,
            0.22222210906299858,
            0.1818290573161313,
            0.15331170984318102,
            0.1462323858107783,
        ),
        # Relative: 1.8e-17.
        erfc=(
            0.3105873112177886,
            0.5358855568954926,
            0.7932727390110222,
            0.9948709182100275,
            1.0319479846738695,
            0.8440567464093224,
            0.4849119064079061,
            0.11618926966714432,
            -0.09547737174222733,
            -0.10452577811361984,
            -0.012306187921214618,
            0.04375528692173366,
            0.02182254568926905,
            -0.01695559390623298,
            -0.015878595111511323,
            0.007456712055497603,
            0.010308439889148962,
            -0.004351562377671563,
            -0.006254281930751742,
            0.003261065442205609,
            0.002707342330234297,
            -0.001974370734317132,
        ),
    ),
}


class VectorOps:
    """The words of `activations.py` over `Vec`; NaN passes through each of them."""

    def __init__(self, simd: Simd) -> None:
        self.simd = simd
        self._format = _FORMATS[simd.dtype]
        self._integers = ir.VectorType(ir.IntType(8 * simd.itemsize), simd.lanes)

    def maximum(self, a: Vec, b: Vec | float) -> Vec:
        """Return the larger of `a` and `b`, NaN where either is NaN."""
        return self.simd.maximum(a, b)

    def minimum(self, a: Vec, b: Vec | float) -> Vec:
        """Return the smaller of `a` and `b`, NaN where either is NaN."""
        return self.simd.minimum(a, b)

    def where(self, condition: Any, a: Vec | float, b: Vec | float) -> Vec:
        """Return `a` in the lanes where `condition` holds, else `b`."""
        return self.simd.where(condition, a, b)

    def exp(self, x: Vec) -> Vec:
        """Return e**x: subnormal and then 0 far left, infinite on overflow."""
        return self._exp(self.minimum(x, self._format.exp_high))

    def exp_minus_abs(self, x: Vec) -> Vec:
        """Return e**-|x|, as exp does."""
        return self._exp(-abs(x))

    def expm1(self, x: Vec) -> Vec:
        """Return e**x - 1, relatively accurate around 0."""
        x = self.minimum(x, self._format.exp_high)
        return self._expm1(self.maximum(x, -self._format.unit))

    def tanh(self, x: Vec) -> Vec:
        """Return tanh(x) = u / (u + 2), u = expm1(2 |x|), with the sign of x."""
        bounded = self.minimum(abs(x), 0.5 * self._format.unit)
        u = self._expm1(bounded + bounded)
        return self.simd.intrinsic("copysign", u / (u + 2.0), x)

    def log1p(self, y: Vec) -> Vec:
        """Return log(1 + y) for -1 < y < 2**126 (float32) or 2**1022 (float64).

        Relatively accurate around 0, meaningless outside; softplus asks for [0, 1].
        """
        numbers, build = self._format, self.simd.builder
        # Adding log2(sqrt 2) to the exponent moves the binade to [sqrt 1/2, sqrt 2);
        # the exponent stays positive, so the shift may be a logical one.
        moved = build.add(self._bits(y + 1.0), self._integer(numbers.half_binade))
        biased = build.lshr(moved, self._integer(numbers.mantissa))
        k = self._vec(build.add(biased, self._integer(numbers.round_bits)))
        k = k - (numbers.round + numbers.bias)
        exponent = build.sub(self._integer(2 * numbers.bias), biased)
        scale = self._vec(build.shl(exponent, self._integer(numbers.mantissa)))
        # 2**-k (1 + y) - 1 with a single rounding: 1 + y itself is never used, so its
        # rounding costs nothing and f is y where k is 0.
        f = self.simd.fma(y, scale, scale - 1.0)
        z = f / (f + 2.0)
        w = z * z
        small = f - z * (f - w * self._polynomial(w, numbers.log))
        return self.simd.fma(k, self.simd.vec(LN2_HIGH), small + k * LN2_LOW)

    def erfc(self, x: Vec) -> Vec:
        """Return 1 - erf(x), relatively accurate in the right tail."""
        numbers = self._format
        a = self.minimum(abs(x), numbers.erfc_zero)
        # a**2 = high + rest with an exact high: rounded, it would cost a**2 ulp.
        leading = self._integer(numbers.keep)
        head = self._vec(self.simd.builder.and_(self._bits(a), leading))
        shifted, r = self._reduce(-(head * head), (head - a) * (head + a))
        # 1 - t = a / (K + a) has the smaller error where a < K.
        far = a > numbers.erfc_k
        w = self.where(far, numbers.erfc_k, a) / (a + numbers.erfc_k)
        t = self.where(far, w, 1.0 - w)
        q = self._polynomial(self.where(far, w - 0.5, 0.5 - w), numbers.erfc)
        tq = t * q
        right = self._scale(self.simd.fma(tq, self._expm1_small(r), tq), shifted)
        return self.where(x < 0.0, 2.0 - right, right)

    def _reduce(self, x: Vec, rest: Vec | None = None) -> tuple[Vec, Vec]:
        """Return n and r, x + rest = n ln 2 + r; n as the low bits of a float."""
        simd, numbers = self.simd, self._format
        total = x if rest is None else x + rest
        shifted = simd.fma(total, simd.vec(LOG2_E), simd.vec(numbers.round))
        n = shifted - numbers.round
        r = simd.fma(n, simd.vec(-LN2_HIGH), x)  # exact
        r = r if rest is None else r + rest
        return shifted, simd.fma(n, simd.vec(-LN2_LOW), r)

    def _exp(self, x: Vec) -> Vec:
        """Return e**x for an x that does not overflow it by far."""
        shifted, r = self._reduce(self.maximum(x, self._format.exp_low))
        return self._scale(self._expm1_small(r) + 1.0, shifted)

    def _expm1_small(self, r: Vec) -> Vec:
        """Return e**r - 1 for a reduced r."""
        return self.simd.fma(r * r, self._polynomial(r, self._format.exp), r)

    def _expm1(self, x: Vec) -> Vec:
        """Return e**x - 1 for x in the range where n is a valid exponent."""
        numbers, build = self._format, self.simd.builder
        shifted, r = self._reduce(x)
        # Half of it: 2**(n - 1) is finite where 2**n overflows, n = bias + 1.
        offset = self._integer(numbers.bias - 1 - numbers.round_bits)
        exponent = build.add(self._bits(shifted), offset)
        half = self._vec(build.shl(exponent, self._integer(numbers.mantissa)))
        value = self.simd.fma(self._expm1_small(r), half, half - 0.5)
        return value + value

    def _scale(self, value: Vec, shifted: Vec) -> Vec:
        """Return value * 2**n in two factors, neither of which leaves the range."""
        numbers, build = self._format, self.simd.builder
        bits = 8 * self.simd.lanes * self.simd.itemsize
        if bits == AVX512 == 8 * jit.target().vector_bytes:
            return self._scale_at_once(value, shifted - numbers.round)
        mantissa = self._integer(numbers.mantissa)
        offset = self._integer(2 * numbers.bias - numbers.round_bits)
        exponent = build.add(self._bits(shifted), offset)
        first = build.lshr(exponent, self._integer(1))
        second = build.sub(exponent, first)
        value = value * self._vec(build.shl(first, mantissa))
        return value * self._vec(build.shl(second, mantissa))

    def _scale_at_once(self, value: Vec, n: Vec) -> Vec:
        """Return value * 2**n by the instruction that AVX-512 has for it."""
        simd = self.simd
        whole = ir.Constant(ir.IntType(simd.lanes), 2**simd.lanes - 1)
        rounding = ir.Constant(ir.IntType(32), 4)  # as the processor is set
        kind = "ps" if simd.dtype == "f32" else "pd"
        name = f"llvm.x86.avx512.mask.scalef.{kind}.512"
        values = [value.value, n.value, value.value, whole, rounding]
        return Vec(simd, simd.call(name, simd.kind, values))

    def _polynomial(self, x: Vec, coefficients: Sequence[float]) -> Vec:
        """Evaluate by Horner's rule; the lowest power comes first."""
        simd = self.simd
        total = simd.vec(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = simd.fma(total, x, simd.vec(coefficient))
        return total

    def _bits(self, vec: Vec) -> Any:
        return self.simd.builder.bitcast(vec.value, self._integers)

    def _vec(self, bits: Any) -> Vec:
        return Vec(self.simd, self.simd.builder.bitcast(bits, self.simd.kind))

    def _integer(self, value: int) -> Any:
        bits = 8 * self.simd.itemsize
        return ir.Constant(self._integers, [value % 2**bits] * self.simd.lanes)


def emit_activation(simd: Simd, name: str, parameter: Vec | float, x: Vec) -> Vec:
    """Emit the activation `name` of every lane of `x`.

    `name` is a key of `ACTIVATIONS`, or one and `PRIME` for its derivative.
    """
    row = ACTIVATIONS[name.removesuffix(PRIME)]
    formula = row.derivative if name.endswith(PRIME) else row.function
    value: Vec = formula(x, parameter, VectorOps(simd))
    return value
