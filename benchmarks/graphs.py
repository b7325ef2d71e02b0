"""Network graphs in the format of the reference files, and random weights and images for them.

A graph is ``{"input_shape": [...], "nodes": [...], "output": name}``; a node has a name, an op, the
names of its inputs and what the op needs. Values are channels last, kernels in Keras's layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["GRAPHS", "WEIGHTS", "node_shapes", "random_weights", "smooth_images"]

# The weights of an op, in the order in which its Keras layer takes them.
WEIGHTS = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batchnorm": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layernorm": ("gamma", "beta"),
    "lstm": ("kernel", "recurrent", "bias"),
    "gru": ("kernel", "recurrent", "bias"),
    "attention": tuple(
        f"{part}_{field}"
        for part in ("query", "key", "value", "output")
        for field in ("kernel", "bias")
    ),
}


# Gates of a recurrent layer and its candidate, each as wide as its state.
_GATES = {"lstm": 4, "gru": 3}


def _conv(name: str, source: str, filters: int, size: int, stride: int, pad: int) -> dict[str, Any]:
    return {
        "name": name,
        "op": "conv2d",
        "inputs": [source],
        "filters": filters,
        "kernel_size": [size, size],
        "strides": [stride, stride],
        "pad": [[pad, pad], [pad, pad]],
    }


def _node(name: str, op: str, *inputs: str, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": list(inputs), **attributes}


def _pool(name: str, op: str, source: str) -> dict[str, Any]:
    return _node(name, op, source, pool_size=[2, 2], strides=[2, 2])


def _two_convs(
    shape: Sequence[int], first: Sequence[int], second: Sequence[int], units: int
) -> dict[str, Any]:
    nodes = [
        _conv("conv1", "input", *first),
        _node("relu1", "relu", "conv1"),
        _conv("conv2", "relu1", *second),
        _node("relu2", "relu", "conv2"),
        _node("flatten", "flatten", "relu2"),
        _node("dense1", "dense", "flatten", units=units),
        _node("relu3", "relu", "dense1"),
        _node("dense2", "dense", "relu3", units=10),
    ]
    return {"input_shape": list(shape), "nodes": nodes, "output": "dense2"}


_RESNET2B = {
    "input_shape": [32, 32, 3],
    "nodes": [
        _conv("conv1", "input", 8, 3, 2, 1),
        _node("relu1", "relu", "conv1"),
        _conv("conv2", "relu1", 16, 3, 2, 1),
        _node("relu2", "relu", "conv2"),
        _conv("conv3", "relu2", 16, 3, 1, 1),
        _conv("conv4", "relu1", 16, 1, 2, 0),
        _node("add1", "add", "conv3", "conv4"),
        _node("relu3", "relu", "add1"),
        _conv("conv5", "relu3", 16, 3, 1, 1),
        _node("relu4", "relu", "conv5"),
        _conv("conv6", "relu4", 16, 3, 1, 1),
        _node("add2", "add", "conv6", "relu3"),
        _node("relu5", "relu", "add2"),
        _node("flatten", "flatten", "relu5"),
        _node("dense1", "dense", "flatten", units=100),
        _node("relu6", "relu", "dense1"),
        _node("dense2", "dense", "relu6", units=10),
    ],
    "output": "dense2",
}

_BN_POOL_RES = {
    "input_shape": [16, 16, 3],
    "nodes": [
        _conv("conv1", "input", 8, 3, 1, 1),
        _node("norm1", "batchnorm", "conv1", epsilon=1e-3),
        _node("relu1", "relu", "norm1"),
        _pool("pool1", "maxpool2d", "relu1"),
        _conv("conv2", "pool1", 8, 3, 1, 1),
        _node("norm2", "batchnorm", "conv2", epsilon=1e-3),
        _node("relu2", "relu", "norm2"),
        _conv("conv3", "relu2", 8, 3, 1, 1),
        _node("add1", "add", "conv3", "pool1"),
        _node("relu3", "relu", "add1"),
        _pool("pool2", "avgpool2d", "relu3"),
        _conv("conv4", "pool2", 6, 1, 1, 0),
        _conv("conv5", "pool2", 6, 3, 1, 1),
        _node("concat", "concat", "conv4", "conv5"),
        _node("relu4", "relu", "concat"),
        _node("flatten", "flatten", "relu4"),
        _node("dense1", "dense", "flatten", units=32),
        _node("relu5", "relu", "dense1"),
        _node("dense2", "dense", "relu5", units=10),
    ],
    "output": "dense2",
}


def _block(name: str, source: str, filters: int, stride: int) -> list[dict[str, Any]]:
    """A residual block: two convolutions beside one, or beside the value itself."""
    nodes = [
        _conv(f"{name}_conv1", source, filters, 3, stride, 1),
        _node(f"{name}_relu1", "relu", f"{name}_conv1"),
        _conv(f"{name}_conv2", f"{name}_relu1", filters, 3, 1, 1),
    ]
    beside = source
    if stride > 1:
        beside = f"{name}_beside"
        nodes.append(_conv(beside, source, filters, 1, stride, 0))
    nodes.append(_node(f"{name}_add", "add", f"{name}_conv2", beside))
    return [*nodes, _node(name, "relu", f"{name}_add")]


# As deep and as wide as the network resnet_4b of the verification competition.
_RESNET4B = {
    "input_shape": [32, 32, 3],
    "nodes": [
        _conv("conv1", "input", 16, 3, 2, 1),
        _node("relu1", "relu", "conv1"),
        *_block("block1", "relu1", 32, 2),
        *_block("block2", "block1", 32, 1),
        *_block("block3", "block2", 32, 2),
        *_block("block4", "block3", 32, 1),
        _node("flatten", "flatten", "block4"),
        _node("dense1", "dense", "flatten", units=100),
        _node("relu2", "relu", "dense1"),
        _node("dense2", "dense", "relu2", units=10),
    ],
    "output": "dense2",
}


def _cnn7(width: int) -> dict[str, Any]:
    """The network cnn7 with 1/width of its channels: five normalised convolutions, two dense."""
    sizes = [(64, 1), (64, 1), (128, 2), (128, 1), (128, 1)]
    nodes, source = [], "input"
    for index, (filters, stride) in enumerate(sizes, start=1):
        nodes += [
            _conv(f"conv{index}", source, filters // width, 3, stride, 1),
            _node(f"norm{index}", "batchnorm", f"conv{index}", epsilon=1e-3),
            _node(f"relu{index}", "relu", f"norm{index}"),
        ]
        source = f"relu{index}"
    nodes += [
        _node("flatten", "flatten", source),
        _node("dense1", "dense", "flatten", units=512 // width),
        _node("relu6", "relu", "dense1"),
        _node("dense2", "dense", "relu6", units=10),
    ]
    return {"input_shape": [32, 32, 3], "nodes": nodes, "output": "dense2"}


def _dense(inputs: int, units: Sequence[int]) -> dict[str, Any]:
    """A chain of dense layers with ReLU between them."""
    nodes, source = [_node("flatten", "flatten", "input")], "flatten"
    for index, size in enumerate(units, start=1):
        nodes.append(_node(f"dense{index}", "dense", source, units=size))
        source = f"relu{index}"
        nodes.append(_node(source, "relu", f"dense{index}"))
    nodes.pop()
    return {"input_shape": [1, 1, inputs], "nodes": nodes, "output": f"dense{len(units)}"}


def _vit(depth: int, width: int, heads: int, patch: int, norm: str = "layernorm") -> dict[str, Any]:
    """A vision transformer: patches, a class token and positions, blocks that normalise before.

    Args:
        depth: Number of blocks.
        width: Numbers of a token.
        heads: Heads of attention.
        patch: Side of a patch in pixels.
        norm: "layernorm", or "centering", which takes away the mean alone.
    """
    nodes = [
        _conv("patches", "input", width, patch, patch, 0),
        _node("block0", "tokens", "patches"),
    ]
    for index in range(1, depth + 1):
        name, source = f"block{index}", f"block{index - 1}"
        nodes += [
            _node(f"{name}_norm1", norm, source, epsilon=1e-5),
            _node(f"{name}_attention", "attention", f"{name}_norm1", heads=heads),
            _node(f"{name}_add", "add", f"{name}_attention", source),
            _node(f"{name}_norm2", norm, f"{name}_add", epsilon=1e-5),
            _node(f"{name}_dense1", "dense", f"{name}_norm2", units=2 * width),
            _node(f"{name}_gelu", "gelu", f"{name}_dense1"),
            _node(f"{name}_dense2", "dense", f"{name}_gelu", units=width),
            _node(name, "add", f"{name}_dense2", f"{name}_add"),
        ]
    nodes += [
        _node("norm", norm, f"block{depth}", epsilon=1e-5),
        _node("class", "first", "norm"),
        _node("scores", "dense", "class", units=10),
    ]
    return {"input_shape": [32, 32, 3], "nodes": nodes, "output": "scores"}


def _text(depth: int, words: int, width: int, heads: int) -> dict[str, Any]:
    """A text encoder from its embedded words on: blocks that normalise behind each sum."""
    nodes, source = [_node("words", "rows", "input")], "words"
    for index in range(1, depth + 1):
        name = f"block{index}"
        nodes += [
            _node(f"{name}_attention", "attention", source, heads=heads),
            _node(f"{name}_add1", "add", f"{name}_attention", source),
            _node(f"{name}_norm1", "layernorm", f"{name}_add1", epsilon=1e-5),
            _node(f"{name}_dense1", "dense", f"{name}_norm1", units=2 * width),
            _node(f"{name}_gelu", "gelu", f"{name}_dense1"),
            _node(f"{name}_dense2", "dense", f"{name}_gelu", units=width),
            _node(f"{name}_add2", "add", f"{name}_dense2", f"{name}_norm1"),
            _node(name, "layernorm", f"{name}_add2", epsilon=1e-5),
        ]
        source = name
    nodes += [_node("first", "first", source), _node("scores", "dense", "first", units=2)]
    return {"input_shape": [words, width, 1], "nodes": nodes, "output": "scores"}


def _recurrent(op: str, steps: int, features: int, units: int) -> dict[str, Any]:
    """A recurrent layer that reads the rows of an image, and scores of its last state."""
    nodes = [
        _node("rows", "rows", "input"),
        _node("states", op, "rows", units=units),
        _node("scores", "dense", "states", units=10),
    ]
    return {"input_shape": [steps, features, 1], "nodes": nodes, "output": "scores"}


# Built-in shapes, for random weights: (graph, radius).
GRAPHS: dict[str, tuple[dict[str, Any], float]] = {
    "kw_mnist": (_two_convs((28, 28, 1), (16, 4, 2, 1), (32, 4, 2, 1), 100), 0.02),
    "cifar_2c2f": (_two_convs((32, 32, 3), (4, 3, 1, 0), (4, 3, 1, 0), 32), 2 / 255),
    "cifar_base": (_two_convs((32, 32, 3), (8, 4, 2, 1), (16, 4, 2, 1), 100), 2 / 255),
    "resnet2b": (_RESNET2B, 1 / 255),
    "bn_pool_res_s2": (_BN_POOL_RES, 2 / 255),
    "resnet4b": (_RESNET4B, 1 / 255),
    "cnn7_w16": (_cnn7(16), 1 / 255),
    "acas": (_dense(5, [50] * 6 + [5]), 0.02),
    "vit_2_3_16": (_vit(2, 48, 3, 16), 1 / 2550),
    "vit_3_3_16": (_vit(3, 48, 3, 16), 1 / 25500),
    "vit_2_3_8": (_vit(2, 48, 3, 8), 1 / 25500),
    "vit_2_3_16_centering": (_vit(2, 48, 3, 16, "centering"), 1 / 2550),
    "text_2_8_16": (_text(2, 8, 16, 2), 0.002),
    "lstm_8_32": (_recurrent("lstm", 8, 8, 32), 0.01),
    "lstm_28_32": (_recurrent("lstm", 28, 28, 32), 0.001),
    "gru_8_32": (_recurrent("gru", 8, 8, 32), 0.01),
    "gru_28_32": (_recurrent("gru", 28, 28, 32), 0.001),
}


def node_shapes(graph: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every node's value without the batch axis, channels last."""
    shapes: dict[str, tuple[int, ...]] = {"input": tuple(graph["input_shape"])}
    for node in graph["nodes"]:
        shape = shapes[node["inputs"][0]]
        op = node["op"]
        if op == "conv2d":
            sizes = [
                (shape[axis] + sum(node["pad"][axis]) - node["kernel_size"][axis])
                // node["strides"][axis]
                + 1
                for axis in (0, 1)
            ]
            shape = (*sizes, node["filters"])
        elif op in ("maxpool2d", "avgpool2d"):
            sizes = [
                (shape[axis] - node["pool_size"][axis]) // node["strides"][axis] + 1
                for axis in (0, 1)
            ]
            shape = (*sizes, shape[2])
        elif op == "dense":
            shape = (*shape[:-1], node["units"])
        elif op == "tokens":
            shape = (math.prod(shape[:-1]) + 1, shape[-1])
        elif op == "first":
            shape = shape[1:]
        elif op == "rows":
            shape = (shape[0], math.prod(shape[1:]))
        elif op in _GATES:
            shape = (node["units"],)
        elif op == "flatten":
            shape = (math.prod(shape),)
        elif op == "concat":
            shape = (*shape[:-1], sum(shapes[name][-1] for name in node["inputs"]))
        shapes[node["name"]] = shape
    return shapes


