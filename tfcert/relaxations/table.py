"""The activation functions of Keras and other scalar functions, declared.

Curvatures and turning points follow from the second and first derivatives; constants that have no
closed form are roots of those, computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import activations, ops

from tfcert import types
from tfcert.relaxations import curve as curve_lib
from tfcert.relaxations import piecewise, rectifiers

__all__ = [
    "CURVES",
    "celu",
    "elu",
    "gelu",
    "power",
    "squareplus",
]

_INF = math.inf
_S_SHAPE: dict[str, Any] = {"breaks": (0.0,), "curvature": ("convex", "concave")}

# keras.activations.selu: scale * elu(x, alpha).
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


def elu(alpha: float = 1.0) -> curve_lib.Curve:
    """The curve of ``keras.layers.ELU``: x above 0, ``alpha * (exp(x) - 1)`` below."""
    return _exponential_unit("elu", alpha, 1.0, 1.0)


def celu(alpha: float = 1.0) -> curve_lib.Curve:
    """The curve of ``keras.activations.celu``: x above 0, ``alpha * (exp(x / alpha) - 1)`` below.

    For ``alpha > 0``.
    """
    if not alpha > 0:
        raise ValueError(f"`alpha` must be positive. Received: alpha={alpha}")
    return _exponential_unit("celu", 1.0, alpha, 1.0)


def _exponential_unit(name: str, left: float, width: float, right: float) -> curve_lib.Curve:
    """0 at 0, with derivative `right` above and ``left * exp(x / width)`` below."""
    if left < 0:
        raise ValueError(f"`alpha` must not be negative. Received: alpha={left}")
    return curve_lib.Curve(
        name,
        # expm1 instead of the backend's own functions: TensorFlow's elu loses all digits near 0 in
        # float32.
        lambda x: (
            right * ops.maximum(x, 0.0) + left * width * ops.expm1(ops.minimum(x, 0.0) / width)
        ),
        lambda x: ops.where(
            x >= 0, ops.full_like(x, right), left * ops.exp(ops.minimum(x, 0.0) / width)
        ),
        breaks=(0.0,),
        curvature=("convex", "linear"),
        shape="convex" if left <= right else None,
    )


def gelu(
    approximate: bool = False, root: float = math.sqrt(2.0), cubic: float = 0.044715
) -> curve_lib.Curve:
    """The curve of ``keras.activations.gelu``, with the normal distribution or its tanh form.

    Args:
        approximate: Whether it is the tanh form.
        root: The square root of 2 as the executed function holds it.
        cubic: The coefficient of the tanh form, likewise.
    """
    if approximate:
        return _gelu_tanh(cubic)

    def share(x: types.Tensor) -> types.Tensor:
        return 0.5 * (1.0 + ops.erf(_near(x) / root))

    def derivative(x: types.Tensor) -> types.Tensor:
        density = ops.exp(-ops.square(_near(x) / root)) / (root * math.sqrt(math.pi))
        return share(x) + x * density

    return curve_lib.Curve(
        "gelu",
        lambda x: x * share(x),
        derivative,
        breaks=(-root, root),
        curvature=("concave", "convex", "concave"),
        turning=(-0.7517915246935644 * root / math.sqrt(2.0),),
        limits=(0.0, _INF),
        noise=6.0,
    )


def _gelu_tanh(cubic: float) -> curve_lib.Curve:
    # How far `cubic` is rounded moves these points by 1e-9, where f is straight to 1e-17.
    bend, turn = 1.4185040087908283, -0.7524614220710163
    scale = 2.0 * math.sqrt(2.0 / math.pi)

    def inner(x: types.Tensor) -> types.Tensor:
        return scale * (x + cubic * x * x * x)

    def function(x: types.Tensor) -> types.Tensor:
        return x * ops.sigmoid(inner(_near(x)))  # (1 + tanh(z)) / 2 = sigmoid(2 * z)

    def derivative(x: types.Tensor) -> types.Tensor:
        near = _near(x)
        slope = scale * (1.0 + 3.0 * cubic * ops.square(near))
        return ops.sigmoid(inner(near)) * (1.0 + near * ops.sigmoid(-inner(near)) * slope)

    return curve_lib.Curve(
        "gelu",
        function,
        derivative,
        breaks=(-bend, bend),
        curvature=("concave", "convex", "concave"),
        turning=(turn,),
        limits=(0.0, _INF),
        noise=1.0,
    )


def _near(x: types.Tensor) -> types.Tensor:
    """x, where it matters; powers of anything larger might overflow."""
    return ops.clip(x, -1000.0, 1000.0)


def squareplus(b: float = 4) -> curve_lib.Curve:
    """The curve of ``keras.activations.squareplus``: ``(x + sqrt(x**2 + b)) / 2``, ``b > 0``."""

    def root(x: types.Tensor) -> types.Tensor:
        # The square must not overflow; the larger of both is exact to rounding from 1e15 on.
        size = ops.abs(x)
        return ops.maximum(ops.sqrt(ops.square(ops.minimum(size, 1e15)) + b), size)

    def tail(x: types.Tensor) -> types.Tensor:
        return 0.5 * b / (root(x) + ops.abs(x))  # (root - |x|) / 2 without its cancellation.

    return curve_lib.Curve(
        "squareplus",
        lambda x: ops.maximum(x, 0.0) + tail(x),
        lambda x: ops.where(x < 0, tail(x) / root(x), 1.0 - tail(x) / root(x)),
    )


def power(exponent: int) -> curve_lib.Curve:
    """The curve of ``x ** exponent`` for an integer exponent of at least 2."""
    if int(exponent) != exponent or exponent < 2:
        raise ValueError(
            f"`exponent` must be an integer of at least 2. Received: exponent={exponent}"
        )
    n = int(exponent)
    facts: dict[str, Any] = (
        {"turning": (0.0,)}
        if n % 2 == 0
        else {"breaks": (0.0,), "curvature": ("concave", "convex")}
    )
    return curve_lib.Curve(
        f"power({n})",
        lambda x: ops.power(x, float(n)),
        lambda x: n * ops.power(x, n - 1.0),
        **facts,
    )


def _sqrt(x: types.Tensor) -> types.Tensor:
    """sqrt with gradient 0 instead of infinity at 0, which would turn into NaN further on."""
    zero = x == 0
    return ops.where(zero, 0.0, ops.sqrt(ops.where(zero, 1.0, x)))


def _arctan(x: types.Tensor) -> types.Tensor:
    """Arctan in the dtype of x: under JAX, ``keras.ops.arctan`` casts float64 to float32.

    arctan(x) = 2 * arctan(x / (1 + sqrt(1 + x**2))), four times; then |x| < 0.1, and a few terms
    of x - x**3 / 3 + x**5 / 5 - ... are enough.
    """
    x = ops.clip(x, -1e17, 1e17)  # Its square must not overflow; beyond, nothing changes.
    for _ in range(4):
        x = x / (1.0 + ops.sqrt(1.0 + ops.square(x)))
    square, series = ops.square(x), 1.0 / 15.0
    for k in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        series = 1.0 / k - square * series
    return 16.0 * x * series


def _tanh(x: types.Tensor) -> types.Tensor:
    """tanh to full relative accuracy; under JAX, `keras.ops.tanh` casts float64 to float32."""
    step = ops.expm1(-2.0 * ops.clip(x, -20.0, 20.0))
    return -step / (2.0 + step)


def _tanh_derivative(x: types.Tensor) -> types.Tensor:
    x = 2.0 * _near(x)
    return 4.0 * ops.sigmoid(x) * ops.sigmoid(-x)


def _mish_derivative(x: types.Tensor) -> types.Tensor:
    near = _near(x)
    soft = ops.softplus(near)
    return _tanh(soft) + near * _tanh_derivative(soft) * ops.sigmoid(near)


def _sigmoid_like(
    name: str,
    function: Callable[[types.Tensor], types.Tensor],
    derivative: Callable[[types.Tensor], types.Tensor],
    **facts: Any,
) -> curve_lib.Curve:
    return curve_lib.Curve(name, function, derivative, **_S_SHAPE, **facts)


# Known by name, with Keras's default arguments.
CURVES: dict[str, curve_lib.Curve] = {
    "relu": rectifiers.relu(),
    "leaky_relu": rectifiers.leaky_relu(),
    "abs": piecewise.TwoPiece(-1.0, name="abs"),
    "relu6": rectifiers.relu(max_value=6.0),
    "hard_tanh": rectifiers.clip(-1.0, 1.0),
    "hard_sigmoid": piecewise.PiecewiseLinear(
        "hard_sigmoid", ops.hard_sigmoid, (-3.0, 3.0), (0.0, 1.0 / 6.0, 0.0), (0.0, 0.5, 1.0)
    ),
    "sparse_sigmoid": piecewise.PiecewiseLinear(
        "sparse_sigmoid", ops.sparse_sigmoid, (-1.0, 1.0), (0.0, 0.5, 0.0), (0.0, 0.5, 1.0)
    ),
    "soft_shrink": rectifiers.soft_shrink(),
    "hard_shrink": rectifiers.hard_shrink(),
    "elu": elu(),
    "celu": celu(),
    "selu": _exponential_unit("selu", _SELU_SCALE * _SELU_ALPHA, 1.0, _SELU_SCALE),
    "gelu": gelu(),
    "silu": curve_lib.Curve(
        "silu",
        lambda x: x * ops.sigmoid(_near(x)),
        lambda x: ops.sigmoid(x) * (1.0 + _near(x) * ops.sigmoid(-x)),
        breaks=(-2.3993572805154675, 2.3993572805154675),
        curvature=("concave", "convex", "concave"),
        turning=(-1.278464542761074,),
        limits=(0.0, _INF),
    ),
    "hard_silu": curve_lib.Curve(
        "hard_silu",
        ops.hard_silu,
        lambda x: ops.where(x < -3.0, 0.0, ops.where(x > 3.0, 1.0, (2.0 * x + 3.0) / 6.0)),
        breaks=(-3.0, 3.0),
        curvature=("linear", "convex", "linear"),
        turning=(-1.5,),
        limits=(0.0, _INF),
        noise=3.0,
    ),
    "mish": curve_lib.Curve(
        "mish",
        activations.mish,
        _mish_derivative,
        breaks=(-2.2563763963607926, 1.4905711794854284),
        curvature=("concave", "convex", "concave"),
        turning=(-1.1924312145154952,),
        limits=(0.0, _INF),
    ),
    "sigmoid": _sigmoid_like("sigmoid", ops.sigmoid, lambda x: ops.sigmoid(x) * ops.sigmoid(-x)),
    "tanh": _sigmoid_like("tanh", _tanh, _tanh_derivative),
    "erf": _sigmoid_like(
        "erf",
        lambda x: ops.erf(_near(x)),
        lambda x: 2.0 / math.sqrt(math.pi) * ops.exp(-ops.square(_near(x))),
    ),
    "arctan": _sigmoid_like("arctan", _arctan, lambda x: 1.0 / (1.0 + ops.square(x)), noise=2.0),
    "softsign": _sigmoid_like(
        "softsign", ops.softsign, lambda x: 1.0 / ops.square(1.0 + ops.abs(x)), limits=(-1.0, 1.0)
    ),
    "tanh_shrink": curve_lib.Curve(
        "tanh_shrink",
        ops.tanh_shrink,
        lambda x: ops.square(_tanh(x)),
        breaks=(0.0,),
        curvature=("concave", "convex"),
        noise=1.0,
    ),
    "softplus": curve_lib.Curve("softplus", ops.softplus, ops.sigmoid, limits=(0.0, _INF)),
    "log_sigmoid": curve_lib.Curve(
        "log_sigmoid",
        ops.log_sigmoid,
        lambda x: ops.sigmoid(-x),
        curvature=("concave",),
        limits=(-_INF, 0.0),
    ),
    "sparse_plus": curve_lib.Curve(
        "sparse_plus",
        ops.sparse_plus,
        lambda x: ops.clip(0.5 * (x + 1.0), 0.0, 1.0),
        breaks=(-1.0, 1.0),
        curvature=("linear", "convex", "linear"),
        shape="convex",
        noise=1.0,
    ),
    "squareplus": squareplus(),
    "exponential": curve_lib.Curve("exponential", ops.exp, ops.exp),
    "expm1": curve_lib.Curve("expm1", ops.expm1, ops.exp),
    "square": curve_lib.Curve("square", ops.square, lambda x: 2.0 * x, turning=(0.0,)),
    "log": curve_lib.Curve(
        "log",
        ops.log,
        lambda x: 1.0 / x,
        curvature=("concave",),
        domain=(0.0, _INF),
        domain_text="log needs inputs > 0",
    ),
    "log1p": curve_lib.Curve(
        "log1p",
        ops.log1p,
        lambda x: 1.0 / (1.0 + x),
        curvature=("concave",),
        domain=(-1.0, _INF),
        domain_text="log1p needs inputs > -1",
    ),
    "sqrt": curve_lib.Curve(
        "sqrt",
        _sqrt,
        lambda x: 0.5 / ops.sqrt(x),
        curvature=("concave",),
        domain=(0.0, _INF),
        domain_closed=True,
        domain_text="sqrt needs inputs >= 0",
    ),
    "rsqrt": curve_lib.Curve(
        "rsqrt",
        ops.rsqrt,
        lambda x: -0.5 / (x * ops.sqrt(x)),
        domain=(0.0, _INF),
        domain_text="rsqrt needs inputs > 0",
    ),
    "reciprocal": curve_lib.Curve(
        "reciprocal",
        ops.reciprocal,
        lambda x: -1.0 / ops.square(x),
        breaks=(0.0,),
        curvature=("concave", "convex"),
        poles=(0.0,),
        domain_text="reciprocal needs inputs that are all > 0 or all < 0",
    ),
}
