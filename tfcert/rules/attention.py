"""Rules of attention: dot products of queries and keys, softmax, and weighted sums of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, graph, relaxations
from tfcert.rules import building
from tfcert.rules.primitives import Node
from tfcert.rules.registry import lower, register_rule

__all__ = ["causal", "mask_of"]


def mask_of(value: Any, what: str = "attention_mask") -> np.ndarray | None:
    """A constant mask as a boolean array with a batch axis of size 1; None where there is none."""
    if value is None:
        return None
    if isinstance(value, (Node, keras.KerasTensor)):
        raise NotImplementedError(
            f"its {what} is computed from the input of the model, so the input would decide which "
            "positions count. Pass a constant mask, the same for all inputs, or "
            "use_causal_mask=True."
        )
    mask = np.asarray(ops.convert_to_numpy(value))
    return mask if mask.dtype == bool else mask > 0.5


def causal(queries: int, keys: int) -> np.ndarray:
    """Position i sees the positions up to i."""
    return np.tril(np.ones((queries, keys), bool))


def _joined(masks: Sequence[np.ndarray | None], shape: Sequence[int]) -> np.ndarray | None:
    """The positions that all masks allow, over scores of a shape without batch axis."""
    found = [mask for mask in masks if mask is not None]
    if not found:
        return None
    joined = found[0]
    for mask in found[1:]:
        joined = np.logical_and(joined, mask)
    if joined.ndim > len(shape):
        if joined.ndim > len(shape) + 1 or joined.shape[0] != 1:
            raise NotImplementedError(
                f"its mask of shape {joined.shape} differs from sample to sample, while bounds "
                "treat every sample alike. Give a mask whose batch axis has size 1."
            )
        joined = joined[0]
    return np.broadcast_to(joined, shape)


def _weights(scores: Node, axes: Sequence[int], masks: Sequence[np.ndarray | None]) -> Node:
    """The softmax of scores over axes that are counted with the batch axis."""
    mask = _joined(masks, scores.shape)
    if mask is not None and not mask.any(axis=tuple(axis - 1 for axis in axes)).all():
        raise NotImplementedError(
            "its mask hides every key from some query, and Keras's implementations of attention "
            "disagree in this case. Let every query see at least one position."
        )
    return building.softmax(scores, list(axes), mask)


def _no_masks(**masks: Any) -> None:
    for name, mask in masks.items():
        if mask is not None:
            raise NotImplementedError(
                f"{name} has no bound rule. Give a constant attention_mask instead, the same for "
                "all inputs."
            )


def _window(size: int | None, queries: int, keys: int) -> np.ndarray | None:
    """Position i sees those less than ``size`` away."""
    if size is None:
        return None
    return np.abs(np.arange(queries)[:, None] - np.arange(keys)) < size


def _multi_head(
    layer: Any,
    query: Node,
    value: Node,
    key: Node | None = None,
    query_mask: Any = None,
    value_mask: Any = None,
    key_mask: Any = None,
    attention_mask: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    """``MultiHeadAttention`` and ``GroupQueryAttention``."""
    _no_masks(query_mask=query_mask, value_mask=value_mask, key_mask=key_mask)
    key = value if key is None else key
    parts = graph.attention_parts(layer)
    axes = len(parts.axes)
    queries, keys = query.shape[parts.axes[0] - 1], value.shape[parts.axes[0] - 1]
    masks = [mask_of(attention_mask), _window(parts.window, queries, keys)]
    if use_causal_mask:
        masks.append(causal(queries, keys))
    if parts.axes != (1,) and any(mask is not None for mask in masks[1:]):
        raise NotImplementedError(
            f"attention_axes={parts.axes} with a causal mask or a sliding window has no rule. Use "
            "attention over axis 1 alone."
        )
    gate = None if parts.gate is None else lower(parts.gate, (query,), {})
    query, key, value = (
        lower(part, (x,), {})
        for part, x in ((parts.query, query), (parts.key, key), (parts.value, value))
    )
    if parts.repeats > 1:
        key, value = (
            building.rearrange(lambda t: ops.repeat(t, parts.repeats, axis=2), x)
            for x in (key, value)
        )
    query = building.scale(query, backend.kernel_constant(parts.scale))
    operands = (key, query) if parts.key_first else (query, key)
    scores = building.einsum(parts.dot, *operands)
    rank = len(scores.shape) + 1
    masks[0] = _expanded(masks[0], rank, axes)
    masks[1:] = [_expanded(None if m is None else m[None], rank, axes) for m in masks[1:]]
    weights = _weights(scores, range(rank - axes, rank), masks)
    output = building.einsum(parts.combine, weights, value, convex=True)
    if gate is not None:
        output = building.multiply(output, gate)
    output = lower(parts.output, (output,), {})
    return [output, weights] if return_attention_scores else output


def _expanded(mask: np.ndarray | None, rank: int, axes: int) -> np.ndarray | None:
    """A mask with the axes of heads, which it does not have, inserted."""
    while mask is not None and mask.ndim < rank:
        mask = np.expand_dims(mask, -2 * axes - 1)
    return mask


def _attention(
    layer: Any,
    inputs: Sequence[Node],
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    """``Attention`` and ``AdditiveAttention``."""
    query, value = inputs[:2]
    key = inputs[2] if len(inputs) > 2 else value
    if type(layer) is keras.layers.AdditiveAttention:
        scores = _summed_tanh(query, key, None, layer.scale)
    elif layer.score_mode == "concat":
        scores = _summed_tanh(query, key, layer.scale, layer.concat_score_weight)
    else:
        turned = [*range(len(key.shape) - 1), len(key.shape), len(key.shape) - 1]
        scores = building.matmul(query, building.rearrange(lambda t: ops.transpose(t, turned), key))
        if layer.scale is not None:
            scores = building.scale(scores, layer.scale)
    mask = causal(*scores.shape[-2:]) if use_causal_mask else None
    weights = _weights(scores, [len(scores.shape)], [mask])
    output = building.einsum("...ij,...jk->...ik", weights, value, convex=True)
    return [output, weights] if return_attention_scores else output


def _summed_tanh(query: Node, key: Node, inner: Any, outer: Any) -> Node:
    """``sum(outer * tanh(inner * (query + key)))`` over the last axis, for all pairs."""
    rank = len(query.shape) + 1
    wide = building.add(
        building.rearrange(lambda t: ops.expand_dims(t, rank - 1), query),
        building.rearrange(lambda t: ops.expand_dims(t, rank - 2), key),
    )
    if inner is not None:
        wide = building.scale(wide, inner)
    found = building.curve(relaxations.CURVES["tanh"], wide)
    if outer is not None:
        found = building.scale(found, outer)
    terms = query.shape[-1]
    return building.rearrange(lambda t: ops.sum(t, axis=-1), found, terms=terms)


def _dot_product(
    op: Any,
    query: Node,
    key: Node,
    value: Node,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
) -> Node:
    if op.attn_logits_soft_cap is not None or not all(
        isinstance(x, Node) for x in (query, key, value)
    ):
        raise NotImplementedError(
            "dot_product_attention has a rule for bounded queries, keys and values without a soft "
            "cap."
        )
    heads, shared = query.shape[1], key.shape[1]
    if heads != shared:
        key, value = (
            building.rearrange(lambda t: ops.repeat(t, heads // shared, axis=2), x)
            for x in (key, value)
        )
    size = 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    query = building.scale(query, backend.kernel_constant(size))
    scores = building.einsum("btnh,bsnh->bnts", query, key)
    if bias is not None:
        scores = building.add(scores, bias)
    masks = [mask_of(mask, "mask"), causal(*scores.shape[-2:]) if op.is_causal else None]
    weights = _weights(scores, [3], masks)
    return building.einsum("bnts,bsnh->btnh", weights, value, convex=True)


register_rule("keras.ops.DotProductAttention", _dot_product)
register_rule(keras.layers.MultiHeadAttention, _multi_head)
register_rule(keras.layers.GroupQueryAttention, _multi_head)
register_rule(keras.layers.Attention, _attention)
register_rule(keras.layers.AdditiveAttention, _attention)
