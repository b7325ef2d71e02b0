"""Cases of the rules' tests: operators and functions of keras.ops, and graphs of several layers."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.rule_cases_support import ALONE, MAP, Cases

CASES = Cases()
_add = CASES.add


# Operators and functions of keras.ops.


def _operation(
    name: str, apply: Callable[[Any], Any], shape: Sequence[int], **options: Any
) -> None:
    _add(f"ops_{name}", apply, shape, **options)


_linear_op = functools.partial(_operation, affine=True)
_VECTOR = np.array([0.5, -2.0, 0.25, 1.5])
_MATRIX = np.arange(12.0).reshape(4, 3) / 6.0 - 1.0


def _branches(x: Any) -> tuple[Any, Any]:
    return x, layers.Dense(x.shape[-1])(x)


def _positive(x: Any) -> Any:
    """The value moved to where logarithms, roots and quotients are defined."""
    return layers.Activation("softplus")(x) + 0.25


def _constant(values: Any, x: Any) -> Any:
    """A constant in the type of x: Keras would compute the sum of two types in the wider one."""
    return np.asarray(values).astype(x.dtype)


_linear_op("add", lambda x: sum(_branches(x)), (4,))
_linear_op("add_number", lambda x: 1.5 + x, (4,))
_linear_op("add_vector", lambda x: x + _constant(_VECTOR, x), (3, 4))
_linear_op("add_batched_vector", lambda x: x + _constant(_VECTOR[None], x), (4,))
_linear_op("add_column", lambda x: x + _constant(_VECTOR[:3, None], x), (3, 4))
_linear_op("subtract", lambda x: _branches(x)[0] - _branches(x)[1], (4,))
_linear_op("subtract_from_number", lambda x: 1.0 - x, (4,))
_linear_op("subtract_vector", lambda x: x - _constant(_VECTOR, x), (4,))
_linear_op("multiply_number", lambda x: 2.0 * x, (4,))
_linear_op("multiply_vector", lambda x: x * _constant(_VECTOR, x), (3, 4))
_linear_op("multiply_enlarges", lambda x: x * _constant(_VECTOR, x), (3, 1))
_operation("multiply_map", lambda x: x * _constant([[[2.0], [-1.0]]], x), (3, 2, 1), places=(MAP,))
_operation("multiply", lambda x: math.prod(_branches(x)), (4,))
_operation("multiply_itself", lambda x: x * x, (4,))
_operation("multiply_broadcast", lambda x: x * layers.Dense(1)(x), (3, 2))
_linear_op("divide_number", lambda x: x / 3.0, (4,))
_linear_op("divide_vector", lambda x: x / _constant(_VECTOR, x), (4,))
_linear_op("true_divide", lambda x: ops.true_divide(x, 3.0), (4,))
_operation("divide_function", lambda x: ops.divide(x, _positive(layers.Dense(4)(x))), (4,))
_operation("divide", lambda x: x / _positive(layers.Dense(4)(x)), (4,))
_operation("divide_number_by", lambda x: 2.0 / _positive(x), (4,))
_linear_op("negative", lambda x: -x, (4,))
_operation("maximum_number", lambda x: ops.maximum(x, 0.3), (4,))
_operation("minimum_number", lambda x: ops.minimum(0.3, x), (4,))
_operation("maximum_vector", lambda x: ops.maximum(x, _constant(_VECTOR, x)), (4,))
_operation("minimum_batched_vector", lambda x: ops.minimum(_constant(_VECTOR[None], x), x), (4,))
_operation("maximum", lambda x: ops.maximum(*_branches(x)), (4,))
_operation("minimum", lambda x: ops.minimum(*_branches(x)), (4,))
for _exponent in (1, 2, 3, 4, 5):
    _operation(f"power_{_exponent}", lambda x, n=_exponent: x**n, (4,))
_operation("power_half", lambda x: _positive(x) ** 0.5, (4,))
_operation("power_minus_one", lambda x: _positive(x) ** -1.0, (4,))
_linear_op("matmul", lambda x: ops.matmul(x, _constant(_MATRIX, x)), (2, 4))
_linear_op("matmul_operator", lambda x: x @ _constant(_MATRIX, x), (4,))
_linear_op("einsum", lambda x: ops.einsum("bij,jk->bki", x, _constant(_MATRIX, x)), (2, 4))
_linear_op(
    "einsum_constant_first", lambda x: ops.einsum("jk,bj->bk", _constant(_MATRIX, x), x), (4,)
)

for _name in [
    "abs",
    "absolute",
    "exp",
    "expm1",
    "square",
    "tanh",
    "arctan",
    "erf",
    "sigmoid",
    "relu",
    "relu6",
    "softplus",
    "softsign",
    "silu",
    "hard_silu",
    "hard_sigmoid",
    "log_sigmoid",
    "selu",
    "hard_tanh",
    "tanh_shrink",
    "sparse_plus",
    "sparse_sigmoid",
    "leaky_relu",
    "elu",
    "celu",
    "gelu",
    "soft_shrink",
    "hard_shrink",
    "squareplus",
]:
    _operation(_name, lambda x, n=_name: getattr(ops, n)(x), (4,), radius=2.0)
for _name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal"):
    _operation(_name, lambda x, n=_name: getattr(ops, n)(_positive(x)), (4,), radius=2.0)
_operation("relu_activation", lambda x: keras.activations.relu(x, 0.1, 2.0, 0.5), (4,), radius=2.0)
_operation("leaky_relu_slope", lambda x: ops.leaky_relu(x, 0.4), (4,))
_operation("elu_alpha", lambda x: ops.elu(x, 0.4), (4,), radius=2.0)
_operation("celu_alpha", lambda x: ops.celu(x, 0.4), (4,), radius=2.0)
_operation("gelu_exact", lambda x: ops.gelu(x, approximate=False), (4,), radius=2.0)
_operation("soft_shrink_of_nothing", lambda x: ops.soft_shrink(x, 0.0), (4,))
_operation("hard_shrink_of_nothing", lambda x: ops.hard_shrink(x, 0.0), (4,))
_operation("clip_to_a_point", lambda x: ops.clip(x, 0.5, 0.5), (4,))
_operation("expand_dims_two", lambda x: ops.expand_dims(x, (1, -1)), (4,))
_operation("soft_shrink_threshold", lambda x: ops.soft_shrink(x, 0.2), (4,))
_operation("hard_shrink_threshold", lambda x: ops.hard_shrink(x, 0.2), (4,))
_operation("threshold", lambda x: ops.threshold(x, 0.2, -0.7), (4,))
_operation("squareplus_b", lambda x: ops.squareplus(x, 0.5), (4,), radius=2.0)
_operation("reciprocal_negative", lambda x: ops.reciprocal(-1.0 * _positive(x)), (4,))
_operation("abs_map", lambda x: ops.abs(x), (3, 4, 1), places=(MAP,))
_operation("square_map", lambda x: ops.square(x), (3, 4, 1), places=(MAP,))

_operation("clip", lambda x: ops.clip(x, -0.4, 0.6), (4,))
_operation("clip_vector", lambda x: ops.clip(x, _constant(_VECTOR - 0.5, x), 1.0), (4,))
_operation("softmax", lambda x: ops.softmax(x), (4,), radius=2.0)
_operation("softmax_axis", lambda x: ops.softmax(x, axis=1), (3, 2))
_operation("log_softmax", lambda x: ops.log_softmax(x), (4,), radius=2.0)

_linear_op("sum", lambda x: ops.sum(x, axis=-1), (3, 2))
_linear_op("sum_axes", lambda x: ops.sum(x, axis=(1, -1), keepdims=True), (3, 2))
_linear_op("mean", lambda x: ops.mean(x, axis=1), (3, 2))
_operation("max", lambda x: ops.max(x, axis=1), (3, 2))
_operation("max_keepdims", lambda x: ops.max(x, axis=(1, 2), keepdims=True), (3, 2))
_operation("min", lambda x: ops.min(x, axis=-1, keepdims=True), (3, 2))

_linear_op("get_item", lambda x: x[:, 1:], (4,))
_linear_op("get_item_column", lambda x: x[:, 1], (3, 2))
_linear_op("get_item_steps", lambda x: x[:, ::-2], (4,))
_linear_op("get_item_ellipsis", lambda x: x[..., 0], (3, 2))
_linear_op("get_item_new_axis", lambda x: x[:, None, :2], (4,))
_linear_op("reshape", lambda x: ops.reshape(x, (-1, 2, 3)), (3, 2))
_linear_op("transpose", lambda x: ops.transpose(x, (0, 2, 1)), (3, 2))
_linear_op("squeeze", lambda x: ops.squeeze(x, axis=-1), (4, 1))
_linear_op("expand_dims", lambda x: ops.expand_dims(x, axis=1), (4,))
_linear_op("flip", lambda x: ops.flip(x, axis=1), (3, 2))
_linear_op("roll", lambda x: ops.roll(x, 2, axis=1), (4,))
_linear_op("repeat", lambda x: ops.repeat(x, 2, axis=1), (4,))
_linear_op("pad", lambda x: ops.pad(x, ((0, 0), (1, 2))), (4,))
_linear_op("concatenate", lambda x: ops.concatenate(_branches(x), axis=-1), (4,))
_linear_op("stack", lambda x: ops.stack(_branches(x), axis=1), (4,))
_linear_op("stack_last", lambda x: ops.stack(_branches(x), axis=-1), (4,))
_linear_op("split", lambda x: ops.split(x, 2, axis=1), (4,))
_linear_op("split_at", lambda x: ops.split(x, [1, 3], axis=-1), (4,))
_linear_op("stop_gradient", lambda x: ops.stop_gradient(x), (4,))


# Graphs.


def _nested(x: Any) -> Any:
    inner = keras.Sequential([keras.Input(x.shape[1:]), layers.Dense(4), layers.ReLU()])
    entry = keras.Input((4,))
    middle = keras.Model(entry, layers.Add()([inner(entry), layers.Dense(4)(entry)]))
    return middle(x)


def _nested_two_inputs(x: Any) -> Any:
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    inner = keras.Model({"b": first, "a": second}, first - layers.Dense(4)(second))
    return inner({"a": 2.0 * x, "b": layers.Activation("tanh")(x)})


def _nested_two_outputs(x: Any) -> Any:
    entry = keras.Input((4,))
    inner = keras.Model(entry, {"sum": ops.sum(entry, -1, keepdims=True), "relu": ops.relu(entry)})
    result = inner(x)
    return result["relu"] + result["sum"]


def _shared(x: Any) -> Any:
    layer = layers.Dense(4, activation="relu")
    return layer(layer(x)) - layer(1.0 - x)


def _shared_model(x: Any) -> Any:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="relu")])
    return inner(inner(x)) + inner(x)


def _residual(x: Any) -> Any:
    for _ in range(2):
        x = layers.ReLU()(layers.Add()([x, layers.Dense(4)(layers.ReLU()(layers.Dense(3)(x)))]))
    return x


def _residual_map(x: Any) -> Any:
    deep = layers.Conv2D(2, 2, padding="same", activation="relu")(x)
    deep = layers.Conv2D(2, 2, padding="same")(deep)
    return layers.ReLU()(layers.Add()([deep, layers.Conv2D(2, 1)(x)]))


def _residual_strided(x: Any) -> Any:
    deep = layers.Conv2D(2, 3, 2, padding="same", activation="relu")(x)
    deep = layers.BatchNormalization()(layers.Conv2D(2, 3, padding="same")(deep))
    return layers.ReLU()(layers.Add()([deep, layers.Conv2D(2, 1, 2, padding="same")(x)]))


def _dead_end(x: Any) -> Any:
    layers.Dense(3)(x)
    return layers.Dense(2)(x)


_add("nested_models", _nested, (4,))
_add("nested_two_inputs", _nested_two_inputs, (4,))
_add("nested_two_outputs", _nested_two_outputs, (4,))
_add("shared_layer", _shared, (4,))
_add("shared_model", _shared_model, (4,))
_add("residual", _residual, (4,))
_add("residual_map", _residual_map, (3, 4, 1), places=(ALONE, MAP))
_add("residual_strided", _residual_strided, (4, 3, 1), places=(ALONE, MAP))
_add("difference_of_itself", lambda x: x - 0.5 * x, (4,), affine=True)
_add(
    "dense_of_repeated",
    lambda x: layers.Dense(3)(layers.Flatten()(layers.RepeatVector(2)(x))),
    (4,),
    affine=True,
)
_add(
    "dense_of_concatenated",
    lambda x: layers.Dense(3)(layers.Concatenate()([x, 2.0 * x])),
    (4,),
    affine=True,
)
_add("unused_branch", _dead_end, (4,), affine=True, places=(ALONE,))
_add("input_itself", lambda x: x, (4,), affine=True, places=(ALONE,))
_add("several_outputs_list", lambda x: [layers.Dense(2)(x), ops.relu(x)], (4,), places=(ALONE,))
_add(
    "several_outputs_dict",
    lambda x: {"b": layers.Dense(2)(x), "a": {"inner": ops.relu(x)}},
    (4,),
    places=(ALONE,),
)
_add("output_twice", lambda x: [x, layers.Dense(2)(x), x], (4,), places=(ALONE,), affine=True)
