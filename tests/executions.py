"""Runs Keras models as float32 hardware may: sums in any order, fused, flushed, or at worst.

The layers' formulas are written out step by step, so that each rounding is ours to choose. Every
value is held in float64: of two float32 numbers, +, -, *, / and sqrt rounded to float64 first and
to float32 after give the correctly rounded float32 result, since 53 >= 2 * 24 + 2.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcert import graph
from tfcert import layers as linf

__all__ = ["ORDERS", "ROUNDINGS", "Execution", "executions"]

UNIT, TINY = 2.0**-24, 2.0**-126
ORDERS = ("forward", "backward", "random", "pairwise", "smallest", "largest")
# float32, or float64 in which every operation errs by one unit in a chosen direction: away from 0,
# towards 0, up, down, at random. The standard model allows all of them, so bounds must hold.
ROUNDINGS = ("float32", "away", "towards", "up", "down", "any")


@dataclasses.dataclass
class Execution:
    """One way to run a model in float32 arithmetic.

    Args:
        order: How sums are taken, one of ``ORDERS``.
        rounding: One of ``ROUNDINGS``.
        fused: Whether a product and the sum that follows are rounded together.
        flush: Whether operands and results below the smallest normal number count as zero.
        folded: Whether batch normalisation is multiplied into the convolution or dense layer before
            it, as compilers do.
        seed: Of random choices.
    """

    order: str = "forward"
    rounding: str = "float32"
    fused: bool = False
    flush: bool = False
    folded: bool = False
    seed: int = 0

    def __post_init__(self):
        self._rng = np.random.default_rng(self.seed)

    # Arithmetic.

    def rounded(self, value: Any, units: float = 1.0) -> np.ndarray:
        value = np.asarray(value, "float64")
        with np.errstate(over="ignore", invalid="ignore"):
            if self.rounding == "float32":
                value = value.astype("float32").astype("float64")
            else:
                size = {
                    "away": lambda: value,
                    "towards": lambda: -value,
                    "up": lambda: np.abs(value),
                    "down": lambda: -np.abs(value),
                    "any": lambda: value * self._rng.choice((-1.0, 1.0), size=value.shape),
                }[self.rounding]()
                value = value + units * UNIT * size
                value = np.where(np.abs(value) > np.finfo("float32").max, value * np.inf, value)
        return self._flushed(value)

    def _flushed(self, value: np.ndarray) -> np.ndarray:
        return np.where(np.abs(value) < TINY, 0.0, value) if self.flush else value

    def constant(self, value: Any) -> np.ndarray:
        """A number as float32 holds it."""
        value = np.asarray(ops.convert_to_numpy(value)).astype("float32")
        return self._flushed(value.astype("float64"))

    def add(self, x: Any, y: Any) -> np.ndarray:
        return self.rounded(x + y)

    def multiply(self, x: Any, y: Any) -> np.ndarray:
        return self.rounded(self._flushed(x) * self._flushed(y))

    def rsqrt(self, x: Any) -> np.ndarray:
        with np.errstate(divide="ignore"):
            exact = 1.0 / np.sqrt(x)
        # Worse than any processor known, where the model is taken at its worst.
        return self.rounded(exact, units=4.0)

    def total(self, terms: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
        """The sum over the last axis; entries that are not used take part in no operation."""
        return self.dot(terms, np.ones(()), used, exact=True)

    def dot(self, x: Any, w: Any, used: Any = None, exact: bool = False) -> np.ndarray:
        """``sum(x * w)`` over the last axis."""
        x, w = np.broadcast_arrays(self._flushed(np.asarray(x)), self._flushed(np.asarray(w)))
        used = np.broadcast_to(True if used is None else used, x.shape)
        fused = self.fused and not exact and self.order != "pairwise"
        products = x * w if fused or exact else self.rounded(x * w)
        products = np.where(used, products, 0.0)
        size = products.shape[-1]
        if self.order == "pairwise":
            return self._in_pairs(products, used)
        if self.order in ("smallest", "largest"):
            places = np.argsort(np.abs(products), axis=-1)
            places = places if self.order == "smallest" else places[..., ::-1]
            products = np.take_along_axis(products, places, axis=-1)
            used = np.take_along_axis(used, places, axis=-1)
        elif self.order == "backward":
            products, used = products[..., ::-1], used[..., ::-1]
        elif self.order == "random":
            shuffle = self._rng.permutation(size)
            products, used = products[..., shuffle], used[..., shuffle]
        result = products[..., 0]
        if fused:
            result = self.rounded(result)
        for i in range(1, size):
            more = self.rounded(result + products[..., i])
            result = np.where(used[..., i], more, result)
        return result

    def _in_pairs(self, values: np.ndarray, used: np.ndarray) -> np.ndarray:
        while values.shape[-1] > 1:
            if values.shape[-1] % 2:
                pad = [(0, 0)] * (values.ndim - 1) + [(0, 1)]
                values, used = np.pad(values, pad), np.pad(used, pad)
            both = used[..., ::2] & used[..., 1::2]
            plain = values[..., ::2] + values[..., 1::2]
            values = np.where(both, self.rounded(plain), plain)
            used = used[..., ::2] | used[..., 1::2]
        return values[..., 0]

    # Models.

    def run(self, model: keras.Model, x: np.ndarray) -> np.ndarray:
        """The output for inputs ``(n, *shape)`` in float64, which are rounded first."""
        pending: dict[int, Any] = {}
        start = self.rounded(x)
        computed = {id(start): start}  # All else that operations get are constants of the model.

        def visit(operation: Any, args: tuple, kwargs: dict, specs: list) -> Any:
            del kwargs
            given = args[0] if isinstance(args[0], list) else args
            values = [v if id(v) in computed else self.constant(v) for v in given]
            result = self._apply(operation, values, pending, specs)
            computed[id(result)] = result
            return result

        with np.errstate(over="ignore", invalid="ignore"):
            return graph.interpret(model, [start], visit)

    def _apply(self, layer: Any, values: list, pending: dict, specs: list) -> np.ndarray:
        x, kind = values[0], type(layer).__name__
        if isinstance(layer, linf.SortedDistance):
            return self._sorted_distances(layer, x)
        if isinstance(layer, linf.LInfDistance | linf.LInfDistanceConv2D):
            return self._distances(layer, x)
        if isinstance(layer, layers.SimpleRNN | layers.LSTM):
            return self._recurrent(layer, x)
        if hasattr(layer, "kernel") and not isinstance(layer, layers.SeparableConv2D):
            result, parts = self._kernel(layer, x)
            if self.folded and layer.activation is keras.activations.linear:
                pending[id(result)] = (result, parts)
            return self._activation(layer.activation, result)
        if kind == "BatchNormalization":
            return self._batch_normalization(layer, x, pending.get(id(x)))
        simple = {
            "InputLayer": lambda: x,
            "Dropout": lambda: x,
            "Flatten": lambda: x.reshape(len(x), -1),
            "Reshape": lambda: x.reshape(len(x), *specs[0].shape[1:]),
            "ReLU": lambda: self._relu(layer, x),
            "LeakyReLU": lambda: self._two_piece(x, self.constant(layer.negative_slope)),
            "PReLU": lambda: self._two_piece(x, self.constant(layer.alpha)),
            "Activation": lambda: self._activation(layer.activation, x),
            "Clip": lambda: np.clip(x, self.constant(layer.x_min), self.constant(layer.x_max)),
            "Absolute": lambda: np.abs(x),
            "Negative": lambda: -x,
            "Rescaling": lambda: self.add(
                self.multiply(x, self.constant(layer.scale)), self.constant(layer.offset)
            ),
            "MeanShift": lambda: self.rounded(x - self.constant(layer.moving_mean)),
            "Normalization": lambda: self._normalization(layer, x),
            "Add": lambda: self._sum(values),
            "Subtract": lambda: self.rounded(x - values[1]),
            "Multiply": lambda: self.multiply(x, values[1]),
            "Divide": lambda: self.rounded(x / values[1]),
            "TrueDivide": lambda: self.rounded(x / values[1]),
            "Average": lambda: self.rounded(self._sum(values) / len(values)),
            "Maximum": lambda: np.maximum(x, values[1]),
            "Minimum": lambda: np.minimum(x, values[1]),
            "Concatenate": lambda: np.concatenate(values, axis=layer.axis),
            "ZeroPadding2D": lambda: np.pad(x, [(0, 0), *layer.padding, (0, 0)]),
            "MaxPooling2D": lambda: self._pooled(layer, x, True),
            "AveragePooling2D": lambda: self._pooled(layer, x, False),
            "GlobalMaxPooling2D": lambda: x.max(axis=(1, 2)),
            "GlobalAveragePooling2D": lambda: self._mean(
                np.moveaxis(x.reshape(len(x), -1, x.shape[-1]), 1, -1)
            ),
            "UpSampling2D": lambda: x.repeat(layer.size[0], 1).repeat(layer.size[1], 2),
        }
        return simple[kind]()

    def _kernel(self, layer: Any, x: np.ndarray) -> tuple[np.ndarray, tuple]:
        """A linear layer from its matrix, which the layer itself shows on unit vectors."""
        kernel = np.asarray(ops.convert_to_numpy(layer.kernel))
        shape = x.shape[1:]
        eye = np.eye(int(np.prod(shape)), dtype="float32").reshape(-1, *shape)
        matrix = _places(layer, eye)
        places = matrix.shape[1:]
        matrix = matrix.reshape(len(eye), -1)
        most = max(int((matrix != 0).sum(axis=0).max()), 1)
        # The weights of each output first, then entries that take part in nothing.
        order = np.argsort(matrix == 0, axis=0, kind="stable")[:most].T
        picked = np.take_along_axis(matrix.T, order, axis=1)
        used = picked != 0
        weights = np.where(used, self.constant(kernel).reshape(-1)[picked - 1], 0.0)
        inputs = x.reshape(len(x), -1)[:, order]
        bias = None if layer.bias is None else self.constant(layer.bias)
        parts = (inputs, weights, used, bias, places)
        return self._affine(*parts), parts

    def _affine(self, inputs: Any, weights: Any, used: Any, bias: Any, places: tuple) -> Any:
        result = self.dot(inputs, weights, used)
        result = result.reshape(len(result), *places)
        return result if bias is None else self.add(result, bias)

    def _recurrent(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """A SimpleRNN or an LSTM, step by step."""
        cell, units, outputs = layer.cell, layer.units, []
        kernel, recurrent, bias = (self.constant(w) for w in cell.get_weights())
        hidden = carry = np.zeros((len(x), units))
        simple = isinstance(layer, layers.SimpleRNN)
        for step in range(x.shape[1]):
            now = self.dot(x[:, step, None], kernel.T)
            before = self.dot(hidden[:, None], recurrent.T)
            if simple:
                total = self.add(self.add(now, bias), before)
                hidden = self._activation(cell.activation, total)
            else:
                total = self.add(self.add(now, before), bias)
                enter, forget, new, leave = np.split(total, 4, axis=-1)
                enter, forget, leave = (
                    self._activation(cell.recurrent_activation, gate)
                    for gate in (enter, forget, leave)
                )
                new = self._activation(cell.activation, new)
                carry = self.add(self.multiply(forget, carry), self.multiply(enter, new))
                hidden = self.multiply(leave, self._activation(cell.activation, carry))
            outputs.append(hidden)
        return np.stack(outputs, axis=1) if layer.return_sequences else hidden

    def _distances(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """Distances at p = inf: each difference is rounded, and the largest is taken."""
        assert np.isinf(float(ops.convert_to_numpy(layer.p)))
        kernel = self.constant(layer.kernel)
        units, groups = kernel.shape[-1], getattr(layer, "groups", 1)
        parts = [x]
        if isinstance(layer, linf.LInfDistanceConv2D):
            patches = np.asarray(layer.patches(ops.convert_to_tensor(x)))
            parts = [part.reshape(*part.shape[:3], -1) for part in np.split(patches, groups, -1)]
        weights = np.moveaxis(kernel.reshape(-1, groups, units // groups), 0, 1)
        terms = self._flushed(np.stack(parts, axis=-2))[..., None] - weights
        found = np.abs(self.rounded(terms)).max(axis=-2)
        found = found.reshape(*found.shape[:-2], units)
        return found if layer.bias is None else self.add(found, self.constant(layer.bias))

    def _sorted_distances(self, layer: Any, x: np.ndarray) -> np.ndarray:
        """The largest differences times their weights, added from the largest on."""
        kernel = self.constant(layer.kernel)
        terms = np.abs(self.rounded(self._flushed(x)[..., None] - kernel))
        terms = -np.sort(-terms, axis=-2)
        total = self.multiply(terms[..., 0, :], self.constant(np.float32(layer.shares[0])))
        for place, share in enumerate(layer.shares[1:], 1):
            part = self.multiply(terms[..., place, :], self.constant(np.float32(share)))
            total = self.add(total, part)
        return total if layer.bias is None else self.add(total, self.constant(layer.bias))

    def _batch_normalization(self, layer: Any, x: np.ndarray, before: Any) -> np.ndarray:
        axis = layer.axis % x.ndim
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]

        def read(variable: Any) -> np.ndarray:
            return self.constant(variable)

        scale = self.rsqrt(self.add(read(layer.moving_variance), self.constant(layer.epsilon)))
        if layer.scale:
            scale = self.multiply(scale, read(layer.gamma))
        shift = -self.multiply(read(layer.moving_mean), scale)
        if layer.center:
            shift = self.add(read(layer.beta), shift)
        if before is not None and axis == x.ndim - 1:
            _, (inputs, weights, used, bias, places) = before
            columns = np.broadcast_to(scale, places).reshape(-1, 1)
            if bias is not None:
                shift = self.add(self.multiply(bias, scale), shift)
            return self._affine(inputs, self.multiply(weights, columns), used, shift, places)
        return self.add(self.multiply(x, scale.reshape(shape)), shift.reshape(shape))

    def _normalization(self, layer: Any, x: np.ndarray) -> np.ndarray:
        mean, variance = self.constant(layer.mean), self.constant(layer.variance)
        spread = np.maximum(self.rounded(np.sqrt(variance)), self.constant(1e-7))
        if layer.invert:
            return self.add(mean, self.multiply(x, spread))
        return self.rounded(self.rounded(x - mean) / spread)

    def _sum(self, values: list) -> np.ndarray:
        result = values[0]
        for value in values[1:]:
            result = self.add(result, value)
        return result

    def _mean(self, terms: np.ndarray) -> np.ndarray:
        return self.rounded(self.total(terms) / terms.shape[-1])

    def _pooled(self, layer: Any, x: np.ndarray, largest: bool) -> np.ndarray:
        (a, b), (s, t) = layer.pool_size, layer.strides
        rows, columns = (x.shape[1] - a) // s + 1, (x.shape[2] - b) // t + 1
        windows = [
            x[:, i : i + (rows - 1) * s + 1 : s, j : j + (columns - 1) * t + 1 : t]
            for i in range(a)
            for j in range(b)
        ]
        stacked = np.stack(windows, axis=-1)
        return stacked.max(axis=-1) if largest else self._mean(stacked)

    def _activation(self, function: Any, x: np.ndarray) -> np.ndarray:
        if isinstance(function, keras.layers.Layer):
            return self._apply(function, [x], {}, [])
        return {
            "linear": lambda: x,
            "relu": lambda: np.maximum(x, 0.0),
            "relu6": lambda: np.clip(x, 0.0, 6.0),
            "leaky_relu": lambda: self._two_piece(x, self.constant(0.2)),
            "hard_tanh": lambda: np.clip(x, -1.0, 1.0),
            "hard_sigmoid": lambda: self.rounded(np.clip(self.rounded(x + 3.0), 0.0, 6.0) / 6.0),
        }[function.__name__]()

    def _two_piece(self, x: np.ndarray, slope: np.ndarray) -> np.ndarray:
        return np.where(x >= 0, x, self.multiply(x, slope))

    def _relu(self, layer: Any, x: np.ndarray) -> np.ndarray:
        top = np.inf if layer.max_value is None else self.constant(layer.max_value)
        negative = self._two_piece(x, self.constant(layer.negative_slope))
        return np.where(x >= 0, np.minimum(x, top), negative)


def _places(layer: Any, eye: np.ndarray) -> np.ndarray:
    """Which entry of the kernel, counted from 1, leads from an input to an output; 0 where none."""
    kernel, bias, activation = layer.kernel, layer.bias, layer.activation
    held = [ops.convert_to_numpy(v) for v in (kernel, bias) if v is not None]
    layer.activation = keras.activations.linear
    try:
        kernel.assign(np.arange(1, held[0].size + 1).reshape(held[0].shape))
        if bias is not None:
            bias.assign(np.zeros_like(held[1]))
        return np.rint(ops.convert_to_numpy(layer(eye))).astype(int)
    finally:
        layer.activation = activation
        for variable, value in zip((kernel, bias), held, strict=False):
            variable.assign(value)


def executions(count: int, seed: int = 0) -> list[Execution]:
    """Different ways to run a model: each rounding and each order in turn, the rest at random."""
    rng = np.random.default_rng(seed)
    return [
        Execution(
            order=ORDERS[int(rng.integers(len(ORDERS)))],
            rounding=ROUNDINGS[i % len(ROUNDINGS)],
            fused=bool(rng.integers(2)),
            flush=bool(rng.integers(2)),
            folded=bool(rng.integers(2)),
            seed=int(rng.integers(1 << 30)),
        )
        for i in range(count)
    ]
