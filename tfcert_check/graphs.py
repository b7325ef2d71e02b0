"""Reads files of networks, ONNX and npz, as operators on named values."""

from __future__ import annotations

import io
import json
import os
from typing import Any, NamedTuple

import numpy as np

from tfcert_check.refusal import content_of, need

__all__ = ["FORMAT", "Call", "Graph", "read_graph"]

FORMAT = "tfcert network 1"


class Call(NamedTuple):
    """An operator of ONNX, or one of those that docs/proofs.md adds, on named values."""

    operator: str
    arguments: list[str]
    result: str
    settings: dict[str, Any]


class Graph(NamedTuple):
    """A network as its file has it.

    Attributes:
        constants: Arrays by name.
        input: The name of the input.
        shape: Of the input, the batch axis of 1 included.
        calls: In an order in which they can be computed.
        output: The name of the output.
        sha256: Of the file, unpacked.
    """

    constants: dict[str, Any]
    input: str
    shape: tuple[int, ...]
    calls: list[Call]
    output: str
    sha256: str


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """Reads a file, which gzip may have compressed; npz files begin as zip archives."""
    content, sha256 = content_of(path)
    return (_of_npz if content[:2] == b"PK" else _of_onnx)(content, sha256)


def _of_npz(content: bytes, sha256: str) -> Graph:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    need(str(arrays.pop("format", None)) == FORMAT, f"the network's format is not {FORMAT!r}")
    graph = json.loads(str(arrays.pop("graph")))
    calls = [Call(*entry) for entry in graph["calls"]]
    return Graph(arrays, graph["input"], tuple(graph["shape"]), calls, graph["output"], sha256)


def _of_onnx(content: bytes, sha256: str) -> Graph:
    import onnx

    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    calls = []
    for node in graph.node:
        plain = node.domain in ("", "ai.onnx") and len(node.output) == 1
        need(plain, f"{node.op_type} of {node.domain!r}, or its outputs, are not supported")
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        settings = {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}
        if node.op_type == "Constant" and set(settings) == {"value"}:
            tensors[node.output[0]] = settings["value"]
        else:
            calls.append(Call(node.op_type, list(node.input), node.output[0], settings))
    inputs = [value for value in graph.input if value.name not in tensors]
    inside = all(t.data_location != onnx.TensorProto.EXTERNAL for t in tensors.values())
    need(
        inside and not graph.sparse_initializer, "sparse weights, or other files, are not supported"
    )
    need(len(inputs) == len(graph.output) == 1, "the network must have one input and one output")
    dims = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    shape = (dims[0] or 1, *dims[1:]) if dims else ()
    constants = {name: onnx.numpy_helper.to_array(t) for name, t in tensors.items()}
    return Graph(constants, inputs[0].name, shape, calls, graph.output[0].name, sha256)
