"""Cases of the rules' tests: attention, and products of two bounded matrices."""

import functools
from typing import Any

import numpy as np
from keras import layers, ops

from tests.rule_cases_support import ALONE, CHAIN, MAP, Cases

CASES = Cases()
_add = CASES.add
# What attention is asked about most often: three positions of two numbers.
_sequence = functools.partial(_add, shape=(3, 2))


def _other(x: Any) -> Any:
    """Another function of the value, of the same shape."""
    return layers.Dense(x.shape[-1])(x)


def _turned(x: Any) -> Any:
    return ops.transpose(_other(x), (0, 2, 1))


# Products of two bounded values.

_sequence("ops_matmul_of_two", lambda x: ops.matmul(x, _turned(x)))
_sequence("ops_matmul_of_two_turned", lambda x: _turned(x) @ x)
_add("ops_matmul_of_two_stacks", lambda x: x @ _other(x), (2, 2, 2), places=(CHAIN,))
_add("ops_matmul_of_two_wide", lambda x: x @ ops.expand_dims(x[:, 0], 1), (2, 2, 2))
_sequence("ops_einsum_of_two", lambda x: ops.einsum("bij,bkj->bki", x, _other(x)))
_sequence("ops_einsum_of_two_ellipsis", lambda x: ops.einsum("...ij,...kj->...ik", x, _other(x)))
_sequence("ops_einsum_of_two_outer", lambda x: ops.einsum("bij,bj->bij", x, _other(x)[:, 0]))
_sequence("ops_einsum_of_two_all", lambda x: ops.einsum("bij,bij->b", x, _other(x))[:, None])
_sequence("ops_matmul_constant_first", lambda x: ops.matmul(np.ones((2, 3), x.dtype), x))


for _name, _axes, _second in (
    ("vector_and_matrix", (1, 2), (3, 4)),
    ("matrix_and_vector", (2, 1), (2,)),
    ("matrices", 2, (3, 2)),
    ("matrices_crossed", (1, -1), (2, 3)),
):
    _add(
        f"dot_{_name}",
        lambda x, a=_axes, s=_second: layers.Dot(a)(
            [
                layers.Flatten()(x)[:, :4] if s == (3, 4) else x,
                layers.Reshape(s)(layers.Dense(int(np.prod(s)))(layers.Flatten()(x))),
            ]
        ),
        (3, 2),
    )


# Layers of attention.


def _multi_head(x: Any, layer: Any, **call: Any) -> Any:
    return layer(x, _other(x), **call)


_MASK = np.array([[[1, 0, 1], [0, 1, 1], [1, 0, 0]]], bool)
_HEADS = layers.MultiHeadAttention
_sequence("multi_head_attention", lambda x: _multi_head(x, _HEADS(2, 3)))
_sequence("multi_head_attention_of_itself", lambda x: _HEADS(1, 2, value_dim=3)(x, x))
_sequence(
    "multi_head_attention_causal",
    lambda x: _multi_head(x, _HEADS(2, 2, dropout=0.3), use_causal_mask=True),
)
_sequence(
    "multi_head_attention_mask",
    lambda x: _multi_head(x, _HEADS(1, 3, use_bias=False), attention_mask=_MASK),
)
_sequence(
    "multi_head_attention_mask_of_numbers",
    lambda x: _multi_head(x, _HEADS(1, 3, dropout=0.1), attention_mask=_MASK.astype("float32")),
)
_sequence(
    "multi_head_attention_window",
    lambda x: _multi_head(x, _HEADS(1, 3, sliding_window=2, use_gate=True)),
)
_sequence(
    "multi_head_attention_scores",
    lambda x: list(_multi_head(x, _HEADS(2, 2), return_attention_scores=True)),
)
_sequence(
    "multi_head_attention_keys",
    lambda x: _HEADS(2, 2, output_shape=3)(x[:, :2], x, ops.tanh(_other(x))),
)
_add(
    "multi_head_attention_axes",
    lambda x: _HEADS(2, 2, attention_axes=(1, 2))(x, x),
    (2, 2, 2),
)
_add("multi_head_attention_last_axis", lambda x: _HEADS(1, 2, attention_axes=2)(x, x), (2, 2, 2))
_sequence("group_query_attention", lambda x: _multi_head(x, layers.GroupQueryAttention(2, 4, 2)))
_sequence(
    "group_query_attention_options",
    lambda x: _multi_head(
        x,
        layers.GroupQueryAttention(2, 2, 1, sliding_window=2, use_gate=True),
        use_causal_mask=True,
    ),
)
_sequence("attention", lambda x: layers.Attention()([x, _other(x)]), places=(ALONE, CHAIN, MAP))
_sequence(
    "attention_scaled",
    lambda x: layers.Attention(use_scale=True, dropout=0.2)([x, _other(x), ops.relu(x)]),
)
_sequence(
    "attention_concat",
    lambda x: layers.Attention(use_scale=True, score_mode="concat")(
        [x, _other(x)], use_causal_mask=True
    ),
)
_sequence(
    "attention_scores",
    lambda x: list(layers.Attention()([x, _other(x)], return_attention_scores=True)),
    places=(ALONE,),
)
_sequence("additive_attention", lambda x: layers.AdditiveAttention()([x, _other(x)]))
_sequence(
    "additive_attention_plain",
    lambda x: layers.AdditiveAttention(use_scale=False)([x, _other(x)]),
)


