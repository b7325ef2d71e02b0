"""Affine primitives: kernels, scalings, sums and rearrangements.

Backward, the exact transpose is the vector-Jacobian product of the layer's linear part. Forward,
each primitive *declares* ``|W| r``; there is no default, since a wrong one would be unsound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from tfcert import backend
from tfcert.rules.interval import Interval
from tfcert.rules.linear_maps import Linear
from tfcert.rules.primitives import Affine
from tfcert.rules.rounding import HUGE, flushed, rounding_error
from tfcert.rules.rows import Frame, Rows
from tfcert.rules.windows import Same, Windowed
from tfcert.types import Tensor

__all__ = [
    "Declared",
    "Kernel",
    "Matrix",
    "Rearrange",
    "Scale",
    "Sum",
    "read",
    "summed_terms",
]


def read(variable: Any, dtype: str) -> Tensor:
    """The value of a variable, function or constant in the type of the evaluation."""
    value = variable() if callable(variable) else variable
    return ops.cast(ops.convert_to_tensor(value), dtype)


class Kernel(Affine):
    """``linear(x, kernel) + bias``, with ``linear`` linear in both arguments.

    Args:
        linear: The map of the input and the kernel.
        kernel: Variable or array.
        bias: Variable or array broadcastable against the output without batch axis, or None.
        fan_in: Number of terms that one output sums, for the rounding analysis.
        windowed: The same map on windows, where it has that form.
    """

    def __init__(
        self,
        linear: Linear,
        kernel: Any,
        bias: Any = None,
        *,
        fan_in: int,
        windowed: Windowed | None = None,
    ):
        self.linear, self.kernel, self.offset = linear, kernel, bias
        self.fan_in, self.windowed = fan_in, windowed

    def parameters(self, dtype: str) -> dict[str, Tensor]:
        kernel = read(self.kernel, dtype)
        bias = None if self.offset is None else read(self.offset, dtype)
        return {"kernel": kernel, "magnitude": ops.abs(kernel), "bias": bias}

    def bias(self, p: Any) -> Tensor | None:
        return p["bias"]

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        result = self.linear(values[0], p["kernel"])
        return result if p["bias"] is None else result + p["bias"]

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        x = intervals[0]
        return x.mapped(self.apply(p, x.center), self.linear(x.spread, p["magnitude"]))

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        return [self.linear.transpose(coefficients, p["kernel"], shapes[0])]

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        # Each term meets one product, the sums, and the bias: fan_in + 1 roundings. Three more are
        # for compilers that multiply a following scale into the kernel, and add its shift.
        terms = self.fan_in + 4
        tiny = flushed(terms, unit)
        size = self.linear(magnitudes[0] + tiny, p["magnitude"] + tiny)
        if p["bias"] is not None:
            size = size + ops.abs(p["bias"])
        return rounding_error(size, terms, unit)


def summed_terms(subscripts: str, *shapes: Sequence[int]) -> int:
    """Returns the number of terms in one output of an einsum."""
    operands, output = subscripts.replace(" ", "").split("->")
    sizes: dict[str, int] = {}
    for letters, shape in zip(operands.split(","), shapes, strict=True):
        before, _, after = letters.partition("...")
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(reversed(after), reversed(shape), strict=False))
    return math.prod(size for letter, size in sizes.items() if letter not in output)


class Matrix(Kernel):
    """``x @ kernel + bias`` over the last axis: the transpose is written out, since it is hot."""

    takes_more_axes = True

    def __init__(self, kernel: Any, bias: Any, *, fan_in: int):
        super().__init__(Linear(ops.matmul), kernel, bias, fan_in=fan_in)

    def prepare(self, p: Any) -> None:
        if "transposed" not in p:
            p["transposed"] = ops.transpose(p["kernel"])

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        transposed = p.get("transposed")
        if transposed is None:
            transposed = ops.transpose(p["kernel"])
        return [ops.matmul(coefficients, transposed)]


class Scale(Affine):
    """``x * scale + shift`` with factors that broadcast against one value without enlarging it.

    Args:
        factors: ``factors(dtype) -> (scale, shift)``, each a tensor or None.
        error: ``error(unit, magnitude)``, the rounding of an execution that computes the same in
            another way; by default it is one product (or quotient) and one sum.
    """

    takes_more_axes = True

    def __init__(
        self,
        factors: Callable[[str], tuple[Tensor | None, Tensor | None]],
        error: Callable[[float, Tensor], Tensor | None] | None = None,
    ):
        self.factors, self.error = factors, error
        self.windowed = Same()

    def parameters(self, dtype: str) -> tuple[Tensor | None, Tensor | None]:
        return self.factors(dtype)

    def bias(self, p: Any) -> Tensor | None:
        return p[1]

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        scale, shift = p
        result = values[0] if scale is None else values[0] * scale
        return result if shift is None else result + shift

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        x = intervals[0]
        if p[0] is None:
            return Interval.from_ends(self.apply(p, x.lower), self.apply(p, x.upper))
        return x.mapped(self.apply(p, x.center), x.spread * ops.abs(p[0]))

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        return [coefficients if p[0] is None else _scaled(coefficients, p[0], 1)]

    def transpose_window(
        self,
        p: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
        prepared: Any = None,
    ) -> Sequence[Rows]:
        if p[0] is None:
            return [rows]
        assert rows.window is not None
        if all(size == 1 for size in _padded_shape(p[0], len(shapes[0]))[: len(rows.extent)]):
            return [Rows(_scaled(rows.coefficients, p[0], 2), rows.window, rows.clean)]
        scale = ops.broadcast_to(p[0], shapes[0])
        return [Rows(rows.coefficients * frame.take_shared(scale, rows), rows.window)]

    def lipschitz(self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> Tensor:
        return radii[0] if p[0] is None else radii[0] * ops.max(ops.abs(p[0]))

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor | None:
        if self.error is not None:
            return self.error(unit, magnitudes[0])
        # Both constants are rounded to float32 first; x / c may be run as x * (1 / c).
        terms, (scale, shift) = 6, p
        size = magnitudes[0]
        if scale is not None:
            tiny = flushed(terms, unit)
            size = (size + tiny) * (ops.abs(scale) + tiny)
        if shift is not None:
            size = size + ops.abs(shift)
        error = rounding_error(size, terms, unit)
        if scale is None:
            return error
        # The constant itself may overflow, or, where x is divided by it, be flushed to zero.
        return ops.where(ops.abs(scale) >= HUGE, float("inf"), error)


def _scaled(coefficients: Tensor, scale: Tensor, leading: int) -> Tensor:
    """Coefficients, with some leading axes, times a scale that broadcasts against the others.

    A product with a last axis of a few channels takes three times as long as one with all entries.
    """
    whole = tuple(coefficients.shape)
    size = math.prod(whole[leading:])
    if math.prod(scale.shape) in (1, size):
        return coefficients * scale
    wide = backend.reshape(ops.broadcast_to(scale, whole[leading:]), (1, size))
    product = backend.reshape(coefficients, (-1, size)) * wide
    return backend.reshape(product, (-1, *whole[1:]))


def _padded_shape(tensor: Tensor, rank: int) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    return (1,) * (rank - len(shape)) + shape


class Sum(Affine):
    """``x_1 + ... + x_n`` of values of one shape."""

    takes_more_axes = True
    windowed = Same()

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        result = values[0]
        for value in values[1:]:
            result = result + value
        return result

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        if all(x.is_centered for x in intervals):
            center = self.apply(p, *[x.center for x in intervals])
            return Interval.from_center(center, self.apply(p, *[x.radius for x in intervals]))
        return Interval.from_ends(
            self.apply(p, *[x.lower for x in intervals]),
            self.apply(p, *[x.upper for x in intervals]),
        )

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        return [coefficients] * (len(shapes) - 1)

    def lipschitz(self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> Tensor:
        return self.apply(p, *radii)

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        return rounding_error(self.apply(p, *magnitudes), len(magnitudes) + 1, unit)


class Rearrange(Affine):
    """A linear map with weights >= 0: reshaping, picking, padding with zeros, adding, averaging.

    Such a map is monotone, so it takes the ends of an interval as they are.

    Args:
        function: The map, on tensors with a batch axis.
        terms: Number of terms that one output sums (1: values are only moved, which is exact).
        windowed: The same map on windows, where it has that form.
        transposed: ``transposed(coefficients, shape)``, the transpose of a map of one input of that
            shape, where it can be written out; else it is the vector-Jacobian product.
        repeats: Whether an entry may come twice, although the value does not grow.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        *,
        terms: int = 1,
        windowed: Windowed | None = None,
        transposed: Callable[[Tensor, tuple[int, ...]], Tensor] | None = None,
        repeats: bool = False,
    ):
        self.function, self.terms, self.windowed = function, terms, windowed
        self.transposed, self.repeats = transposed, repeats

    def keeps_ends(self, p: Any) -> bool:
        return self.terms == 1

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return self.function(*values)

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        x = intervals[0]
        if len(intervals) == 1 and x.is_alike:
            parts = map(self.function, (x.center, x.spread, x.lower, x.upper))
            return Interval.alike(*parts)
        lower = self.function(*[x.lower for x in intervals])
        upper = self.function(*[x.upper for x in intervals])
        if len(intervals) > 1 or self.terms > 1 or backend.runs_at_once():
            return Interval.from_ends(lower, upper)
        # A graph leaves out what nobody reads, and joins padding with the convolution behind it.
        return Interval(lower, upper, self.function(x.center), self.function(x.radius))

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        if self.transposed is not None:
            return [self.transposed(coefficients, shapes[0])]
        count = ops.shape(coefficients)[0]
        zeros = [ops.zeros((count, *shape), coefficients.dtype) for shape in shapes[:-1]]
        return backend.vector_jacobian(self.function, zeros, coefficients)

    def lipschitz(self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> Tensor:
        most = radii[0]
        for radius in radii[1:]:
            most = ops.maximum(most, radius)
        # The weights are >= 0: where every entry is 1, the value has their sums.
        ones = [ops.ones((1, *shape), most.dtype) for shape in shapes]
        return most * ops.max(self.function(*ones))

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor | None:
        if self.terms == 1:
            return None
        # An average may divide at the end: its sum must not overflow.
        mean = self.function(*magnitudes)
        error = rounding_error(mean, self.terms + 3, unit)
        return ops.where(mean * self.terms >= HUGE, float("inf"), error)


class Declared(Affine):
    """A layer that its author declares affine, together with ``|W| r``."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        radius: Callable[[Tensor], Tensor],
        shape: Sequence[int],
    ):
        self.function, self.declared, self.shape = function, radius, tuple(shape)

    def parameters(self, dtype: str) -> Tensor:
        return self.function(ops.zeros((1, *self.shape), dtype))[0]

    def bias(self, p: Any) -> Tensor:
        return p

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return self.function(values[0])

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        x = intervals[0]
        return Interval.from_center(self.function(x.center), self.declared(x.radius))

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        zeros = ops.zeros((ops.shape(coefficients)[0], *shapes[0]), coefficients.dtype)
        return backend.vector_jacobian(self.function, [zeros], coefficients)
