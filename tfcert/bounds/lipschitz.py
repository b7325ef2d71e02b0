"""The margin rule: certificates of l-inf-distance networks from one forward pass.

Every layer that can declares by how much its values move at most where its inputs move by r: its
l-inf Lipschitz factor, times r. Distance layers have the factor 1 at p = inf, ``Normalization`` the
inverse of its least standard deviation. Where L is the product of all, two scores come closer by at
most 2 L r, so a margin m at x survives every change of the input by less than ``m / (2 L)``.

Reference: Zhang et al., 2022, https://arxiv.org/abs/2110.06850.
"""

from __future__ import annotations

import keras
from keras import ops

from tfcert import checks
from tfcert.bounds.balls import moved
from tfcert.network import Network, network_of
from tfcert.rules.primitives import Input, Node
from tfcert.types import Tensor

__all__ = ["factor", "radius", "radius_of"]


def factor(model: keras.Model) -> Tensor:
    """Returns the l-inf Lipschitz factor of a model: the product of its layers' factors.

    If every coordinate of an input changes by at most r, every output changes by at most
    ``factor * r``. The factors of added branches are added; otherwise the larger factor counts. The
    factor is computed from the present weights; in compiled code, from the weights at every call.

    Args:
        model: A built model.

    Returns:
        A scalar tensor; 0 for a constant model. In compiled code the factor is infinite if a
        distance layer has a finite p, because compiled code cannot raise an error.

    Raises:
        NotImplementedError: A layer declares no factor, or has a finite p. The error names the
            layer.

    Example:

    >>> distance = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(4.0)])
    >>> float(tfcert.lipschitz.factor(distance))
    4.0
    """
    network = network_of(model)
    network.check("lipschitz")
    return factor_of(network)


def radius(model: keras.Model, x: Tensor, y: Tensor = None) -> Tensor:
    """Returns the l-inf radius within which the class cannot change, ``margin / (2 L)``.

    The radius costs one forward pass, and covers all sizes at once: an input is certified at
    ``eps`` if the radius is ``> eps``. The function also works inside compiled code, for example in
    an exported model.

    Args:
        model: A built model with one output of scores, ``(batch, classes)``.
        x: Inputs, ``(batch, *input_shape)``.
        y: Integer labels, ``(batch,)``. Misclassified inputs have the radius 0. None: the predicted
            classes.

    Returns:
        ``(batch,)``, >= 0, in units of x.

    Raises:
        NotImplementedError: As for ``factor``.

    Example:

    >>> network = keras.Sequential([keras.Input((2,)), tfcert.layers.LInfDistance(3)])
    >>> certified = tfcert.lipschitz.radius(network, x, y) > 0.1
    """
    network = network_of(model)
    network.check("lipschitz")
    node = network.outputs
    if not isinstance(node, Node) or len(node.shape) != 1:
        raise ValueError(
            "A radius needs a model with one output of shape (batch, classes). "
            f"Received: output shape {model.output_shape}."
        )
    if node.shape[0] < 2:
        raise ValueError(
            "A radius compares a class with others: the model must have at least two scores. "
            f"Received: output shape {model.output_shape}. Give a single score z as (0, z)."
        )
    x = ops.convert_to_tensor(x)
    if y is not None:
        y = checks.as_labels(y, x.shape[0], node.shape[0])
    scores = model(ops.cast(x, network.dtype), training=False)
    return radius_of(scores, factor_of(network), y)


def radius_of(scores: Tensor, factor: Tensor, y: Tensor = None) -> Tensor:
    """Returns ``margin / (2 factor)`` from known scores, ``(batch,)``.

    Args:
        scores: ``(batch, classes)``.
        factor: From ``factor``.
        y: Labels. None: the predicted classes.
    """
    label = ops.argmax(scores, axis=-1) if y is None else ops.cast(y, "int32")
    own = ops.one_hot(label, scores.shape[-1], dtype=scores.dtype) > 0
    infinity = ops.full_like(scores, float("inf"))
    score = ops.max(ops.where(own, scores, -infinity), axis=-1)
    rival = ops.max(ops.where(own, -infinity, scores), axis=-1)
    margin = score - rival
    positive = margin > 0
    # A factor of 0 gives inf, and one of inf gives 0; 0 / 0 must not appear.
    within = ops.where(positive, margin, 1.0) / (2.0 * ops.cast(factor, scores.dtype))
    return ops.where(positive, within, ops.zeros_like(margin))


def factor_of(network: Network) -> Tensor:
    """``factor`` of a network that was checked."""
    found: dict[Node, Tensor] = {}
    for node in network.nodes:
        if isinstance(node.primitive, Input):
            found[node] = ops.ones((1,), network.dtype)
        else:
            p = node.primitive.parameters(network.dtype)
            found[node] = moved(node, p, [found[source] for source in node.inputs])
    outputs = [found[node] for node in keras.tree.flatten(network.outputs)]
    return ops.max(ops.concatenate(outputs, axis=0))
