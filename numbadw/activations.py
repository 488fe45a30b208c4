"""One table of activations and derivatives, executed by every target.

Each formula is one plain function `f(x, p, ops)`: operators, Python float constants
and the words of `ops`, nothing else. NumPy arrays, the CPU tile's vectors and scalar
CUDA code all run the same formula. Formulas and constants are Keras 3's.

A target's values (arrays, vectors or scalars) provide + - * /, unary minus and
< <= > >=, false on NaN; its `ops` provides

    exp(x), expm1(x)               down to 0 and -1 at -inf, inf on overflow
    exp_minus_abs(x)               exp(-|x|), which never overflows
    log1p(x), tanh(x), erfc(x)     erfc relatively accurate in its right tail
    maximum(x, y), minimum(x, y)   NaN where either is NaN
    where(condition, a, b)         a where the condition holds, else b

Python floats (and p) may stand on either side of an operator, as the second argument
of maximum and minimum, and as one of the two branches of where.

Every formula passes NaN on and gives the mathematical limit at +-inf: where a product
would be inf * 0, x is first clamped to where the other factor is 0 (or 1) already.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Formula = Callable[[Any, Any, Any], Any]

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
SQRT_HALF = 0.7071067811865476
INV_SQRT_2PI = 0.3989422804014327
SIXTH = 1.0 / 6.0
# exp(-EXP_ZERO) and Phi(-PHI_ZERO) are 0 in float64, so in float32 too.
EXP_ZERO = 800.0
PHI_ZERO = 40.0


class Activation(NamedTuple):
    """One row of the table; `parameter` is None where the formula ignores p."""

    name: str
    function: Formula
    derivative: Formula
    parameter: float | None = None


def _constant(x: Any, value: Any, ops: Any) -> Any:
    """Give `value` in the shape of x, and NaN where x is NaN."""
    return ops.minimum(ops.maximum(x, value), value)


def _linear(x: Any, p: Any, ops: Any) -> Any:
    return x


def _linear_derivative(x: Any, p: Any, ops: Any) -> Any:
    # 1 on NaN too: nothing of x enters a linear gradient.
    return ops.where(x <= x, _constant(x, 1.0, ops), 1.0)


def _relu(x: Any, p: Any, ops: Any) -> Any:
    return ops.maximum(x, 0.0)


def _relu_derivative(x: Any, p: Any, ops: Any) -> Any:
    return ops.where(x <= 0.0, 0.0, _constant(x, 1.0, ops))


def _relu6(x: Any, p: Any, ops: Any) -> Any:
    return ops.minimum(ops.maximum(x, 0.0), 6.0)


def _relu6_derivative(x: Any, p: Any, ops: Any) -> Any:
    inside = ops.where(x >= 6.0, 0.0, _constant(x, 1.0, ops))
    return ops.where(x <= 0.0, 0.0, inside)


def _leaky_relu(x: Any, p: Any, ops: Any) -> Any:
    return ops.where(x > 0.0, x, x * p)


def _leaky_relu_derivative(x: Any, p: Any, ops: Any) -> Any:
    return ops.where(x > 0.0, _constant(x, 1.0, ops), _constant(x, p, ops))


def _elu(x: Any, p: Any, ops: Any) -> Any:
    return ops.where(x > 0.0, x, ops.expm1(ops.minimum(x, 0.0)) * p)


def _elu_derivative(x: Any, p: Any, ops: Any) -> Any:
    slope = ops.exp(ops.minimum(x, 0.0)) * p
    return ops.where(x > 0.0, _constant(x, 1.0, ops), slope)


def _selu(x: Any, p: Any, ops: Any) -> Any:
    return _elu(x, SELU_ALPHA, ops) * SELU_SCALE


def _selu_derivative(x: Any, p: Any, ops: Any) -> Any:
    return _elu_derivative(x, SELU_ALPHA, ops) * SELU_SCALE


def _sigmoid(x: Any, p: Any, ops: Any) -> Any:
    # exp of -|x| only: no overflow, and the left tail keeps its relative accuracy.
    e = ops.exp_minus_abs(x)
    return ops.where(x < 0.0, e, 1.0) / (e + 1.0)


def _sigmoid_derivative(x: Any, p: Any, ops: Any) -> Any:
    e = ops.exp_minus_abs(x)
    return e / ((e + 1.0) * (e + 1.0))


def _hard_sigmoid(x: Any, p: Any, ops: Any) -> Any:
    # A multiplication: a division would cost more than a 3x3 convolution's sums.
    return _relu6(x + 3.0, p, ops) * SIXTH


def _hard_sigmoid_derivative(x: Any, p: Any, ops: Any) -> Any:
    inside = ops.where(x >= 3.0, 0.0, _constant(x, SIXTH, ops))
    return ops.where(x <= -3.0, 0.0, inside)


def _silu(x: Any, p: Any, ops: Any) -> Any:
    t = ops.maximum(x, -EXP_ZERO)
    return t * _sigmoid(t, p, ops)


def _silu_derivative(x: Any, p: Any, ops: Any) -> Any:
    t = ops.minimum(ops.maximum(x, -EXP_ZERO), EXP_ZERO)
    return _sigmoid(t, p, ops) * (t * _sigmoid(-t, p, ops) + 1.0)


def _hard_silu(x: Any, p: Any, ops: Any) -> Any:
    t = ops.maximum(x, -3.0)
    return t * (ops.minimum(t + 3.0, 6.0) * SIXTH)


def _hard_silu_derivative(x: Any, p: Any, ops: Any) -> Any:
    right = ops.where(x > 3.0, _constant(x, 1.0, ops), 0.0)
    inside = x * (2.0 * SIXTH) + 0.5
    return ops.where(x <= -3.0, 0.0, ops.where(x >= 3.0, right, inside))


def _normal_cdf(x: Any, ops: Any) -> Any:
    return ops.erfc(x * -SQRT_HALF) * 0.5


def _gelu(x: Any, p: Any, ops: Any) -> Any:
    t = ops.maximum(x, -PHI_ZERO)
    return t * _normal_cdf(t, ops)


def _gelu_derivative(x: Any, p: Any, ops: Any) -> Any:
    t = ops.minimum(ops.maximum(x, -PHI_ZERO), PHI_ZERO)
    return _normal_cdf(t, ops) + t * ops.exp(t * t * -0.5) * INV_SQRT_2PI


def _tanh(x: Any, p: Any, ops: Any) -> Any:
    return ops.tanh(x)


def _tanh_derivative(x: Any, p: Any, ops: Any) -> Any:
    # 1 - tanh(x) ** 2 would cancel in the tails.
    return _sigmoid_derivative(x * 2.0, p, ops) * 4.0


def _softplus(x: Any, p: Any, ops: Any) -> Any:
    return ops.maximum(x, 0.0) + ops.log1p(ops.exp_minus_abs(x))


_ROWS = (
    Activation("linear", _linear, _linear_derivative),
    Activation("relu", _relu, _relu_derivative),
    Activation("relu6", _relu6, _relu6_derivative),
    Activation("leaky_relu", _leaky_relu, _leaky_relu_derivative, 0.2),
    Activation("elu", _elu, _elu_derivative, 1.0),
    Activation("selu", _selu, _selu_derivative),
    Activation("sigmoid", _sigmoid, _sigmoid_derivative),
    Activation("hard_sigmoid", _hard_sigmoid, _hard_sigmoid_derivative),
    Activation("silu", _silu, _silu_derivative),
    Activation("hard_silu", _hard_silu, _hard_silu_derivative),
    Activation("gelu", _gelu, _gelu_derivative),
    Activation("tanh", _tanh, _tanh_derivative),
    Activation("softplus", _softplus, _sigmoid),
)
ACTIVATIONS = {row.name: row for row in _ROWS}
ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}


def canonical(value: object, name: str = "activation") -> object:
    """Give a user's activation, a pair as `resolve` does: equal ones mean the same."""
    return value if value is None or type(value) is str else resolve(value, name)