def random_weights(graph: Mapping[str, Any], random: np.random.Generator) -> dict[str, np.ndarray]:
    """He-normal kernels, small biases, and normalisation statistics near 0 and 1."""
    shapes = node_shapes(graph)
    weights: dict[str, np.ndarray] = {}

    def add(node: Mapping[str, Any], field: str, value: np.ndarray) -> None:
        weights[f"{node['name']}/{field}"] = value.astype("float32")

    for node in graph["nodes"]:
        channels = shapes[node["inputs"][0]][-1]
        if node["op"] == "batchnorm":
            add(node, "gamma", random.normal(1.0, 0.1, size=channels))
            add(node, "beta", random.normal(0.0, 0.1, size=channels))
            add(node, "moving_mean", random.normal(0.0, 0.1, size=channels))
            add(node, "moving_variance", random.uniform(0.5, 1.5, size=channels))
        elif node["op"] == "layernorm":
            add(node, "gamma", random.normal(1.0, 0.1, size=channels))
            add(node, "beta", random.normal(0.0, 0.1, size=channels))
        elif node["op"] == "tokens":
            add(node, "table", random.normal(0.0, 0.5, size=shapes[node["name"]]))
        elif node["op"] == "attention":
            heads, size = node["heads"], channels // node["heads"]
            for field in WEIGHTS["attention"]:
                part, kind = field.split("_")
                sides = (heads, size, channels) if part == "output" else (channels, heads, size)
                shape = sides if kind == "kernel" else sides[2:] if part == "output" else sides[1:]
                deviation = 1 / math.sqrt(channels) if kind == "kernel" else 0.05
                add(node, field, random.normal(0.0, deviation, size=shape))
        elif node["op"] in _GATES:
            units, columns = node["units"], _GATES[node["op"]] * node["units"]
            # A GRU of Keras has a bias of the input and one of the state.
            bias = (2, columns) if node["op"] == "gru" else (columns,)
            add(node, "kernel", random.normal(0.0, 1 / math.sqrt(channels), (channels, columns)))
            add(node, "recurrent", random.normal(0.0, 1 / math.sqrt(units), (units, columns)))
            add(node, "bias", random.normal(0.0, 0.05, bias))
        elif node["op"] in WEIGHTS:
            size = node.get("kernel_size", [])
            shape = (*size, channels, node["filters"] if size else node["units"])
            deviation = math.sqrt(2 / math.prod(shape[:-1]))
            add(node, "kernel", random.normal(0.0, deviation, size=shape))
            add(node, "bias", random.normal(0.0, 0.05, size=shape[-1]))
    return weights


def smooth_images(count: int, shape: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Images in [0, 1]: 5 x 5 noise, enlarged bilinearly as two small matrix products."""
    height, width, channels = shape
    coarse = random.uniform(size=(count, 5, 5, channels))
    rows, columns = _interpolation(height, 5), _interpolation(width, 5)
    return np.einsum("yi,nijc,xj->nyxc", rows, coarse, columns).astype("float32")


def _interpolation(size: int, points: int) -> np.ndarray:
    positions = np.linspace(0.0, points - 1.0, size)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(positions - np.arange(points)))
