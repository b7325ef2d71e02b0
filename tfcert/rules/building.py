"""Functions that build nodes, for writing rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, relaxations
from tfcert.rules import registry
from tfcert.rules.contraction import Contraction, Equation
from tfcert.rules.interval import Interval
from tfcert.rules.linear import Matrix, Rearrange, Scale, Sum, read
from tfcert.rules.nonlinear import Elementwise, MaxReduce, Product
from tfcert.rules.primitives import Constant, Node
from tfcert.rules.simplex import LogSumExp, UnitSum
from tfcert.types import Operand, Tensor

__all__ = [
    "activation",
    "add",
    "as_node",
    "check_sum",
    "constant",
    "curve",
    "dense",
    "einsum",
    "log_softmax",
    "matmul",
    "maximum",
    "multiply",
    "rearrange",
    "reshape",
    "scale",
    "softmax",
    "subtract",
    "sum_of_others",
    "to_last",
]


def constant(value: Any) -> np.ndarray:
    """A number or array that stands in the place of a tensor."""
    if isinstance(value, keras.Variable) or ops.is_tensor(value):
        raise NotImplementedError(
            "its rule returns a tensor, which would keep its value when the layer's weights "
            "change. Pass the variable itself, or a function: lambda: "
            "keras.ops.abs(layer.kernel)."
        )
    return np.asarray(value, dtype="float64")


def _read_anew(value: Any) -> bool:
    """Whether a value is read at every evaluation: a variable, or a function without arguments."""
    return isinstance(value, keras.Variable) or callable(value)


def _is_value(value: Any) -> bool:
    return isinstance(value, Node | keras.Variable)


def as_node(value: Any) -> Node:
    """A node for a value that may be a number, a variable or an array without batch axis."""
    if isinstance(value, Node):
        return value
    if isinstance(value, keras.Variable):
        return Node(Constant(value), (), tuple(value.shape))
    array = constant(value)
    return Node(Constant(array), (), array.shape)


def curve(shape_of: relaxations.Curve, x: Node) -> Node:
    """Returns a scalar function of every entry."""
    return registry.apply(Elementwise(shape_of), x)


def activation(function: str | Callable[..., Any] | None, x: Node) -> Node:
    """Returns the node of a layer's ``activation`` argument, a name or a function."""
    resolved = keras.activations.get(function)
    if resolved is None or resolved is keras.activations.linear:
        return x
    if isinstance(resolved, keras.layers.Layer):
        return registry.lower(resolved, (x,), {})
    rule = registry.registered().get(resolved)
    if rule is None:
        label = getattr(resolved, "__name__", repr(resolved))
        raise NotImplementedError(
            f"the activation {label!r} has no bound rule. Register one with "
            "tfcert.register_activation(function, curve)."
        )
    return rule(x)


def rearrange(
    function: Callable[..., Tensor],
    *inputs: Node,
    terms: int = 1,
    windowed: Any = None,
    transposed: Callable[[Tensor, tuple[int, ...]], Tensor] | None = None,
) -> Node:
    """Returns a linear map with weights >= 0, such as reshaping, picking, padding or averaging.

    Args:
        function: The map, on tensors with a batch axis.
        *inputs: The nodes that the map takes.
        terms: Number of terms in the sum of one output. 1 means that values are only moved, which
            is exact.
        windowed: The same map on windows, if the map has this form.
        transposed: ``transposed(coefficients, shape)``, the transpose of a map of one input of this
            shape. Default: the vector-Jacobian product.
    """
    primitive = Rearrange(function, terms=terms, windowed=windowed, transposed=transposed)
    return registry.apply(primitive, *inputs)


def reshape(x: Node, shape: Sequence[int]) -> Node:
    """The same values in another shape (without batch axis)."""
    return rearrange(
        lambda value: backend.reshape(value, (-1, *shape)),
        x,
        transposed=lambda coefficients, old: backend.reshape(coefficients, (-1, *old)),
    )


