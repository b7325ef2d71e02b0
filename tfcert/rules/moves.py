"""Rules of ``keras.ops`` calls that pick, repeat or turn values, or stand for constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tfcert.rules import building
from tfcert.rules.linear import Rearrange
from tfcert.rules.primitives import Node
from tfcert.rules.registry import apply, register_rule

__all__: list[str] = []


def _axis(axis: int, x: Node) -> int:
    """An axis counted from the batch axis on, which it must not be."""
    rank = len(x.shape) + 1
    if axis is None or axis % rank == 0:
        raise NotImplementedError(f"axis={axis} mixes or moves the samples of a batch.")
    return axis % rank


def _swapaxes(op: Any, x: Node) -> Node:
    first, second = _axis(op.axis1, x), _axis(op.axis2, x)
    return building.rearrange(lambda t: ops.swapaxes(t, first, second), x)


def _moveaxis(op: Any, x: Node) -> Node:
    source, destination = ([_axis(a, x) for a in axes] for axes in (op.source, op.destination))
    return building.rearrange(lambda t: ops.moveaxis(t, source, destination), x)


def _tile(op: Any, x: Node) -> Node:
    repeats = [op.repeats] if isinstance(op.repeats, int) else list(op.repeats)
    repeats = [1] * (len(x.shape) + 1 - len(repeats)) + repeats
    if len(repeats) > len(x.shape) + 1 or repeats[0] != 1:
        raise NotImplementedError(
            f"repeats={op.repeats} adds axes or repeats the samples of a batch. Give one number "
            "for each axis behind the batch."
        )
    return building.rearrange(lambda t: ops.tile(t, repeats), x)


def _take(op: Any, x: Node, indices: Any) -> Node:
    if isinstance(indices, Node) or not isinstance(x, Node):
        raise NotImplementedError("take has a rule for constant indices into a bounded value.")
    axis = _axis(op.axis, x)
    picked = np.asarray(indices).astype("int64") % x.shape[axis - 1]
    again = len(np.unique(picked)) < picked.size
    return apply(Rearrange(lambda t: ops.take(t, picked, axis=axis), repeats=again), x)


def _where(op: Any, condition: Any, x1: Any = None, x2: Any = None) -> Node:
    if isinstance(condition, Node):
        raise NotImplementedError(
            "where has a rule for a constant condition. Write a condition on the input with "
            "keras.ops.maximum, minimum, relu or threshold."
        )
    chosen = np.asarray(condition, bool)
    parts: list[Any] = []
    for mask, value in ((chosen, x1), (~chosen, x2)):
        if isinstance(value, Node):
            parts.append(building.scale(value, mask))
        else:  # An infinite number times 0 would be none.
            parts.append(np.where(mask, building.constant(value), 0.0))
    if all(isinstance(part, Node) for part in parts) and len({len(p.shape) for p in parts}) > 1:
        raise NotImplementedError("where has a rule for values of one rank.")
    return building.add(*parts)


def _triangle(pick: Any) -> Any:
    def rule(op: Any, x: Node) -> Node:
        if len(x.shape) < 2:
            raise NotImplementedError("a triangle of a batch of vectors mixes samples.")
        return building.scale(x, pick(np.ones(x.shape[-2:]), op.k))

    return rule


def _filled(number: float) -> Any:
    def rule(op: Any, x: Node, dtype: Any = None) -> Node:
        if (dtype or getattr(op, "dtype", None)) is not None:
            raise NotImplementedError("a `dtype` has no rule. Leave `dtype` out.")
        return building.as_node(np.full(x.shape, number))

    return rule


def _named(names: Sequence[str], rule: Any) -> None:
    for name in names:
        register_rule(f"keras.ops.{name}", rule)


_named(["Swapaxes"], _swapaxes)
_named(["Moveaxis"], _moveaxis)
_named(["Tile"], _tile)
_named(["Take"], _take)
_named(["Where"], _where)
_named(["Tril"], _triangle(np.tril))
_named(["Triu"], _triangle(np.triu))
_named(["ZerosLike"], _filled(0.0))
_named(["OnesLike"], _filled(1.0))
