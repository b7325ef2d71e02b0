"""Rules of activations: functions that users pass as ``activation=``, and layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcert import backend, layers, relaxations
from tfcert.rules import building
from tfcert.rules.nonlinear import Elementwise
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_activation, register_rule

__all__ = ["gelu", "leaky_relu", "relu"]


def leaky_relu(negative_slope: float) -> relaxations.Curve:
    """LeakyReLU as the backend executes it."""
    return relaxations.leaky_relu(backend.kernel_constant(negative_slope))


def gelu(approximate: bool = True) -> relaxations.Curve:
    """``keras.ops.gelu`` as the backend executes it."""
    root, cubic = 1.0 / backend.kernel_constant(0.5**0.5), backend.kernel_constant(0.044715)
    return relaxations.gelu(approximate, root, cubic)


def relu(
    negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> relaxations.Curve:
    """``keras.activations.relu``."""
    if negative_slope and max_value is None and not threshold:
        return leaky_relu(float(negative_slope))
    return relaxations.relu(float(negative_slope or 0.0), max_value, float(threshold or 0.0))


_CURVES = relaxations.CURVES
_FUNCTIONS = {
    keras.activations.relu: _CURVES["relu"],
    keras.activations.leaky_relu: leaky_relu(0.2),
    keras.activations.relu6: _CURVES["relu6"],
    keras.activations.elu: _CURVES["elu"],
    keras.activations.celu: _CURVES["celu"],
    keras.activations.selu: _CURVES["selu"],
    keras.activations.gelu: gelu(False),
    keras.activations.silu: _CURVES["silu"],
    keras.activations.hard_silu: _CURVES["hard_silu"],
    keras.activations.mish: _CURVES["mish"],
    keras.activations.sigmoid: _CURVES["sigmoid"],
    keras.activations.hard_sigmoid: _CURVES["hard_sigmoid"],
    keras.activations.sparse_sigmoid: _CURVES["sparse_sigmoid"],
    keras.activations.log_sigmoid: _CURVES["log_sigmoid"],
    keras.activations.tanh: _CURVES["tanh"],
    keras.activations.hard_tanh: _CURVES["hard_tanh"],
    keras.activations.tanh_shrink: _CURVES["tanh_shrink"],
    keras.activations.soft_shrink: _CURVES["soft_shrink"],
    keras.activations.hard_shrink: _CURVES["hard_shrink"],
    keras.activations.softplus: _CURVES["softplus"],
    keras.activations.sparse_plus: _CURVES["sparse_plus"],
    keras.activations.squareplus: _CURVES["squareplus"],
    keras.activations.softsign: _CURVES["softsign"],
    keras.activations.exponential: _CURVES["exponential"],
}


def _activation(layer: Any, x: Node) -> Node:
    return building.activation(layer.activation, x)


def _by_curve(curve: Callable[[Any], relaxations.Curve]) -> Callable[[Any, Node], Node]:
    return lambda layer, x: building.curve(curve(layer), x)


def _prelu(layer: Any, x: Node) -> Node:
    return apply(Elementwise(relaxations.prelu, layer.alpha), x)


def _softmax(layer: Any, x: Node) -> Node:
    return building.softmax(x, layer.axis)


for _function, _curve in _FUNCTIONS.items():
    register_activation(_function, _curve)
register_rule(keras.activations.softmax, building.softmax)
register_rule(keras.activations.log_softmax, building.log_softmax)
register_rule(keras.layers.Activation, _activation)
register_rule(
    keras.layers.ReLU,
    _by_curve(lambda layer: relu(layer.negative_slope, layer.max_value, layer.threshold)),
)
register_rule(
    keras.layers.LeakyReLU,
    _by_curve(lambda layer: leaky_relu(float(layer.negative_slope))),
)
register_rule(keras.layers.PReLU, _prelu)
register_rule(keras.layers.ELU, _by_curve(lambda layer: relaxations.elu(float(layer.alpha))))
register_rule(keras.layers.Softmax, _softmax)

# Both limits count where an interval reaches the jump.
_STEP = relaxations.PiecewiseLinear(
    "step", lambda x: ops.cast(x > 0, x.dtype), (0.0,), (0.0, 0.0), (0.0, 1.0)
)
register_activation(layers.Step, _STEP)