def scale(x: Node, factor: Operand | None = None, shift: Operand | None = None) -> Node:
    """Returns ``x * factor + shift``, which may enlarge x by broadcasting.

    Factor and shift are numbers, arrays, variables, or functions that are called at every
    evaluation (``lambda: keras.ops.abs(layer.gain)``).
    """
    parts = [None if t is None else _operand(t, x) for t in (factor, shift)]
    shapes = [_shape(part) for part in parts if part is not None]
    x = _broadcast(x, np.broadcast_shapes(x.shape, *shapes))

    def factors(dtype: str) -> tuple:
        return tuple(None if part is None else read(part, dtype) for part in parts)

    if shift is None and isinstance(parts[0], np.ndarray) and (np.abs(parts[0]) == 1).all():
        return registry.apply(Scale(factors, error=lambda unit, size: None), x)  # Signs are exact.
    return registry.apply(Scale(factors), x)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple((value() if callable(value) else value).shape)


def _operand(value: Any, x: Node) -> Any:
    if not _read_anew(value):
        return _constant(value, x)
    if len(_shape(value)) > len(x.shape):
        raise NotImplementedError(
            f"a variable of shape {_shape(value)} adds axes to a value of shape {x.shape}."
        )
    return value


def _constant(value: Any, x: Node) -> np.ndarray:
    """A constant operand without batch axis: numpy's broadcasting counts axes from the end."""
    array = constant(value)
    if array.ndim == len(x.shape) + 1:
        if array.shape[0] != 1:
            raise NotImplementedError(
                f"a constant of shape {array.shape} varies along the batch axis. "
                "Bounds treat every sample alike."
            )
        array = array[0]
    if array.ndim > len(x.shape):
        raise NotImplementedError(
            f"a constant of shape {array.shape} adds axes to a value of shape {x.shape}."
        )
    return array


def _broadcast(x: Node, shape: Sequence[int]) -> Node:
    shape = tuple(shape)
    if x.shape == shape:
        return x
    inner = (1,) * (len(shape) - len(x.shape)) + x.shape

    def function(t: Any) -> Any:
        return ops.broadcast_to(ops.reshape(t, (-1, *inner)), (ops.shape(t)[0], *shape))

    return rearrange(function, x)


def add(*inputs: Node | Operand) -> Node:
    """Returns the sum of nodes and constants, with broadcasting."""
    nodes = [x for x in inputs if isinstance(x, Node)]
    if len(nodes) == 1 and len(inputs) == 2:
        other = inputs[1] if isinstance(inputs[0], Node) else inputs[0]
        return scale(nodes[0], shift=other)
    nodes = [as_node(x) for x in inputs]
    shape = np.broadcast_shapes(*[node.shape for node in nodes])
    return registry.apply(Sum(), *[_broadcast(node, shape) for node in nodes])


def subtract(first: Node | Operand, second: Node | Operand) -> Node:
    """Returns the difference ``first - second``."""
    if _read_anew(second):
        return scale(add(scale(first, -1.0), second), -1.0)
    if not isinstance(second, Node):
        return add(first, -constant(second))
    return add(first, scale(second, -1.0))


def multiply(first: Node | Operand, second: Node | Operand) -> Node:
    """Returns the product of two nodes, or of a node and a constant."""
    if not isinstance(second, Node):
        return scale(first, second)
    if not isinstance(first, Node):
        return scale(second, first)
    if first is second:
        return curve(relaxations.CURVES["square"], first)
    shape = np.broadcast_shapes(first.shape, second.shape)
    return registry.apply(Product(), _broadcast(first, shape), _broadcast(second, shape))


