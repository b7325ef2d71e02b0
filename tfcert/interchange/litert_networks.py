"""Reads LiteRT networks of integers as Keras models that compute the same integers."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import keras
import numpy as np

from tfcert.interchange.litert_files import Graph, Operator, Stored, read_graph
from tfcert.interchange.litert_operators import FOLDED, OPERATORS
from tfcert.interchange.litert_values import SLACK, Call, Value
from tfcert.layers import Requantize

__all__ = ["load_litert"]


def load_litert(
    path: str | os.PathLike[str], dtype: str = "float32", radius: float | None = None
) -> keras.Model:
    """Reads a LiteRT network (a .tflite file) of int8 operators as a Keras model.

    The model takes and returns the real numbers that the network's integers stand for, also where
    the file has int8 or uint8 at its ends. Between its layers are steps of integers, rounded by
    ``tfcert.layers.Requantize``. Kernels of different processors round in different ways. Bounds
    and certificates of the model hold for all of them: for every execution in which the result of
    each operator lies within the operator's radius of the exact result.

    Args:
        path: The file, which may be compressed with gzip.
        dtype: "float32", or "float64", in which all sums of integers are exact.
        radius: How far the result of an operator that rounds may lie from the exact result of its
            operands, in steps of its scale and before the clip. Default: what the reference
            kernels, the optimised kernels and XNNPACK cost. This is little more than half a step
            in most operators, and a step or more in means.

    Returns:
        The model, with the shapes of the network without the batch axis.

    Raises:
        ValueError: The file is not a LiteRT network, or contradicts itself.
        NotImplementedError: The network has an unsupported operator or option. The message names
            it.
        ImportError: TensorFlow, or its module ``tensorflow.lite``, is missing.

    Example:

    >>> model = tfcert.interchange.load_litert("digits.tflite")
    >>> bounds = tfcert.bound(model, images, tfcert.LpBall(0.01, clip=(0.0, 1.0)))

    docs/interchange.md shows how TensorFlow writes such a file.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f'`dtype` must be "float32" or "float64". Received: dtype={dtype!r}.')
    if radius is not None and not 0.5 <= radius < float("inf"):
        raise ValueError(
            "`radius` must be a number of at least 0.5, since kernels round. "
            f"Received: radius={radius!r}."
        )
    path = pathlib.Path(path)
    before = keras.config.dtype_policy()
    try:
        graph = read_graph(path)
        keras.config.set_dtype_policy(dtype)
        return _Reader(graph, dtype, radius).model(
            re.sub(r"\W", "_", path.name.split(".tflite")[0])
        )
    except (ValueError, NotImplementedError) as error:
        shown = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise type(error)(shown) from error
    finally:
        keras.config.set_dtype_policy(before)


class _Reader:
    """Walks over the operators of a graph, which the file lists in the order of computation."""

    def __init__(self, graph: Graph, dtype: str, radius: float | None):
        self.graph, self.dtype, self.radius = graph, dtype, radius
        self.values: dict[int, Any] = {
            index: tensor for index, tensor in enumerate(graph.tensors) if tensor.array is not None
        }

    def model(self, name: str) -> keras.Model:
        """The Keras model."""
        if len(self.graph.inputs) != 1:
            raise NotImplementedError(
                f"A network must have one input. Received: {len(self.graph.inputs)} inputs."
            )
        (index,) = self.graph.inputs
        stored = self.graph.tensors[index]
        if len(stored.shape) < 2 or stored.shape[0] != 1 or min(stored.shape) < 1:
            raise NotImplementedError(
                "The input must have a batch axis, of size 1 or variable, and further axes of "
                f"fixed sizes. Received: {stored.name!r} of shape {stored.shape}."
            )
        inputs = keras.Input(stored.shape[1:], dtype=self.dtype)
        self.values[index] = self._entry(inputs, stored)
        for number, operator in enumerate(self.graph.operators):
            self._visit(number, operator)
        outputs = [self._output(index) for index in self.graph.outputs]
        name = name if re.match(r"[A-Za-z]", name) else f"network_{name}"
        return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name=name)

    def _entry(self, inputs: Any, stored: Stored) -> Value:
        """The input; who calls a network of integers rounds its input to the nearest ones."""
        grid = stored.grid()
        if grid is None:
            return Value(inputs, None)
        layer = Requantize(
            1.0 / grid.scale, grid.limits, radius=0.5 + SLACK, zero_point=grid.zero_point
        )
        return Value(layer(inputs), grid)

    def _visit(self, number: int, operator: Operator) -> None:
        title = f"{operator.kind} (operator {number})"
        missing = [i for i in operator.inputs if i >= 0 and i not in self.values]
        if missing:
            raise ValueError(f"{title} needs tensor {missing[0]}, which nothing has computed.")
        if len(operator.outputs) != 1:
            raise NotImplementedError(f"{title} has {len(operator.outputs)} results, and not one.")
        operands = [self.values[i] if i >= 0 else None for i in operator.inputs]
        (output,) = operator.outputs
        stored = self.graph.tensors[output]
        call = Call(operator, operands, stored, self.dtype, self.radius)
        try:
            self.values[output] = self._result(call, stored)
        except NotImplementedError as error:
            raise NotImplementedError(f"{title}: {error}") from error
        except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError) as error:
            # Keras and NumPy say in their own ways that shapes do not fit together.
            raise ValueError(f"{title} cannot be built: {error}") from error

    def _result(self, call: Call, stored: Stored) -> Value | Stored:
        kind = call.operator.kind
        if kind in FOLDED and not (kind != "SHAPE" and self._depends(call)):
            array = np.asarray(FOLDED[kind](call), "int64")
            empty = np.array([])
            return Stored(stored.name, "INT64", array.shape, empty, empty, 0, array)
        if kind not in OPERATORS:
            raise NotImplementedError(
                f"the operator is not supported. Supported are: {', '.join(sorted(OPERATORS))}. "
                "Replace the layer before the conversion, or end the model in front of it."
            )
        result = OPERATORS[kind](call)
        if result.shape != stored.shape[1:]:
            raise ValueError(
                f"its result has the shape {result.shape}, and the file says {stored.shape[1:]}."
            )
        return result

    @staticmethod
    def _depends(call: Call) -> bool:
        return any(isinstance(operand, Value) for operand in call.operands)

    def _output(self, index: int) -> Any:
        value = self.values.get(index)
        if not isinstance(value, Value):
            raise ValueError(f"The output, tensor {index}, does not depend on the input.")
        if value.grid is None:
            return value.tensor
        return keras.layers.Rescaling(value.grid.scale)(value.tensor)