def _four(x: Any, heads: int = 2) -> Any:
    """A value of the shape (batch, positions, heads, entries)."""
    return layers.Reshape((x.shape[1], heads, -1))(layers.Dense(2 * heads)(x))


_sequence(
    "ops_dot_product_attention",
    lambda x: ops.dot_product_attention(_four(x), _four(x), _four(x), scale=0.7),
)
_sequence(
    "ops_dot_product_attention_options",
    lambda x: ops.dot_product_attention(
        layers.Reshape((3, 4, 4))(layers.Dense(16)(x)),
        layers.Reshape((3, 2, 4))(layers.Dense(8)(x)),
        layers.Reshape((3, 2, 4))(layers.Dense(8)(x)),
        bias=np.arange(9.0).reshape(3, 3).astype(x.dtype) / 5,
        mask=_MASK[None],
        is_causal=False,
    ),
)
_sequence(
    "ops_dot_product_attention_causal",
    lambda x: ops.dot_product_attention(_four(x), _four(x), _four(x), is_causal=True, scale=1.0),
)


def _by_hand(x: Any) -> Any:
    scores = ops.einsum("bid,bjd->bij", x, _other(x))
    masked = ops.where(np.tril(np.ones((3, 3), bool)), scores, np.array(-60.0, x.dtype))
    return ops.softmax(masked, axis=-1) @ x


_sequence("attention_by_hand", _by_hand)


# A class token and positions, with nothing but what Keras records.


def _tokens(x: Any) -> Any:
    first = layers.Dense(x.shape[-1], use_bias=False)(ops.ones_like(x[:, :1, :1]))
    x = ops.concatenate([first, x], axis=1)
    places = ops.ones_like(x[:, :, :1]) * np.eye(x.shape[1], dtype=x.dtype)
    return x + layers.Dense(x.shape[-1], use_bias=False)(places)


_sequence("class_token_and_positions", _tokens, affine=True)


# Values that are moved.

_linear = functools.partial(_sequence, affine=True)
_linear("ops_swapaxes", lambda x: ops.swapaxes(x, 1, -1))
_linear("ops_moveaxis", lambda x: ops.moveaxis(x, -1, 1))
_add("ops_moveaxis_two", lambda x: ops.moveaxis(x, (1, 2), (-1, 1)), (2, 3, 2), affine=True)
_linear("ops_tile", lambda x: ops.tile(x, (1, 2, 1)))
_linear("ops_tile_last", lambda x: ops.tile(x, 2))
_linear("ops_take", lambda x: ops.take(x, np.array([2, 0]), axis=1))
_linear("ops_take_one", lambda x: ops.take(x, -1, axis=1))
_linear("ops_take_again", lambda x: ops.take(x, np.array([1, 1, 0]), axis=1))
_linear("ops_where", lambda x: ops.where(_MASK[0][:, :2], x, np.array([[1.0, 2.0]], x.dtype)))
_linear("ops_where_number", lambda x: ops.where(_MASK[0][:, :2], np.array(2.0, x.dtype), x))
_linear("ops_where_of_two", lambda x: ops.where(_MASK[0][:, :2], x, _other(x)))
_linear("ops_tril", lambda x: ops.tril(x))
_linear("ops_triu", lambda x: ops.triu(x, 1))
_linear("ops_zeros_like", lambda x: ops.zeros_like(x[:, :1]) - x)
_linear("ops_ones_like", lambda x: x + 2.0 * ops.ones_like(x))
_sequence("ops_normalize", lambda x: ops.normalize(x, axis=-1))
_sequence("ops_normalize_axes", lambda x: ops.normalize(x, axis=(1, 2), epsilon=0.01))