def resolve(value: object, name: str = "activation") -> tuple[str, float]:
    """Turn a user's activation into a canonical name and its parameter.

    Parameters
    ----------
    value : None, str or (str, float)
        None means linear; names and aliases in any case.
    name : str
        The argument's name, for the messages.

    Returns
    -------
    (str, float)
        A key of `ACTIVATIONS`, and its parameter (0.0 where it takes none). A
        leaky_relu of slope 0 is relu, whose limit at -inf needs no 0 * inf.

    Raises
    ------
    TypeError
        Not None, a name or a pair of name and real number.
    ValueError
        Unknown name, a parameter where none is taken or one that is not finite.
    """
    label: Any = "linear" if value is None else value
    parameters: Any = ()
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be a name or (name, number), got {value!r}")
        label, *parameters = value
    if not isinstance(label, str):
        raise TypeError(
            f"{name} must be None, a name or (name, number), got {value!r} "
            f"of type {type(value).__name__}"
        )
    key = label.lower()
    row = ACTIVATIONS.get(ALIASES.get(key, key))
    if row is None:
        known = ", ".join([*ACTIVATIONS, *ALIASES])
        raise ValueError(f"{name} must be one of {known}; got {label!r}")
    if parameters and row.parameter is None:
        raise ValueError(f"{name} {row.name} takes no parameter, got {value!r}")
    if not parameters:
        return row.name, row.parameter or 0.0
    parameter = _finite(parameters[0], name)
    if row.name == "leaky_relu" and parameter == 0.0:
        return "relu", 0.0
    return row.name, parameter


def _finite(value: object, name: str) -> float:
    reals = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, reals):
        raise TypeError(
            f"the parameter of {name} must be a real number, got {value!r} "
            f"of type {type(value).__name__}"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"the parameter of {name} must be finite, got {value!r}")
    return number


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


class _NumpyOps:
    """The words over NumPy arrays; erfc goes element by element, as NumPy has none."""

    exp = staticmethod(np.exp)
    expm1 = staticmethod(np.expm1)
    log1p = staticmethod(np.log1p)
    tanh = staticmethod(np.tanh)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    where = staticmethod(np.where)

    @staticmethod
    def exp_minus_abs(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(np.exp(-np.abs(x)))

    @staticmethod
    def erfc(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(_erfc(x), x.dtype)


numpy_ops = _NumpyOps()


def apply(x: npt.NDArray[Any], name: str, parameter: float) -> npt.NDArray[Any]:
    """Evaluate the activation `name` on an array, in the array's own dtype."""
    with np.errstate(all="ignore"):
        return np.asarray(ACTIVATIONS[name].function(x, parameter, numpy_ops))


def apply_derivative(
    x: npt.NDArray[Any], name: str, parameter: float
) -> npt.NDArray[Any]:
    """Evaluate the derivative of `name` on an array, in the array's own dtype.

    At a kink it is 0 (relu, relu6, hard_*); leaky_relu, elu and selu take their left
    side's slope at 0.
    """
    with np.errstate(all="ignore"):
        return np.asarray(ACTIVATIONS[name].derivative(x, parameter, numpy_ops))
