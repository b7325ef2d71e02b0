"""Reads the networks and properties in ``../shared/vnncomp``: only what occurs in them."""

import csv
import gzip
import pathlib
import re
from typing import NamedTuple

import keras
import numpy as np
import onnx
from keras import ops
from onnx import numpy_helper

from tests import support
from tfcert import regions

_LIMIT = re.compile(r"\(assert \((<=|>=) X_(\d+) (\S+)\)\)")
_OUTPUT = re.compile(r"\((<=|>=) Y_(\d+) (Y_)?([-+.\deE]+)\)")


class Property(NamedTuple):
    """The inputs of a property, and when their outputs are a counterexample.

    It is one where all rows of ``constraints @ (*outputs, 1)`` are at least 0, with `several` where
    one row suffices.
    """

    lower: np.ndarray
    upper: np.ndarray
    constraints: np.ndarray
    several: bool


class Instance(NamedTuple):
    """One line of expected.csv."""

    benchmark: str
    network: pathlib.Path
    property: pathlib.Path
    verdict: str

    @property
    def name(self) -> str:
        # ACASXU_run2a_1_9_batch_2000 and prop_3: properties have the same names for all networks.
        network = re.sub(r"\D*_run2a_|_batch_2000|_bn.*", "", self.network.name.split(".onnx")[0])
        return f"{network}/{self.property.name.removesuffix('.vnnlib.gz')}"


def instances(*benchmarks: str) -> list[Instance]:
    """All instances of some benchmarks; skips the test where there are no files."""
    folder = support.shared_path("vnncomp")
    with open(folder / "expected.csv", encoding="utf-8", newline="") as file:
        return [
            Instance(
                row["benchmark"],
                folder / row["benchmark"] / row["onnx"],
                folder / row["benchmark"] / row["vnnlib"],
                row["verdict"],
            )
            for row in csv.DictReader(file)
            if row["benchmark"] in benchmarks
        ]


def _read(path: pathlib.Path) -> bytes:
    with gzip.open(path, "rb") as file:
        return file.read()


def read_property(path: pathlib.Path, outputs: int) -> Property:
    """Limits of the inputs, and the conditions on so many outputs."""
    text = re.sub(r";.*", "", _read(path).decode())
    limits: dict[str, dict[int, float]] = {"<=": {}, ">=": {}}
    for sign, index, number in _LIMIT.findall(text):
        assert int(index) not in limits[sign]
        limits[sign][int(index)] = float(number)
    size = len(limits[">="])
    assert set(limits[">="]) == set(limits["<="]) == set(range(size))
    rows = []
    for sign, left, is_output, right in _OUTPUT.findall(text):
        row = np.zeros(outputs + 1, "float32")
        row[int(left)] = 1
        if is_output:
            row[int(right)] -= 1
        else:
            row[-1] = -float(right)
        rows.append(row if sign == ">=" else -row)
    several = "(or" in text
    # Every "and" in these files holds one condition.
    assert text.count("(and") == (len(rows) if several else 0)
    lower, upper = (np.array([limits[sign][i] for i in range(size)]) for sign in (">=", "<="))
    return Property(lower, upper, np.array(rows), several)


