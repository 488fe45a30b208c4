"""The formulas of `activations.py` on single numbers in emitted code.

A formula runs once, over `Scalar`, when a word is made, and leaves straight-line code
of the sums' own type: Numba would read its constants as float64 and compute in it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from numbadw.activations import ACTIVATIONS
from numbadw.cuda.emit import Code


class Scalar:
    """A number in the emitted code; Python numbers mix in as constants."""

    __slots__ = ("code", "value")

    def __init__(self, code: Code, value: Any) -> None:
        self.code = code
        self.value = value

    def _other(self, other: Any) -> Any:
        if isinstance(other, Scalar):
            return other.value
        return ir.Constant(self.code.type, float(other))

    def _binary(self, name: str, other: Any) -> Scalar:
        operation = getattr(self.code.builder, name)
        return Scalar(self.code, operation(self.value, self._other(other)))

    def _compare(self, relation: str, other: Any) -> Any:
        builder = self.code.builder
        return builder.fcmp_ordered(relation, self.value, self._other(other))

    def __add__(self, other: Any) -> Scalar:
        return self._binary("fadd", other)

    def __mul__(self, other: Any) -> Scalar:
        return self._binary("fmul", other)

    def __truediv__(self, other: Any) -> Scalar:
        code = self.code
        if not code.target.cuda or code.type == ir.DoubleType():
            return self._binary("fdiv", other)
        # Two roundings off at most; the exact division would call a function.
        kind = ir.FunctionType(code.type, [code.type, code.type])
        args = [self.value, self._other(other)]
        text = "div.full.f32 $0, $1, $2;"
        return Scalar(code, code.builder.asm(kind, text, "=f,f,f", args, False))

    def __neg__(self) -> Scalar:
        zero = ir.Constant(self.code.type, -0.0)
        return Scalar(self.code, self.code.builder.fsub(zero, self.value))

    def __lt__(self, other: Any) -> Any:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Any:
        return self._compare(">=", other)


class ScalarOps:
    """The words that the formulas ask of `ops`."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def _choose(self, relation: str, a: Scalar, b: Any) -> Scalar:
        """Return `a` where the relation holds or `a` is NaN, else `b`."""
        builder, other = self.code.builder, a._other(b)
        keep = builder.fcmp_unordered(relation, a.value, other)
        return Scalar(self.code, builder.select(keep, a.value, other))

    def maximum(self, a: Scalar, b: Any) -> Scalar:
        """Return the larger; the second is NaN only where the first is."""
        return self._choose(">=", a, b)

    def minimum(self, a: Scalar, b: Any) -> Scalar:
        """Return the smaller; the second is NaN only where the first is."""
        return self._choose("<=", a, b)

    def where(self, condition: Any, a: Any, b: Any) -> Scalar:
        """Return `a` where the condition holds, else `b`."""
        some = a if isinstance(a, Scalar) else b
        chosen = self.code.builder.select(condition, some._other(a), some._other(b))
        return Scalar(self.code, chosen)

    def _library(self, name: str, x: Scalar) -> Scalar:
        code = self.code
        suffix = "" if code.type == ir.DoubleType() else "f"
        prefix = "__nv_" if code.target.cuda else ""
        return Scalar(code, code.call(f"{prefix}{name}{suffix}", code.type, x.value))

    def exp(self, x: Scalar) -> Scalar:
        """Return e**x."""
        return self._library("exp", x)

    def exp_minus_abs(self, x: Scalar) -> Scalar:
        """Return e**-|x|."""
        return self.exp(self.minimum(x, -x))

    def expm1(self, x: Scalar) -> Scalar:
        """Return e**x - 1."""
        return self._library("expm1", x)

    def log1p(self, x: Scalar) -> Scalar:
        """Return log(1 + x)."""
        return self._library("log1p", x)

    def tanh(self, x: Scalar) -> Scalar:
        """Return the hyperbolic tangent."""
        return self._library("tanh", x)

    def erfc(self, x: Scalar) -> Scalar:
        """Return 1 - erf(x), relatively accurate to the right."""
        return self._library("erfc", x)


def emit_activation(
    code: Code, name: str, derivative: bool, parameter: Any, value: Any
) -> Any:
    """Emit an activation or its derivative on one value."""
    row = ACTIVATIONS[name]
    formula = row.derivative if derivative else row.function
    made = formula(Scalar(code, value), Scalar(code, parameter), ScalarOps(code))
    return made.value if isinstance(made, Scalar) else ir.Constant(code.type, made)
