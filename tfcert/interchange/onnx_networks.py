"""Reads ONNX networks as plain Keras models."""

from __future__ import annotations

import os
import pathlib
import re
import weakref
from collections import Counter
from typing import Any

import keras
import numpy as np

from tfcert.interchange import onnx_operators
from tfcert.interchange.onnx_values import Call, Value, ordered
from tfcert.properties import files

__all__ = ["load_onnx"]

_LARGEST = 1 << 31  # bytes; what protobuf can hold
_OLDEST = 7  # of the operator sets: before it, sums named the axis that they line up

# Operators on constants that are computed while the network is read. With a short list, no file
# can make reading it run forever.
_FOLDED = {
    *("Add", "Cast", "Concat", "Constant", "Div", "Gather", "Identity", "Mul", "Neg", "Reshape"),
    *("Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
_LARGEST_FOLDED = 1 << 28  # entries


# The files of the models that are in use.
_FILES: weakref.WeakKeyDictionary[keras.Model, pathlib.Path] = weakref.WeakKeyDictionary()


def file_of(model: keras.Model) -> pathlib.Path | None:
    """Returns the ONNX file of a model from ``load_onnx``, or None for other models."""
    return _FILES.get(model)


def load_onnx(
    path: str | os.PathLike[str], dtype: str | None = None, channels_last: bool = False
) -> keras.Model:
    """Reads an ONNX network as a plain Keras model.

    The model treats every input of a batch as the network treats a batch of one. The model is a
    Functional model of Keras's own layers and operations, ready for bounds, training and saving.
    Convolutions and poolings run with channels last, as CPUs require; axes are moved if the
    network's order matters.

    Args:
        path: The file, which may be compressed with gzip. Weights in other files are read only from
            the same folder.
        dtype: "float32" or "float64". Default: the type of the network's input.
        channels_last: Whether the model takes images as ``(height, width, channels)``. By default
            it takes them as ``(channels, height, width)``, as the network does.

    Returns:
        The model, with the shapes of the network without the batch axis.

    Raises:
        ValueError: The file is not an ONNX network, or contradicts itself.
        NotImplementedError: The network has an unsupported operator or option. The message names
            it.
        ImportError: The package onnx is missing.

    Example:

    >>> import onnx, tempfile
    >>> node = onnx.helper.make_node("Relu", ["x"], ["y"])
    >>> ends = [onnx.helper.make_tensor_value_info(name, 1, (1, 3)) for name in "xy"]
    >>> graph = onnx.helper.make_graph([node], "small", ends[:1], ends[1:])
    >>> path = tempfile.mkdtemp() + "/small.onnx"
    >>> onnx.save(onnx.helper.make_model(graph), path)
    >>> load_onnx(path)(np.array([[-1.0, 0.0, 1.0]])).numpy().tolist()
    [[0.0, 0.0, 1.0]]
    """
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f'`dtype` must be "float32" or "float64". Received: dtype={dtype!r}.')
    path = pathlib.Path(path)
    graph, opset = _read(path)
    before = keras.config.dtype_policy()
    try:
        reader = _Reader(graph, opset, dtype)
        keras.config.set_dtype_policy(reader.dtype)
        model = reader.model(channels_last, re.sub(r"\W", "_", path.name.split(".onnx")[0]))
        _FILES[model] = path
        return model
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f"{path}: {error}") from error
    finally:
        keras.config.set_dtype_policy(before)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError("Reading ONNX files needs the package onnx: pip install onnx") from error
    return onnx


def _read(path: pathlib.Path) -> tuple[Any, int]:
    """The checked graph of a file, all weights in it, and the version of its operators."""
    onnx = _onnx()
    import google.protobuf.message

    content = files.read(path, _LARGEST)
    try:
        proto = onnx.load_model_from_string(content)
        _fetch_external(proto.graph, path.parent)
        onnx.checker.check_model(proto)
    except google.protobuf.message.DecodeError as error:
        raise ValueError(f"{path} must be an ONNX network. Received: {error}.") from error
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a valid ONNX network. Received: {error}") from error
    versions = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    opset = versions.get("ai.onnx", 0)
    if opset < _OLDEST:
        raise NotImplementedError(
            f"{path} must have operators of version {_OLDEST} or later. Received: version {opset}."
        )
    if proto.graph.sparse_initializer:
        raise NotImplementedError(f"{path} has sparse weights, which are not supported.")
    return proto.graph, opset