def read_model(path: pathlib.Path, dtype: str = "float32") -> keras.Model:
    """The network as a Keras model of flat inputs, that computes in `dtype`.

    CPUs have no convolution with channels first, so that images are turned there and back.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        return _model(path, dtype)
    finally:
        keras.config.set_dtype_policy(before)


def _model(path: pathlib.Path, dtype: str) -> keras.Model:
    network = onnx.load_model_from_string(_read(path)).graph
    constants = {tensor.name: _array(tensor, dtype) for tensor in network.initializer}
    (given,) = (node for node in network.input if node.name not in constants)
    shape = [size.dim_value for size in given.type.tensor_type.shape.dim][1:]
    inputs = keras.Input((int(np.prod(shape)),), dtype=dtype)
    values = {given.name: keras.layers.Reshape(shape)(inputs)}
    weights: list[tuple[keras.layers.Layer, list[np.ndarray]]] = []

    def layer(made: keras.layers.Layer, value: object, *arrays: np.ndarray) -> object:
        weights.append((made, list(arrays)))
        return made(value)

    for node in network.node:
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        operands = [constants.get(name, values.get(name)) for name in node.input]
        kind, first, second = node.op_type, operands[0], operands[1] if operands[1:] else None
        if kind == "Relu":
            result = keras.layers.ReLU()(first)
        elif kind == "Flatten" or kind == "Reshape":  # Reshape to (batch, everything) only
            assert settings.get("axis", 1) == 1 and (kind == "Flatten" or second[-1] == -1)
            result = keras.layers.Flatten()(first)
        elif kind == "Conv":
            result = _convolution(layer, settings, *operands)
        elif kind == "Gemm":
            assert settings == {"alpha": 1.0, "beta": 1.0, "transB": 1}
            result = layer(keras.layers.Dense(len(operands[2])), first, second.T, operands[2])
        elif kind == "MatMul":
            made = keras.layers.Dense(second.shape[1], use_bias=False)
            result = layer(made, first, second)
        elif kind in ("Add", "Sub"):
            sign = 1.0 if kind == "Add" else -1.0
            result = first + (sign * second)
        else:
            raise NotImplementedError(f"{path.name} has an operation {kind}.")
        values[node.output[0]] = result
    model = keras.Model(inputs, values[network.output[0].name])
    for made, arrays in weights:
        made.set_weights(arrays)
    return model


def _array(tensor, dtype):
    array = numpy_helper.to_array(tensor)
    return array.astype(dtype) if array.dtype == np.float32 else array


def _convolution(layer, settings, value, kernel, bias):
    assert settings["group"] == 1 and settings["dilations"] == [1, 1]
    top, left, bottom, right = settings["pads"]
    value = keras.layers.Permute((2, 3, 1))(value)
    value = keras.layers.ZeroPadding2D(((top, bottom), (left, right)))(value)
    made = keras.layers.Conv2D(len(bias), kernel.shape[2:], settings["strides"])
    value = layer(made, value, kernel.transpose(2, 3, 1, 0), bias)
    return keras.layers.Permute((3, 1, 2))(value)


def attacked(model: keras.Model, asked: list[Property]) -> tuple[keras.Model, np.ndarray]:
    """A classifier and one label a property: a counterexample is what is not of that class.

    That is the model itself where properties say that no other score reaches that of a class. Else
    there are two scores, (safe, unsafe), for a single property.
    """
    labels = [_label(one) for one in asked]
    if None not in labels:
        return model, np.array(labels)
    (one,) = asked
    outputs = model(model.inputs[0])
    ones = ops.ones_like(outputs[:, :1])
    values = ops.concatenate([outputs, ones], axis=1) @ one.constraints.T
    unsafe = (ops.max if one.several else ops.min)(values, axis=1, keepdims=True)
    scores = ops.concatenate([0.0 * ones, unsafe], axis=1)
    return keras.Model(model.inputs[0], scores), np.array([0])


def _label(asked: Property) -> int | None:
    """The class k in constraints ``Y_j - Y_k >= 0`` for all other j, of which one suffices."""
    count = asked.constraints.shape[1] - 1
    for label in range(count):
        rows = np.delete(np.eye(count, count + 1, dtype="float32"), label, axis=0)
        rows[:, label] = -1
        if asked.several and np.array_equal(
            np.unique(rows, axis=0), np.unique(asked.constraints, axis=0)
        ):
            return label
    return None


def region(asked: list[Property], copies: int) -> tuple[regions.Box, np.ndarray]:
    """The boxes of properties, each several times, and their middles."""
    lower = np.repeat([one.lower for one in asked], copies, axis=0)
    upper = np.repeat([one.upper for one in asked], copies, axis=0)
    return regions.Box(lower, upper), (0.5 * (lower + upper)).astype("float32")


def is_counterexample(wide: keras.Model, asked: Property, points: np.ndarray) -> np.ndarray:
    """Whether points lie in the box and their outputs, from a float64 model, meet the property."""
    points = np.asarray(points, "float64")
    outputs = np.asarray(ops.convert_to_numpy(wide(points)))
    values = outputs @ asked.constraints[:, :-1].T + asked.constraints[:, -1]
    meets = values.max(axis=1) >= 0 if asked.several else values.min(axis=1) >= 0
    inside = (asked.lower <= points) & (points <= asked.upper)
    return meets & inside.all(axis=1)
