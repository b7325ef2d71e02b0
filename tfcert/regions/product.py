"""A region for each of several inputs, on the vector of all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.regions import region, seeds
from tfcert.regions.numbers import Number, Numbers
from tfcert.types import ArrayLike, Tensor

__all__ = ["Product"]


@keras.saving.register_keras_serializable(package="tfcert")
class Product(region.Region):
    """All points of which each block lies in a region of its own.

    Inputs are vectors, ``(batch, size)``: the flattened inputs of a model with several inputs, one
    behind the other. Whatever is asked of the region is asked of each block: a linear function has
    its minimum where each block has it.

    Args:
        regions: The regions, in the order of the blocks.
        shapes: The shapes of one entry of each block, without the batch axis.

    Example:

    >>> import numpy as np
    >>> from tfcert.regions import Box, LpBall, Product
    >>> region = Product([LpBall(0.5, norm=2), Box([0.0], [3.0])], [(2,), (1,)])
    >>> x = np.array([[0.0, 0.0, 1.0]], "float32")
    >>> float(region.minimise(np.array([[[3.0, 4.0, -1.0]]], "float32"), x)[0, 0])
    -5.5
    """

    def __init__(self, regions: Sequence[region.Region], shapes: Sequence[Sequence[int]]):
        self.regions = tuple(regions)
        self.shapes = tuple(tuple(int(size) for size in shape) for shape in shapes)
        if len(self.regions) != len(self.shapes) or not self.regions:
            raise ValueError(
                "`regions` must hold one region for each of `shapes`. "
                f"Received: {len(self.regions)} regions and {len(self.shapes)} shapes."
            )
        norms = {one.norm for one in self.regions}
        # Where norms differ the whole has none; it is no box either.
        self.norm = norms.pop() if len(norms) == 1 and norms <= {math.inf} else math.nan
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        self._ends = [0, *map(int, ends)]

    # Blocks.

    def blocks(self, values: Tensor) -> list[Tensor]:
        """The blocks of vectors, in their own shapes; leading axes stay."""
        lead = tuple(ops.shape(values))[:-1] if ops.is_tensor(values) else values.shape[:-1]
        reshape = ops.reshape if ops.is_tensor(values) else np.reshape
        pairs = zip(self._ends, self._ends[1:], self.shapes, strict=False)
        return [reshape(values[..., low:high], (*lead, *shape)) for low, high, shape in pairs]

    def each(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        found = []
        parts = [self.blocks(ops.convert_to_tensor(value)) for value in values]
        for number, (one, shape) in enumerate(zip(self.regions, self.shapes, strict=True)):
            result = function(one, *(part[number] for part in parts))
            lead = tuple(ops.shape(result))[: len(result.shape) - len(shape)]
            found.append(ops.reshape(result, (*lead, math.prod(shape))))
        return ops.concatenate(found, axis=-1)

    def _of_each(self, change: Callable[..., region.Region], *values: Any) -> Product:
        """The same blocks with regions that were changed one by one."""
        other = copy.copy(self)
        other.regions = tuple(map(change, self.regions, *values))
        return other

    # Checks.

    def _check_shapes(self, shape: tuple) -> None:
        if len(shape) != 2 or shape[1] not in (None, self._ends[-1]):
            raise ValueError(
                f"x must have the shape (batch, {self._ends[-1]}). Received: x of shape {shape}."
            )
        for one, own in zip(self.regions, self.shapes, strict=True):
            one._check_shapes((shape[0], *own))

    def _check_values(self, x: np.ndarray) -> None:
        for one, block in zip(self.regions, self.blocks(x), strict=True):
            one._check_values(block)

    def admits(self, x: Tensor) -> Tensor:
        found = [one.admits(block) for one, block in zip(self.regions, self.blocks(x), strict=True)]
        return ops.all(ops.stack(found, axis=-1), axis=-1)

    # Bounds.

    def _limits(self, x: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
        lower = self.each(lambda one, block: one._limits(block, outward)[0], x)
        return lower, self.each(lambda one, block: one._limits(block, outward)[1], x)

    def bind(self, x: Tensor) -> region.BoundRegion:
        bound = super().bind(x)
        if self.norm == math.inf:
            return bound
        x = ops.convert_to_tensor(x)

        def part(name: str) -> Tensor:
            # A box has neither, and does not read what stands in their place.
            def of(one: region.Region, block: Tensor) -> Tensor:
                value = getattr(one.bind(block), name)
                return ops.zeros_like(block) if value is None else value

            return self.each(of, x)

        return bound._replace(center=part("center"), radius=part("radius"))

    def minimise_beside(self, coefficients: Tensor, bound: region.BoundRegion) -> Tensor:
        """``minimise_bound`` for a region from ``split``: the sum of the minima of the blocks."""
        if self.norm == math.inf:
            return self._minimise_box(coefficients, bound)
        total: Any = 0.0
        for one, low, high in zip(self.regions, self._ends, self._ends[1:], strict=False):
            cut = [None if t is None else t[..., low:high] for t in bound]
            total = total + one.minimise_beside(
                coefficients[..., low:high], region.BoundRegion(*cut)
            )
        return total

    # Attacks.

    def minimiser(self, coefficients: Tensor, x: Tensor) -> Tensor:
        return self.each(lambda one, a, block: one.minimiser(a, block), coefficients, x)

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        return self.each(lambda one, block, center: one.project(block, center), points, x)

    def _sample(self, x: Tensor, count: int, seed: seeds.Seeds, corners: bool) -> Tensor:
        numbers = iter(range(len(self.regions)))

        def drawn(one: region.Region, block: Tensor) -> Tensor:
            return one._sample(block, count, seeds.Seeds(seed.seed + 7919 * next(numbers)), corners)

        return self.each(drawn, x)

    def reach(self, x: Tensor) -> Tensor:
        return self.each(lambda one, block: one.reach(block), x)

    def _contains(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        parts = zip(self.regions, self.blocks(points), self.blocks(x), strict=True)
        return np.all([one._contains(block, center) for one, block, center in parts], axis=0)

    # Numbers.

    def _described(self, rank: int) -> dict[str, Number]:
        return {
            f"{place}.{name}": number
            for place, (one, shape) in enumerate(zip(self.regions, self.shapes, strict=True))
            for name, number in one._described(len(shape) + 1 if rank else 0).items()
        }

    def signature(self) -> Hashable:
        return type(self), self.shapes, tuple(one.signature() for one in self.regions)

    def template(self) -> Product:
        return self._of_each(lambda one: one.template())

    def with_numbers(self, numbers: Numbers) -> Product:
        def own(values: Any, place: int) -> dict[str, Any]:
            start = f"{place}."
            return {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}

        places = range(len(self.regions))
        parts = [Numbers(own(numbers.shared, i), own(numbers.per_sample, i)) for i in places]
        other = self._of_each(lambda one, part: one.with_numbers(part), parts)
        other._checked = True
        return other

    def select(self, places: np.ndarray, x: Tensor) -> Product:
        empty = [np.zeros((1, *shape), "float32") for shape in self.shapes]
        return self._of_each(lambda one, block: one.select(places, block), empty)

    # Sizes.

    def with_eps(self, eps: ArrayLike | Tensor) -> Product:
        """Refused: each input has a size of its own."""
        raise ValueError(
            "Several inputs have a size each: give each input's region another eps, or shrink all "
            f"of them by `scaled`. Received: eps={eps!r}."
        )

    def scaled(self, fraction: ArrayLike | Tensor) -> Product:
        """Every block's region shrunk about x to a fraction of its size."""
        return self._of_each(lambda one: one.scaled(fraction))

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        regions = [keras.saving.serialize_keras_object(one) for one in self.regions]
        return {"regions": regions, "shapes": [list(shape) for shape in self.shapes]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Product:
        regions = [keras.saving.deserialize_keras_object(one) for one in config["regions"]]
        return cls(regions, config["shapes"])

    def _fields(self) -> dict[str, Any]:
        return {"regions": self.regions, "shapes": self.shapes}

    def __repr__(self) -> str:
        return f"Product(regions={list(self.regions)!r}, shapes={list(self.shapes)!r})"
