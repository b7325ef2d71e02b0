"""Writes the network of a Keras model as a file that the checker reads with numpy alone."""

from __future__ import annotations

import io
import json
import math
import os
import pathlib

import keras
import numpy as np
from keras import ops

import tfcert_check
from tfcert.bounds.statistics import node_values
from tfcert.network import network_of
from tfcert.proofs.calls import Writer
from tfcert.proofs.operators import write_node
from tfcert.proofs.values import values_of
from tfcert_check import graphs

__all__ = ["agrees", "write_network"]

_POINTS = 4
# Two executions of one network agree up to this part of the largest value.
_AGREES = 1e-3


def write_network(path: str | os.PathLike[str], model: keras.Model) -> None:
    """Writes the network of a model for ``tfcert-check``: weights, and a list of operators.

    The file holds dense and convolutional layers, batch normalisation, pooling, sums, and ReLU or
    LeakyReLU; [Proofs](../proofs.md#the-format-of-networks) tells how. The written network is read
    again and compared with the model at random points.

    Args:
        path: The file to write, a ``.npz``.
        model: A built model with one input.

    Raises:
        NotImplementedError: The model has a layer that the checker does not know. The message names
            it.
    """
    network = network_of(model)
    writer = Writer(network)
    try:
        for node in network.nodes:
            write_node(writer, node)
        output = writer.name(network.outputs)
    except NotImplementedError as error:
        raise NotImplementedError(f"{error} No network file can be written.") from error
    graph = {
        "input": "x",
        "shape": [1, *network.input.shape],
        "calls": writer.calls,
        "output": output,
    }
    content = io.BytesIO()
    texts = {"format": np.array(graphs.FORMAT), "graph": np.array(json.dumps(graph))}
    np.savez(content, **texts, **writer.constants)  # type: ignore[arg-type]
    pathlib.Path(path).write_bytes(content.getvalue())
    if not agrees(model, path):
        raise AssertionError(
            f"The written network gives other values than model {model.name!r}. Report this as a "
            "bug of write_network."
        )


def agrees(model: keras.Model, path: str | os.PathLike[str]) -> bool:
    """Whether a network's file, as the checker reads it, gives a model's outputs at a few points.

    Raises:
        NotImplementedError: The checker cannot read the file.
    """
    network = network_of(model)
    try:
        file = tfcert_check.read_network(path)
    except tfcert_check.Refused as error:
        raise NotImplementedError(f"The checker of proofs refuses the network: {error}.") from error
    size = math.prod(network.input.shape)
    last = file.steps[file.output]
    if (file.steps[0].size, last.size) != (size, math.prod(network.outputs.shape)):
        return False
    points = np.random.default_rng(0).normal(size=(_POINTS, size)).astype(network.dtype)
    theirs = values_of(file, points.astype(np.float64))[file.output]
    shaped = ops.convert_to_tensor(points.reshape(-1, *network.input.shape))
    ours = node_values(network, {network.input: shaped}, {})[network.outputs]
    ours = np.asarray(ops.convert_to_numpy(ours), np.float64).reshape(_POINTS, -1)
    return bool(np.abs(ours - theirs).max() <= _AGREES * max(1.0, np.abs(ours).max()))