def _fetch_external(graph: Any, folder: pathlib.Path) -> None:
    """Reads weights that lie in other files of the network's folder."""
    onnx = _onnx()
    constants = [attribute.t for node in graph.node for attribute in node.attribute]
    for tensor in [*graph.initializer, *constants]:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        location = facts.get("location", "")
        place = (folder / location).resolve()
        if not location or not place.is_relative_to(folder.resolve()) or not place.is_file():
            raise ValueError(
                "Weights in other files must lie in the network's folder. Received: "
                f"location={location!r} for {tensor.name!r}."
            )
        numbers = [facts.get("offset", "0"), facts.get("length", str(place.stat().st_size))]
        if not all(number.isdecimal() and len(number) < 16 for number in numbers):
            raise ValueError(
                "Weights in other files must have an offset and a length. Received: "
                f"offset={numbers[0]!r}, length={numbers[1]!r} for {tensor.name!r}."
            )
        offset, length = map(int, numbers)
        with open(place, "rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(min(length, _LARGEST))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


class _Reader:
    """Walks over the nodes of a graph, whose order ONNX demands to be that of computation."""

    def __init__(self, graph: Any, opset: int, dtype: str | None):
        onnx = _onnx()
        self.graph, self.opset = graph, opset
        given = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in given]
        if len(inputs) != 1:
            raise NotImplementedError(
                f"A network must have one input. Received: {len(inputs)} inputs."
            )
        (self.input,) = inputs
        known = {
            onnx.TensorProto.FLOAT: "float32",
            onnx.TensorProto.DOUBLE: "float64",
        }
        kind = self.input.type.tensor_type.elem_type
        if kind not in known:
            raise NotImplementedError(
                f"Input {self.input.name!r} must be of type float or double. "
                f"Received: {onnx.TensorProto.DataType.Name(kind).lower()}."
            )
        self.dtype = dtype or known[kind]
        self.constants: dict[str, np.ndarray] = {
            tensor.name: self._array(tensor) for tensor in graph.initializer
        }
        self.values: dict[str, Value] = {}
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(output.name for output in graph.output)

    def model(self, channels_last: bool, name: str) -> keras.Model:
        """The Keras model."""
        shape = self._input_shape()
        if channels_last and len(shape) < 2:
            raise ValueError(
                f"`channels_last` is for networks that take images. Received: inputs of {shape}."
            )
        own = (*shape[1:], shape[0]) if channels_last else shape
        inputs = keras.Input(own, dtype=self.dtype)
        self.values[self.input.name] = Value(inputs, channels_last)
        merged: set[int] = set()
        for index, node in enumerate(self.graph.node):
            if index not in merged:
                self._visit(index, node, merged)
        outputs = [self._output(output.name) for output in self.graph.output]
        name = name if re.match(r"[A-Za-z]", name) else f"network_{name}"
        return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name=name)

    def _input_shape(self) -> tuple[int, ...]:
        dims = self.input.type.tensor_type.shape.dim
        sizes = [dim.dim_value for dim in dims]
        if len(sizes) < 2 or sizes[0] not in (0, 1) or min(sizes[1:]) < 1:
            shown = [dim.dim_value or dim.dim_param or "?" for dim in dims]
            raise NotImplementedError(
                "The input must have a batch axis, of size 1 or variable, and further axes of "
                f"fixed sizes. Received: {self.input.name!r} of shape {shown}."
            )
        return tuple(sizes[1:])

    def _array(self, tensor: Any) -> np.ndarray:
        try:
            array = _onnx().numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ValueError(f"Weights {tensor.name!r} do not fit their shape: {error}") from error
        return self._own_type(array)

    def _own_type(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.dtype) if array.dtype in (np.float32, np.float64) else array

    def _visit(self, index: int, node: Any, merged: set[int]) -> None:
        unknown = [name for name in node.input if name and not self._known(name)]
        if unknown:
            raise ValueError(f"{_title(node)} needs {unknown[0]!r}, which nothing has computed.")
        if self._constant(node):
            return
        operator = onnx_operators.OPERATORS.get(node.op_type)
        if operator is None or node.domain not in ("", "ai.onnx"):
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise NotImplementedError(
                f"{_title(node)}: the operator {kind} is not supported. Supported are: "
                f"{', '.join(sorted({*onnx_operators.OPERATORS, 'Constant', 'Shape'}))}."
            )
        operands = [self.constants.get(n, self.values.get(n)) if n else None for n in node.input]
        settings = {a.name: _onnx().helper.get_attribute_value(a) for a in node.attribute}
        bias = None
        name = node.output[0]
        if node.op_type == "MatMul" and isinstance(operands[0], Value):
            follower, bias = self._bias(index, operands[1])
            if bias is not None:
                merged.add(follower)
                name = self.graph.node[follower].output[0]
        call = Call(operands, settings, self.opset, self.dtype, bias)
        try:
            self.values[name] = operator(call)
            call.check_settings()
        except NotImplementedError as error:
            raise NotImplementedError(f"{_title(node)}: {error}") from error
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            # Keras and NumPy say in their own ways that shapes do not fit together.
            raise ValueError(f"{_title(node)} cannot be built: {error}") from error

    def _constant(self, node: Any) -> bool:
        """Whether the node gives a constant, which is computed then."""
        if node.op_type == "Shape" and node.input[0] in self.values:
            shape = np.array((1, *self.values[node.input[0]].shape), np.int64)
            settings = {a.name: a.i for a in node.attribute}
            part = slice(settings.get("start"), settings.get("end"))
            self.constants[node.output[0]] = shape[part]
            return True
        if node.op_type not in _FOLDED or any(name in self.values for name in node.input):
            return False
        from onnx.reference import ReferenceEvaluator

        given = {name: self.constants[name] for name in node.input if name}
        sizes = [array.size for array in given.values()]
        if np.prod(sizes, dtype=np.float64) > _LARGEST_FOLDED:
            raise NotImplementedError(f"{_title(node)} computes with constants that are too large.")
        try:
            evaluator = ReferenceEvaluator(node, opsets={"": self.opset})
            (array,) = evaluator.run(None, given)
        except Exception as error:  # It raises whatever NumPy and its own code raise.
            raise ValueError(f"{_title(node)} cannot be computed: {error}") from error
        self.constants[node.output[0]] = self._own_type(np.asarray(array))
        return True

    def _known(self, name: str) -> bool:
        return name in self.constants or name in self.values

    def _bias(self, index: int, kernel: Any) -> tuple[int, np.ndarray | None]:
        """The node that alone follows a product with a constant and adds a vector, if one does."""
        output = self.graph.node[index].output[0]
        if not isinstance(kernel, np.ndarray) or self.uses[output] != 1:
            return -1, None
        for later in range(index + 1, len(self.graph.node)):
            node = self.graph.node[later]
            if output in node.input:
                other = [self.constants.get(name) for name in node.input if name != output]
                if node.op_type == "Add" and len(other) == 1 and other[0] is not None:
                    rows, *units = (1, *other[0].shape)[-2:]
                    if rows == 1 and (*units,) == kernel.shape[1:] and other[0].ndim <= 2:
                        return later, other[0].reshape(-1)
                break
        return -1, None

    def _output(self, name: str) -> Any:
        if name not in self.values:
            raise ValueError(f"The output {name!r} does not depend on the input.")
        return ordered(self.values[name]).tensor


def _title(node: Any) -> str:
    return f"{node.op_type} {(node.name or node.output[0])!r}"