def check_sum(shape: Sequence[int], other: Sequence[int]) -> None:
    """Refuses a sum that Keras does not compute as it says."""
    if backend.misplaces_sum(tuple(shape), tuple(other)):
        raise NotImplementedError(
            f"it adds a value of shape {tuple(other)} to one of shape {tuple(shape)}. Keras's "
            "TensorFlow backend treats such a value as a bias, and adds it along another axis "
            "than broadcasting does. Use different sizes, or add a value of the full shape."
        )


def maximum(inputs: Sequence[Any]) -> Node:
    """Returns the elementwise maximum of nodes and constants."""
    like = max((x for x in inputs if isinstance(x, Node)), key=lambda x: len(x.shape))
    nodes = [as_node(x if _is_value(x) else _constant(x, like)) for x in inputs]
    shape = np.broadcast_shapes(*[node.shape for node in nodes])
    nodes = [_broadcast(node, shape) for node in nodes]
    stacked = rearrange(lambda *xs: ops.stack(xs, axis=-1), *nodes)
    return registry.apply(MaxReduce(), stacked)


def minimum(inputs: Sequence[Any]) -> Node:
    """Returns the elementwise minimum of nodes and constants."""
    negative = [scale(as_node(x), -1.0) if _is_value(x) else -constant(x) for x in inputs]
    return scale(maximum(negative), -1.0)


def dense(x: Node, kernel: Operand, bias: Operand | None = None) -> Node:
    """Returns ``x @ kernel + bias`` over the last axis, with constants as for `scale`."""
    kernel, bias = (v if v is None or _read_anew(v) else constant(v) for v in (kernel, bias))
    return registry.apply(Matrix(kernel, bias, fan_in=_shape(kernel)[0]), x)


def to_last(x: Node, axis: int | Sequence[int]) -> tuple[Node, Any]:
    """Moves the given axes to the end as one; returns also the way back for kept axes."""
    rank = len(x.shape)
    axes = [axis] if isinstance(axis, int) else list(axis)
    axes = [a % (rank + 1) for a in axes]
    if 0 in axes:
        raise NotImplementedError(f"axis {axis} includes the batch axis.")
    keep = [a for a in range(1, rank + 1) if a not in axes]
    order = [0, *keep, *axes]
    kept = [x.shape[a - 1] for a in keep]
    size = math.prod(x.shape[a - 1] for a in axes)
    forward = rearrange(lambda t: ops.reshape(ops.transpose(t, order), (-1, *kept, size)), x)
    full = [x.shape[a - 1] for a in keep + axes]
    back = np.argsort(order).tolist()

    def restore(node: Node) -> Node:
        return rearrange(lambda t: ops.transpose(ops.reshape(t, (-1, *full)), back), node)

    return forward, restore


def reduce_max(x: Node, axis: int | Sequence[int], keepdims: bool = False) -> Node:
    """Returns the maximum over axes, counted with the batch axis."""
    moved, _ = to_last(x, axis)
    result = registry.apply(MaxReduce(), moved)
    return _keep(result, x, axis) if keepdims else result


def _keep(result: Node, x: Node, axis: int | Sequence[int]) -> Node:
    axes = [axis] if isinstance(axis, int) else list(axis)
    axes = [a % (len(x.shape) + 1) for a in axes]
    shape = [1 if i + 1 in axes else size for i, size in enumerate(x.shape)]
    return reshape(result, shape)


def _log_softmax_ends(x: Interval, present: Any = None) -> tuple[Any, Any]:
    """Exact ends over the last axis: entry i low, all others high, and the reverse."""
    low_i = -_log_one_plus_others(x.lower, x.upper, present)
    high_i = -_log_one_plus_others(x.upper, x.lower, present)
    return low_i, high_i


def _log_one_plus_others(own: Any, others: Any, present: Any = None) -> Any:
    """``log(1 + sum_{j != i} exp(others_j - own_i))`` without forming all pairs."""
    size = own.shape[-1]
    if size == 1:
        return ops.zeros_like(own)
    if present is not None:
        minus = ops.cast(float("-inf"), others.dtype)
        others = ops.where(ops.convert_to_tensor(present), others, minus)
    top = ops.max(others, axis=-1, keepdims=True)
    rest = sum_of_others(ops.exp(others - top))
    return ops.softplus(ops.log(ops.maximum(rest, 1e-37)) + top - own)


