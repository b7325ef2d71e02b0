"""The contents of a LiteRT file: tensors, and operators in the order of computation."""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from typing import Any

import numpy as np

from tfcert.properties import files

__all__ = ["Graph", "Grid", "Operator", "Stored", "read_graph"]

_LARGEST = 1 << 31  # bytes; what a flatbuffer can hold
_ARRAYS = {"FLOAT32": "<f4", "INT8": "i1", "UINT8": "u1", "INT32": "<i4", "INT64": "<i8"}


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers ``scale (q - zero_point)`` that the integers q of a tensor stand for.

    Attributes:
        scale: The step between two numbers.
        zero_point: The integer that stands for 0.
        lowest: The least integer of the tensor's type.
        highest: The largest integer of the tensor's type.
    """

    scale: float
    zero_point: int
    lowest: int = -128
    highest: int = 127

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest number of steps from 0."""
        return self.lowest - self.zero_point, self.highest - self.zero_point

    @property
    def largest(self) -> int:
        """The largest number of steps from 0, to either side."""
        return max(map(abs, self.limits))


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor as the file describes it.

    Attributes:
        name: The name of the tensor.
        kind: The name of the type, such as "INT8".
        shape: All sizes, with 1 or a variable size of the batch.
        scales: The scales, none where the tensor is not quantised.
        zero_points: The zero points.
        axis: The axis along which scales vary.
        array: The value of a constant.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    array: np.ndarray | None

    def grid(self) -> Grid | None:
        """The numbers of an integer tensor with one scale; None for floats."""
        if self.kind == "FLOAT32":
            return None
        limits = {"INT8": (-128, 127), "UINT8": (0, 255)}.get(self.kind)
        if limits is None or self.scales.size != 1:
            raise NotImplementedError(
                f"the tensor {self.name!r} is of type {self.kind.lower()} with "
                f"{self.scales.size} scales. Only int8 with one scale is supported: convert the "
                "model with a representative_dataset and OpsSet.TFLITE_BUILTINS_INT8."
            )
        scale, zero_point = float(self.scales[0]), int(self.zero_points[0])
        if not (0 < scale < float("inf") and limits[0] <= zero_point <= limits[1]):
            raise ValueError(
                f"the tensor {self.name!r} has a scale or a zero point out of range. Received: "
                f"scale={scale}, zero_point={zero_point}."
            )
        return Grid(scale, zero_point, *limits)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        kind: The name of the operator, such as "CONV_2D".
        inputs: Indices of tensors; -1 stands for what is left out.
        outputs: Indices of tensors.
        options: The options of the file, by their names in LiteRT's schema.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Graph:
    """The main graph of a file."""

    tensors: list[Stored]
    operators: list[Operator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _schema() -> Any:
    try:
        from tensorflow.lite.python import schema_py_generated
    except ImportError as error:
        raise ImportError(
            "Reading LiteRT files needs the package tensorflow with its module tensorflow.lite: "
            "pip install tensorflow"
        ) from error
    return schema_py_generated


def read_graph(path: pathlib.Path) -> Graph:
    """Reads a file.

    Raises:
        ValueError: The file is not a LiteRT network, or contradicts itself.
        NotImplementedError: The file has more than one graph, or weights outside of the graph.
    """
    schema = _schema()
    content = files.read(path, _LARGEST)
    if content[4:8] != b"TFL3":
        raise ValueError(
            f"{path} must be a LiteRT network of version 3. Received: a file with the mark "
            f"{content[4:8]!r}."
        )
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        if len(model.subgraphs) != 1:
            raise NotImplementedError(
                f"{path} must have one graph. Received: {len(model.subgraphs)} graphs."
            )
        return _Contents(schema, model).graph()
    # The bytes are followed without checks, and may lead anywhere.
    except (struct.error, TypeError, IndexError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} must be a valid LiteRT network. Received: {error}") from error


class _Contents:
    """A file's tables, as the generated readers give them."""

    def __init__(self, schema: Any, model: Any):
        self._model = model
        self._kinds = _names(schema.TensorType)
        self._operators = _names(schema.BuiltinOperator)

    def graph(self) -> Graph:
        (graph,) = self._model.subgraphs
        return Graph(
            [self._tensor(tensor) for tensor in graph.tensors],
            [self._operator(operator) for operator in graph.operators],
            tuple(map(int, graph.inputs)),
            tuple(map(int, graph.outputs)),
        )

    def _tensor(self, tensor: Any) -> Stored:
        name = (tensor.name or b"").decode("utf-8", "replace")
        kind = self._kinds[tensor.type]
        shape = _integers(tensor.shape)
        quantization = tensor.quantization
        scales = None if quantization is None else quantization.scale
        points = None if quantization is None else quantization.zeroPoint
        if tensor.sparsity is not None or (quantization and quantization.details is not None):
            raise NotImplementedError(
                f"the tensor {name!r} is sparse, or quantised in a way of its own."
            )
        scales = np.array([] if scales is None else scales, "float64")
        points = np.zeros(scales.shape, "int64") if points is None else np.array(points, "int64")
        if points.shape != scales.shape:
            raise ValueError(
                f"the tensor {name!r} has {scales.size} scales and {points.size} zero points."
            )
        axis = 0 if quantization is None else int(quantization.quantizedDimension)
        array = self._array(self._model.buffers[tensor.buffer], kind, tuple(shape), name)
        return Stored(name, kind, tuple(shape), scales, points, axis, array)

    @staticmethod
    def _array(buffer: Any, kind: str, shape: tuple[int, ...], name: str) -> np.ndarray | None:
        if getattr(buffer, "offset", 0) > 1:
            raise NotImplementedError(f"the value of {name!r} lies outside of the graph.")
        if buffer.data is None or not len(buffer.data):
            return None
        if kind not in _ARRAYS:
            raise NotImplementedError(
                f"the constant {name!r} of type {kind.lower()} is not supported."
            )
        data = np.asarray(buffer.data, "uint8").tobytes()
        try:
            return np.frombuffer(data, _ARRAYS[kind]).reshape(shape)
        except ValueError as error:
            raise ValueError(f"the value of {name!r} does not fit its shape: {error}") from error

    def _operator(self, operator: Any) -> Operator:
        code = self._model.operatorCodes[operator.opcodeIndex]
        kind = self._operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
        options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
        if kind == "CUSTOM":
            kind = f"CUSTOM {(code.customCode or b'').decode('utf-8', 'replace')}"
        return Operator(
            kind,
            tuple(_integers(operator.inputs)),
            tuple(_integers(operator.outputs)),
            dict(options),
        )


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _integers(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
