"""The base class of regions, with methods for boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, types
from tfcert.regions import arguments, rounding, seeds
from tfcert.regions.bound_region import BoundRegion, sum_inputs
from tfcert.regions.numbers import Numbered
from tfcert.regions.options import Options
from tfcert.types import ArrayLike, Seed, Tensor

__all__ = ["BoundRegion", "Region", "sum_inputs"]


class Region(Numbered):
    """Base class of regions: the inputs that an attacker may choose around x.

    A subclass for a box defines its limits (`_limits`) and its checks (`_check_shapes`,
    `_check_values`); all other methods follow. x itself always belongs to the region.

    Every method takes a batch of inputs. Numbers are rounded so that `interval` and `minimise`
    cover the whole region, and `minimiser`, `project` and `sample` return points inside the region.
    Numbers below the smallest normal float count as zero.
    """

    norm: float = math.inf
    # Whether it is a finite set of points, among which no gradient leads from one to another.
    is_finite = False

    # What a region checks.

    def validate(self, x: Tensor) -> None:
        """Raises a ValueError if x is not a valid centre of the region.

        For a symbolic x (inside ``tf.function``, ``jit`` or a model under construction) the method
        checks only the shape.
        """
        if not isinstance(x, keras.KerasTensor):
            x = arguments.as_input(x)
        self._check_shapes(tuple(x.shape))
        values = None if self._checked else arguments.concrete(x)
        if values is None:
            return
        if not np.isfinite(values).all():
            raise ValueError(
                f"x must be finite. Received: {int(np.isnan(values).sum())} NaN and "
                f"{int(np.isinf(values).sum())} infinite of {values.size} values."
            )
        self._check_values(values)

    def admits(self, x: Tensor) -> Tensor:
        """Returns whether each input is a valid centre of the region, ``(batch,)``.

        Compiled code uses this method in place of `validate`, which raises an error for the whole
        batch.
        """
        x = arguments.as_input(x)
        fits = ops.isfinite(x)
        for low, high in self._admitted(keras.backend.standardize_dtype(x.dtype)):
            fits = ops.logical_and(fits, ops.logical_and(x >= low, x <= high))
        return ops.all(ops.reshape(fits, (ops.shape(x)[0], -1)), axis=-1)

    def _admitted(self, dtype: str) -> list[tuple[Any, Any]]:
        """Limits of x, rounded to the type of x."""
        return []

    def _check_shapes(self, shape: tuple) -> None:
        raise NotImplementedError

    def _check_values(self, x: np.ndarray) -> None:
        raise NotImplementedError

    def _limits(self, x: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
        """The ends of the box around x: rounded away from x for bounds, towards it for attacks."""
        raise NotImplementedError

    def each(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Returns ``function(region, *values)`` for this region, or for each of its blocks.

        Args:
            function: Takes a region and values of its inputs, and gives values of this kind.
            *values: Tensors whose last axes are those of an input.
        """
        return function(self, *values)

    # Bounds: outward.

    def interval(self, x: Tensor) -> types.Bounds:
        """Returns the smallest box around the region, rounded outward and clipped.

        Args:
            x: Inputs of shape ``(batch, *input_shape)``, float32 or float64.

        Returns:
            Bounds of the shape of x.
        """
        self.validate(x)
        bound = self.bind(x)
        return types.Bounds(bound.lower, bound.upper)

    def bind(self, x: Tensor) -> BoundRegion:
        """Returns the region around x as tensors; checks only shapes (see `validate`)."""
        x = arguments.as_input(x)
        self._check_shapes(tuple(x.shape))
        return BoundRegion(*backend.fused(lambda x: self._limits(x, outward=True), x))

    def spread(self, x: Tensor) -> Tensor | None:
        """Returns half the width of the box around the region, if x is the middle of every box.

        Args:
            x: Inputs of shape ``(batch, *input_shape)``.

        Returns:
            ``(1, *input_shape)``, rounded up; None if boxes differ, or x is not their middle.
        """
        return None

    def minimise(self, coefficients: Tensor, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Returns the minimum of ``sum(coefficients * x') + offset`` over all x' of the region.

        Args:
            coefficients: ``(batch, rows, *input_shape)``, one linear function per row.
            x: Inputs of shape ``(batch, *input_shape)``.
            offset: ``(batch, rows)`` or what broadcasts to it.

        Returns:
            ``(batch, rows)``.
        """
        self.validate(x)
        bound = self.bind(x)
        coefficients = ops.cast(ops.convert_to_tensor(coefficients), bound.lower.dtype)
        minimum = self.minimise_bound(coefficients, bound)
        return minimum if offset is None else minimum + ops.cast(offset, minimum.dtype)

    def minimise_bound(self, coefficients: Tensor, bound: BoundRegion) -> Tensor:
        """Returns the minimum of ``sum(coefficients * x')`` over a region bound to its inputs.

        With the middle c and the half-width r of the box it is ``sum(A c - |A| r)``. One sum over
        both, rather than two matrix products: XLA then reads A once, both terms cancel before they
        are added up, and no GPU rounds the factors to TF32.

        Args:
            coefficients: ``(batch, rows, *s)``.
            bound: Tensors of shape ``(batch, *s)``, where s is the input's shape or that of a
                window cut out of it.

        Returns:
            ``(batch, rows)``.
        """
        beside = [None if t is None else ops.expand_dims(t, 1) for t in self.split(bound)]
        return self.minimise_beside(coefficients, BoundRegion(*beside))

    def split(self, bound: BoundRegion) -> BoundRegion:
        """Returns the bound region with the middle and half-width of its box."""
        if bound.middle is not None:
            return bound
        middle = 0.5 * (bound.lower + bound.upper)
        # Rounded up, so that the ends lie within; 0 stays 0.
        above = rounding.add_up(bound.upper, -middle)
        half = ops.maximum(above, rounding.add_up(middle, -bound.lower))
        return bound._replace(middle=middle, half=half)

    def minimise_beside(self, coefficients: Tensor, bound: BoundRegion) -> Tensor:
        """Returns ``minimise_bound`` for a region from ``split``, ``(batch, 1, *s)``."""
        return self._minimise_box(coefficients, bound)

    def _minimise_box(self, coefficients: Tensor, bound: BoundRegion) -> Tensor:
        return sum_inputs(coefficients * bound.middle - ops.abs(coefficients) * bound.half)

    # Attacks: inward.

    def minimiser(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """Returns a point of the region with the least ``sum(coefficients * x')``.

        Coordinates with coefficient 0 keep their value in x.

        Args:
            coefficients: ``(batch, rows, *input_shape)``.
            x: Inputs of shape ``(batch, *input_shape)``.

        Returns:
            ``(batch, rows, *input_shape)``.
        """
        self.validate(x)
        x = arguments.as_input(x)
        coefficients = ops.cast(ops.convert_to_tensor(coefficients), x.dtype)
        lower, upper = (ops.expand_dims(limit, 1) for limit in self._limits(x, outward=False))
        still = ops.where(coefficients < 0, upper, ops.expand_dims(x, 1))
        return ops.where(coefficients > 0, lower, still)

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        """Returns the points of the region closest to ``points``.

        Args:
            points: ``(batch, *input_shape)``, or ``(batch, count, *input_shape)``.
            x: Inputs of shape ``(batch, *input_shape)``.

        Returns:
            A tensor of the shape of ``points``.
        """
        self.validate(x)
        x = arguments.as_input(x)
        points = ops.cast(ops.convert_to_tensor(points), x.dtype)
        arguments.check_points(points, x)
        limits = self._limits(x, outward=False)
        lower, upper = (arguments.align(limit, points) for limit in limits)
        # where, not clip: a limit is handed on as it is, denormal or not.
        return ops.where(points < lower, lower, ops.where(points > upper, upper, points))

    def sample(self, x: Tensor, count: int, seed: Seed, corners: bool = False) -> Tensor:
        """Returns random points of the region, uniform or extreme.

        Args:
            x: Inputs of shape ``(batch, *input_shape)``.
            count: How many points for each input.
            seed: An integer, a ``keras.random.SeedGenerator``, or an integer tensor of shape
                ``()`` or ``(2,)``, which may be computed inside a compiled function.
            corners: Whether to draw corners of the box (for finite norms points on the sphere, for
                norm 1 its vertices) in place of points anywhere in the region.

        Returns:
            ``(batch, count, *input_shape)``.
        """
        self.validate(x)
        x = arguments.as_input(x)
        return self._sample(x, count, seeds.Seeds(seed), corners)

    def _sample(self, x: Tensor, count: int, seed: seeds.Seeds, corners: bool) -> Tensor:
        lower, upper = (ops.expand_dims(limit, 1) for limit in self._limits(x, outward=False))
        shape = (ops.shape(x)[0], count, *ops.shape(x)[1:])
        uniform = keras.random.uniform(shape, dtype=x.dtype, seed=seed[0])
        if corners:
            return ops.where(uniform < 0.5, lower, upper)
        points = ops.clip(lower + uniform * (upper - lower), lower, upper)
        return ops.where(lower == upper, lower, points)

    def inner_limits(self, x: Tensor) -> types.Bounds:
        """Returns the smallest box around the region, clipped and rounded inward."""
        return types.Bounds(*self._limits(arguments.as_input(x), outward=False))

    def reach(self, x: Tensor) -> Tensor:
        """Returns the distance from x to the region's end in each coordinate, before clipping.

        Attacks measure their steps in this distance. For a box it is half the width, because x need
        not be the centre.
        """
        lower, upper = self.inner_limits(x)
        return 0.5 * (upper - lower)

    def boxes(self, upper: np.ndarray) -> list[np.ndarray]:
        """The boxes that the region of one input consists of, by the entries that are fixed.

        Args:
            upper: The upper limits of the region, in the shape of an input.

        Returns:
            An array of this shape for each box: NaN where the limits are those of the region.
        """
        if self.norm != math.inf:
            raise NotImplementedError(
                "Problems are about boxes of inputs: use a tfcert.Box, or a tfcert.LpBall with "
                f'norm="inf". Received: region={self!r}.'
            )
        return [np.full(upper.shape, np.nan)]

    @property
    def splits(self) -> bool:
        """True if branch and bound can split the region: into boxes, or by its choices."""
        return self.norm == math.inf

    def options(self, x: np.ndarray) -> Options | None:
        """Returns the choices that inputs of the region consist of, or None if it has none.

        Args:
            x: Inputs, ``(batch, *input_shape)``.
        """
        return None

    def assigned(
        self, x: np.ndarray, owner: np.ndarray, chosen: np.ndarray, changes: np.ndarray
    ) -> tuple[Region, np.ndarray]:
        """Returns the parts of the region in which some choices are made, and their centres.

        Args:
            x: Inputs, ``(batch, *input_shape)``.
            owner: The input around which each part lies, ``(n,)``.
            chosen: Assignments, ``(n, slots)``, see ``Options``.
            changes: How many open slots of each family may change, the same for all parts; -1: all.
        """
        return self.select(owner, x), x[owner]

    @property
    def by_coordinate(self) -> bool:
        """True if each coordinate has limits of its own, so that all may move at once."""
        return self.norm == math.inf

    def leap(self, direction: Tensor, gradient: Tensor, points: Tensor, x: Tensor) -> Tensor:
        """The direction of a step, where some coordinates have no way between their values.

        Args:
            direction: Where the step would lead if they had one.
            gradient: What the step is to raise.
            points: Where it begins.
            x: Inputs.
        """
        return direction

    def contains(self, points: Tensor, x: Tensor) -> np.ndarray:
        """Returns whether each point lies in the region: a NumPy array of bool.

        Args:
            points: ``(batch, *input_shape)``, or ``(batch, count, *input_shape)``; no symbolic
                tensor.
            x: Inputs of shape ``(batch, *input_shape)``.

        Returns:
            ``(batch,)``, or ``(batch, count)``.
        """
        self.validate(x)
        x = arguments.as_input(x)
        points = np.asarray(ops.convert_to_numpy(points), np.longdouble)
        arguments.check_points(points, x)
        several = points.ndim > len(x.shape)
        center = np.asarray(ops.convert_to_numpy(x), np.longdouble)
        inside = self._contains(points if several else points[:, None], center)
        return inside if several else inside[:, 0]

    def _contains(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    # Sizes: for schedules.

    def with_eps(self, eps: ArrayLike | Tensor) -> Region:
        """Returns the same region with another size."""
        raise NotImplementedError

    def scaled(self, fraction: ArrayLike | Tensor) -> Region:
        """Returns the region shrunk towards x to a fraction of its size; 0 leaves only x."""
        raise NotImplementedError

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Region:
        return cls(**config)

    def _fields(self) -> dict[str, Any]:
        """What two equal regions share, under the names of the constructor's arguments."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        def freeze(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(freeze(entry) for entry in value)
            if isinstance(value, np.ndarray):
                return value.shape, value.tobytes()
            return id(value) if ops.is_tensor(value) else value

        return (type(self), *(freeze(value) for value in self._fields().values()))

    def __repr__(self) -> str:
        fields = (f"{name}={arguments.show(value)}" for name, value in self._fields().items())
        return f"{type(self).__name__}({', '.join(fields)})"
