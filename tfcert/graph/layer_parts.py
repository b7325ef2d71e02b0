"""Reads what layers of Keras are made of, and makes copies of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

__all__ = [
    "AttentionParts",
    "attention_parts",
    "copied",
    "input_quantizer",
    "int8_parts",
    "rounded_axes",
    "with_activation",
]


class AttentionParts(NamedTuple):
    """The parts of a multi-head attention layer.

    Attributes:
        query: The layer that projects queries; so do ``key`` and ``value``.
        key: See query.
        value: See query.
        output: The layer that projects the result.
        gate: The layer that gives factors of the result; None without.
        dot: The einsum of queries and keys that gives scores.
        key_first: Whether keys are its first operand.
        combine: The einsum of weights and values.
        axes: The axes of the query that attention runs over, counted with the batch axis.
        scale: Factor of the queries.
        repeats: How many heads of queries share one of keys and values.
        window: How far a position sees; None: everywhere.
    """

    query: keras.layers.Layer
    key: keras.layers.Layer
    value: keras.layers.Layer
    output: keras.layers.Layer
    gate: keras.layers.Layer | None
    dot: str
    key_first: bool
    combine: str
    axes: tuple[int, ...]
    scale: float
    repeats: int
    window: int | None


def attention_parts(layer: keras.layers.Layer) -> AttentionParts:
    """The parts of a ``MultiHeadAttention`` or a ``GroupQueryAttention``."""
    grouped = isinstance(layer, keras.layers.GroupQueryAttention)
    gated = layer.use_gate if grouped else layer._use_gate
    return AttentionParts(
        query=layer._query_dense,
        key=layer._key_dense,
        value=layer._value_dense,
        output=layer._output_dense,
        gate=layer._gate_dense if gated else None,
        dot=layer._dot_product_equation,
        key_first=not grouped,
        combine=layer._combine_equation,
        axes=(1,) if grouped else tuple(layer._attention_axes),
        scale=layer._inverse_sqrt_head_dim if grouped else layer._inverse_sqrt_key_dim,
        repeats=layer.num_repeats if grouped else 1,
        window=layer.sliding_window if grouped else layer._sliding_window,
    )


def with_activation(layer: keras.layers.Layer, activation: Callable[..., Any]) -> Any:
    """The same layer, with the same variables, and another activation behind it.

    Whatever changes the variables of one changes both: training, loading, quantizing.
    """
    # A name must be unique among the layers of a model, and this one may be called twice.
    name = layer.name if len(layer._inbound_nodes) == 1 else f"{layer.name}_scores"
    return copied(layer, activation=activation, name=name)


def copied(layer: keras.layers.Layer, **changes: Any) -> Any:
    """The same layer, with the same variables, that was called nowhere yet.

    Args:
        layer: The layer.
        **changes: Other attributes that the copy has.
    """
    other = object.__new__(type(layer))
    other.__dict__.update(vars(layer))
    nodes: dict[str, list] = {"_inbound_nodes": [], "_outbound_nodes": []}
    other.__dict__.update(**changes, **nodes)
    return other


def int8_parts(layer: keras.layers.Layer) -> tuple[Any, Any]:
    """The integers of a layer of the mode "int8", and what they are divided by.

    Args:
        layer: A ``Dense`` or an ``EinsumDense``.
    """
    scale = layer.kernel_scale
    if isinstance(layer, keras.layers.EinsumDense):  # Kept in the form of the outputs.
        scale = layer._adjust_scale_for_dequant(keras.ops.convert_to_tensor(scale))
    return layer._kernel, scale


def rounded_axes(layer: keras.layers.EinsumDense) -> tuple[int, ...]:
    """The axes of an input that a layer of the mode "int8" rounds with one step, from the last."""
    rank = layer.input_spec.ndim
    return tuple(axis - rank for axis in layer.quantization_axis)


def input_quantizer(layer: keras.layers.Layer) -> tuple[float, float] | None:
    """How a layer of the mode "int8" quantises its input: levels and epsilon.

    None where it takes the input as it is.
    """
    quantizer = layer.inputs_quantizer
    if quantizer is None:
        return None
    plain = type(quantizer) is keras.quantizers.AbsMaxQuantizer
    low, high = quantizer.value_range if plain else (0, 0)
    if not 0 < high == -low or quantizer.output_dtype != "int8":
        raise NotImplementedError(
            "quantises its input by a rule of its own; the one that is known is "
            "keras.quantizers.AbsMaxQuantizer with a range that is symmetric about 0."
        )
    return float(high), float(quantizer.epsilon)
