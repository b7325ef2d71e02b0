"""Networks that compute in bfloat16, in which processors made for it are faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfcert import graph

__all__ = ["computes_in", "in_bfloat16"]


def in_bfloat16(model: keras.Model) -> keras.Model:
    """Returns a copy of a model whose layers compute in bfloat16.

    Weights and scores stay float32. The last layers with weights, and all later layers, compute in
    float32, so that close scores do not become equal. By its rounding, the copy is another function
    than the model, and certificates of the smoothed copy describe the copy. So deploy the copy.

    Args:
        model: A built Sequential or functional model.

    Example:

    >>> fast = tfcert.smoothing.in_bfloat16(model)
    >>> smoothed = tfcert.smoothing.SmoothedClassifier(fast, sigma=0.25)

    Reference: the policy "mixed_bfloat16" of https://keras.io/api/mixed_precision/
    """
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        raise ValueError(
            "`model` must be a built Sequential or functional Keras model, whose layers can be "
            "copied one by one; wrap others: keras.Model(inputs, model(inputs)). "
            f"Received: {model!r}."
        )
    kept = {id(operation) for operation in _last(model.outputs)}

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer) and id(layer) not in kept:
            config["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(config)

    result = keras.models.clone_model(model, clone_function=copy, recursive=True)
    result.set_weights(model.get_weights())
    return result


def computes_in(model: keras.Model) -> str:
    """The type that a model's layers with weights compute in; the reduced one where some do."""
    kinds = {
        layer.compute_dtype
        for layer in graph.layers_of(model)
        if layer.weights and not isinstance(layer, keras.Model)
    } or {"float32"}
    return ", ".join(sorted(kinds - {"float32", "float64"} or kinds))


def _last(outputs: Any) -> Iterator[Any]:
    """The operations behind outputs, back to those with weights, in nested models too."""
    for output in keras.tree.flatten(outputs):
        operation, inputs, _ = graph.origin(output)
        if graph.wants_walk(operation):
            yield from _last(operation.outputs)
            continue
        yield operation
        if not getattr(operation, "weights", None):
            yield from _last(inputs)
