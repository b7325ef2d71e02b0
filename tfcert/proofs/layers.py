"""The correspondence of units in a network's file and in tfcert's network, found by their
values."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

import tfcert_check
from tfcert import relaxations
from tfcert.bounds.statistics import node_values
from tfcert.network import network_of
from tfcert.proofs.values import values_of
from tfcert.rules.nonlinear import Elementwise

__all__ = ["Layer", "layers_of"]

_POINTS = 4
# Values of two executions of one network in float32 agree up to this part of the largest one.
_AGREES = 1e-3


class Layer(NamedTuple):
    """A two-piece function of a network.

    Attributes:
        number: Its place among those of the network's file, in the order of the file.
        source: The place of the value that it reads, in ``network.nodes``.
        place: Its own place there.
        order: The units of the file, by the places of the units in tfcert's flat value.
        slope: Of its negative piece.
    """

    number: int
    source: int
    place: int
    order: npt.NDArray[np.int64]
    slope: float


def layers_of(
    model: keras.Model, file: tfcert_check.Network, box: tfcert_check.Case
) -> list[Layer]:
    """The two-piece functions of a model that was read from a network's file.

    Names are lost on the way, layers come in another order, and images have their channels last.
    So both networks are computed at a few points, and what gives the same values is the same. A
    wrong answer could not make a proof wrong: the checker takes the proof as it is.

    Args:
        model: From ``load_onnx``, its inputs in the order of the file.
        file: The same network, as the checker reads it.
        box: Where to compute it.

    Raises:
        ValueError: The model has a two-piece function that the file does not have.
    """
    network = network_of(model)
    rng = np.random.default_rng(0)
    middle, width = 0.5 * (box.lower + box.upper), box.upper - box.lower + 0.01
    points = rng.normal(middle, width, (_POINTS, len(middle))).astype(network.dtype)
    theirs = values_of(file, points.astype(np.float64))
    shaped = ops.convert_to_tensor(points.reshape(-1, *network.input.shape))
    ours = node_values(network, {network.input: shaped}, {})
    free = list(range(len(file.layers)))
    found = []
    for node in network.nodes:
        curve = node.primitive.parameters(network.dtype) if _is_curve(node.primitive) else None
        if not isinstance(curve, relaxations.TwoPiece):
            continue
        (source,) = node.inputs
        value = np.asarray(ops.convert_to_numpy(ours[source]), np.float64).reshape(_POINTS, -1)
        matches = [
            (np.abs(value - theirs[file.layers[number].source][:, order]).max(), number, order)
            for number in free
            if file.layers[number].size == math.prod(source.shape)
            for order in _orders(source.shape)
        ]
        gap, number, order = min(matches, key=lambda match: match[0], default=(np.inf, -1, None))
        if order is None or not gap <= _AGREES * max(1.0, np.abs(value).max()):
            raise ValueError(
                f"`model` must be the network of the file. Received: a model whose layer "
                f"{node.name!r} has no counterpart there."
            )
        free.remove(number)
        places = network.index[source], network.index[node]
        found.append(Layer(number, *places, order, file.layers[number].slope))
    return found


def _is_curve(primitive: object) -> bool:
    return isinstance(primitive, Elementwise)


def _orders(shape: tuple[int, ...]) -> list[npt.NDArray[np.int64]]:
    """Places in the file of a flat value's entries: the same ones, or those of channels first."""
    same = np.arange(math.prod(shape))
    if len(shape) < 2:
        return [same]
    first = same.reshape(shape[-1], *shape[:-1])
    return [same, np.moveaxis(first, 0, -1).reshape(-1)]