def sum_of_others(values: Any) -> Any:
    """For each entry of the last axis, the sum of the others: from both sides, not a difference."""
    zero = ops.zeros_like(values[..., :1])
    before = ops.concatenate([zero, ops.cumsum(values, axis=-1)[..., :-1]], axis=-1)
    reverse = ops.flip(values, axis=-1)
    after = ops.concatenate([zero, ops.cumsum(reverse, axis=-1)[..., :-1]], axis=-1)
    return before + ops.flip(after, axis=-1)


def log_softmax(x: Node, axis: int | Sequence[int] = -1) -> Node:
    """Returns ``x - logsumexp(x)`` over an axis, with exact interval ends."""
    moved, restore = to_last(x, axis)
    return restore(_log_softmax_last(moved))


def _log_softmax_last(moved: Node, present: np.ndarray | None = None) -> Node:
    """The log of the softmax over the last axis; 0 for entries that are not present."""
    norm = registry.apply(LogSumExp(present), moved)
    spread = rearrange(lambda t: ops.repeat(t[..., None], moved.shape[-1], axis=-1), norm)
    result = subtract(moved, spread)
    if present is not None:
        result = scale(result, present)

    def within(x: Interval) -> Interval:
        ends = _log_softmax_ends(x, present)
        if present is not None:
            ends = tuple(ops.where(ops.convert_to_tensor(present), end, 0.0) for end in ends)
        return Interval.from_ends(*ends)

    return Node(result.primitive, result.inputs, result.shape, enclosure=(within, (moved,)))


def softmax(x: Node, axis: int | Sequence[int] = -1, present: np.ndarray | None = None) -> Node:
    """Returns the softmax ``exp(log_softmax(x))``, whose entries sum to 1.

    Args:
        x: The node.
        axis: One axis, or several axes treated as one, counted with the batch axis.
        present: Boolean array that broadcasts to x without the batch axis. It marks the entries
            that take part, at least one in each sum; other entries have the weight 0. None: all
            entries.
    """
    moved, restore = to_last(x, axis)
    if present is not None:
        whole = np.broadcast_to(present, x.shape)[None]
        present = ops.convert_to_numpy(moved.primitive.apply((), whole))[0].astype("bool")
    result = curve(relaxations.CURVES["exponential"], _log_softmax_last(moved, present))
    if present is not None:
        result = scale(result, present)
    return restore(registry.apply(UnitSum(), result))


def einsum(subscripts: str, first: Node, second: Node, *, convex: bool = False) -> Node:
    """Returns the ``einsum`` of two nodes, whose batch axes come first.

    Args:
        subscripts: The subscripts of ``keras.ops.einsum``.
        first: A node.
        second: A node.
        convex: Whether the first node holds weights: >= 0, with a sum of 1 over the summed axes.
    """
    equation = Equation.parse(subscripts, len(first.shape) + 1, len(second.shape) + 1)
    contraction = Contraction(equation, anchor=0 if convex else 1, convex=convex)
    return registry.apply(contraction, first, second)


def matmul(first: Node, second: Node) -> Node:
    """Returns the matrix product of two nodes over their last two axes."""
    if len(first.shape) != len(second.shape) or len(first.shape) < 2:
        raise NotImplementedError(
            f"matmul has a rule for two bounded values of the same rank, which is at least 3 with "
            f"the batch axis. Received: shapes {first.shape} and {second.shape} without it."
        )
    before = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    first = _broadcast(first, (*before, *first.shape[-2:]))
    second = _broadcast(second, (*before, *second.shape[-2:]))
    return einsum("...ij,...jk->...ik", first, second)
