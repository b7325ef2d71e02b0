"""A box given by its limits."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.regions import arguments, onehot, region, rounding, seeds
from tfcert.regions.numbers import Number
from tfcert.regions.options import Options
from tfcert.types import ArrayLike, Tensor

__all__ = ["Box"]

# So long that even a small part of the way to another category ends there.
_LEAP = 1e4


@keras.saving.register_keras_serializable(package="tfcert")
class Box(region.Region):
    """The box of all x' with ``lower <= x' <= upper``.

    A box has no eps. Schedules shrink the box towards x, which must lie inside.

    Args:
        lower: Lower limits, which broadcast against one input, or of the shape of the batch.
        upper: Upper limits, likewise.
        groups: One-hot groups of features, for inputs of the shape ``(features,)``: the places of
            the features of each group. Exactly one feature of a group is 1, in x and in every x'.
            The limits of such features are 0 or 1: an upper limit of 1 allows the category. Linear
            functions have their exact minimum over the categories and the box of the other
            features. The region is then no box but one for each choice of categories;
            ``tfcert.verify`` splits it by categories.

    Example:

    >>> import numpy as np
    >>> from tfcert.regions import Box
    >>> box, x = Box(lower=[0.0, -1.0], upper=[1.0, 1.0]), np.zeros((1, 2), "float32")
    >>> coefficients = np.array([[[2.0, -3.0]]], "float32")
    >>> np.asarray(box.minimise(coefficients, x)).tolist()
    [[-3.0]]
    >>> np.asarray(box.scaled(0.5).interval(x).upper).tolist()
    [[0.5, 0.5]]
    >>> colours = Box([0.0, 0.0, 0.0, -1.0], [1.0, 1.0, 1.0, 1.0], groups=[[0, 1, 2]])
    >>> x = np.array([[0.0, 1.0, 0.0, 0.5]], "float32")
    >>> float(colours.minimise(np.array([[[3.0, 5.0, 2.0, 1.0]]], "float32"), x)[0, 0])
    1.0
    """

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        groups: Sequence[Sequence[int]] | None = None,
    ):
        self.lower, self.upper = _limit("lower", lower), _limit("upper", upper)
        self.groups = onehot.Groups(groups or ()).places
        if self.groups:
            self.norm = math.nan  # No box, and no ball.
        self._fraction: Any = 1.0
        low, high = arguments.concrete(self.lower), arguments.concrete(self.upper)
        if low is None or high is None:
            return
        try:
            crossed = low > high
        except ValueError:
            raise ValueError(
                "`lower` and `upper` must have shapes that broadcast against each other. "
                f"Received: lower of shape {low.shape}, upper of shape {high.shape}."
            ) from None
        if crossed.any():
            raise ValueError(
                "`lower` must not exceed `upper`. Received: "
                f"lower={arguments.show(low)}, upper={arguments.show(high)}, with lower > upper in "
                f"{int(crossed.sum())} of {crossed.size} entries."
            )
        if self.groups:
            self._onehot.check_limits(low, high)

    @property
    def _onehot(self) -> onehot.Groups:
        return onehot.Groups(self.groups)

    @property
    def by_coordinate(self) -> bool:
        return True

    def with_eps(self, eps: ArrayLike | Tensor) -> Box:
        """Returns the box itself, because a box has no eps."""
        return self

    def scaled(self, fraction: ArrayLike | Tensor) -> Box:
        """Returns the box with the limits ``x + fraction * (limits - x)``.

        Args:
            fraction: In [0, 1]: a number, a scalar tensor, or a tensor of shape ``(batch,)``.
        """
        fraction = arguments.as_factor("fraction", fraction)
        values = arguments.concrete(fraction)
        if values is not None and not (values <= 1).all():
            raise ValueError(f"`fraction` must lie in [0, 1]. Received: fraction={values}.")
        scaled = copy.copy(self)
        scaled._fraction = arguments.combine(self._fraction, fraction)
        return scaled

    def bind(self, x: Tensor) -> region.BoundRegion:
        """The region around x as tensors; checks shapes only (see `validate`)."""
        if self.groups:
            x = arguments.as_input(x)
            return super().bind(x)._replace(center=x, radius=self._share(x, outward=True))
        if not (self._whole and all(_is_like(limit, x) for limit in (self.lower, self.upper))):
            return super().bind(x)
        # Nothing to round. Kernels of their own that read limits made in the same step would, in a
        # step compiled by XLA, be compiled anew each time.
        self._check_shapes(tuple(x.shape))
        return region.BoundRegion(self.lower, self.upper)

    def _check_shapes(self, shape: tuple) -> None:
        for name in ("lower", "upper"):
            limit = tuple(getattr(self, name).shape)
            if len(limit) == len(shape):  # limits for a batch
                if not arguments.agree(limit, shape):
                    raise ValueError(
                        f"`{name}` must have the shape of x, {shape}, or broadcast against one "
                        f"input of it. Received: {name} of shape {limit}."
                    )
            else:
                arguments.check_broadcast(name, limit, shape[1:])
        arguments.check_per_sample("fraction", self._fraction, shape)
        if self.groups and (len(shape) != 2 or shape[1] is None or shape[1] <= self._onehot.last):
            raise ValueError(
                "`groups` must hold places of the features of inputs (batch, features). "
                f"Received: places up to {self._onehot.last} for x of shape {shape}."
            )

    def _check_values(self, x: np.ndarray) -> None:
        if self.groups:
            kept = np.asarray(ops.convert_to_numpy(self._onehot.admitted(x)))
            if not kept.all():
                raise ValueError(
                    "x must be one-hot in each of `groups`: a single 1 and zeros. "
                    f"Received: other values in input {int(np.argmin(kept))}."
                )
        lower, upper = arguments.concrete(self.lower), arguments.concrete(self.upper)
        if lower is not None and upper is not None:
            arguments.check_inside("the box", x, lower, upper)

    def admits(self, x: Tensor) -> Tensor:
        found = super().admits(x)
        return ops.logical_and(found, self._onehot.admitted(x)) if self.groups else found

    def _admitted(self, dtype: str) -> list[tuple[Any, Any]]:
        return [arguments.nearest((self.lower, self.upper), dtype)]

    def _limits(self, x: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
        # The upper end of x is the mirrored lower end of -x.
        upper = self._lower_limit(-x, -self.upper, outward)
        return self._lower_limit(x, self.lower, outward), -upper

    def _lower_limit(self, x: Tensor, limit: Any, outward: bool) -> Tensor:
        dtype = keras.backend.standardize_dtype(x.dtype)
        cast = rounding.cast_down if outward else rounding.cast_up
        limit = ops.broadcast_to(cast(limit, dtype), ops.shape(x))
        if not outward:
            limit = ops.minimum(limit, x)
        if self._whole:
            return limit
        fraction = arguments.per_sample(self._fraction, x, outward)
        if outward:
            reach = rounding.multiply_up(rounding.add_up(x, -limit), fraction)
            shrunk = ops.maximum(rounding.add_down(x, -reach), limit)
        else:
            reach = rounding.multiply_down(rounding.add_down(x, -limit), fraction)
            shrunk = ops.minimum(ops.maximum(rounding.add_up(x, -reach), limit), x)
        return ops.where(fraction == 0, x, ops.where(fraction == 1, limit, shrunk))

    # One-hot groups, beside the box of the other features.

    def _share(self, x: Tensor, outward: bool) -> Tensor:
        """How far groups move, of the shape of x."""
        share = arguments.per_sample(self._fraction, x, outward)
        return ops.broadcast_to(ops.cast(share, x.dtype), ops.shape(x))

    def minimise_beside(self, coefficients: Tensor, bound: region.BoundRegion) -> Tensor:
        """Returns the exact minimum over the categories of groups, as described in ``Region``."""
        if not self.groups:
            return super().minimise_beside(coefficients, bound)
        groups = self._onehot
        assert bound.center is not None and bound.radius is not None
        least = groups.minimum(coefficients, bound.upper, bound.center, bound.radius)
        return super().minimise_beside(groups.without(coefficients), bound) + least

    def _kept(self, points: Tensor, worth: Tensor, x: Tensor) -> Tensor:
        """Points with the categories that are worth most in their groups."""
        own = (self._limits(x, outward=False)[1], x, self._share(x, outward=False))
        return self._onehot.chosen(points, worth, *(arguments.align(t, points) for t in own))

    def minimiser(self, coefficients: Tensor, x: Tensor) -> Tensor:
        points = super().minimiser(coefficients, x)
        if not self.groups:
            return points
        x = arguments.as_input(x)
        coefficients = ops.cast(ops.convert_to_tensor(coefficients), x.dtype)
        return self._kept(points, self._onehot.gains(-coefficients, x[:, None]), x)

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        found = super().project(points, x)
        if not self.groups:
            return found
        x = arguments.as_input(x)
        points = ops.cast(ops.convert_to_tensor(points), x.dtype)
        share = arguments.align(self._share(x, outward=False), points)
        # By how much x is farther away than another category.
        worth = self._onehot.gains(points, arguments.align(x, points)) + 1.0 - share
        return self._kept(found, worth, x)

    def _sample(self, x: Tensor, count: int, seed: seeds.Seeds, corners: bool) -> Tensor:
        points = super()._sample(x, count, seed, corners)
        if not self.groups:
            return points
        worth = keras.random.uniform(ops.shape(points), dtype=x.dtype, seed=seed[1])
        return self._kept(points, self._onehot.gains(worth, x[:, None]), x)

    @property
    def splits(self) -> bool:
        return True

    def options(self, x: np.ndarray) -> Options | None:
        """Returns the categories of each group."""
        if not self.groups:
            return None
        upper = np.broadcast_to(np.asarray(ops.convert_to_numpy(self.upper)), x.shape)
        return self._onehot.options(x, upper)

    def assigned(
        self, x: np.ndarray, owner: np.ndarray, chosen: np.ndarray, changes: np.ndarray
    ) -> tuple[region.Region, np.ndarray]:
        """Returns boxes whose groups are one category where that is chosen."""
        if not self.groups:
            return super().assigned(x, owner, chosen, changes)
        lower, upper = (
            np.array(np.broadcast_to(np.asarray(ops.convert_to_numpy(limit)), x.shape)[owner])
            for limit in (self.lower, self.upper)
        )
        found = self.options(x)
        assert found is not None
        parts = [*map(np.array, (lower, upper, x[owner]))]
        for slot, places in enumerate(found.places):
            made, group = np.flatnonzero(chosen[:, slot] >= 0), places[places >= 0]
            hot = found.values[owner[made], slot, chosen[made, slot], : len(group)]
            for part in parts:
                part[made[:, None], group] = hot
        return Box(parts[0], parts[1], self.groups), parts[2]

    def boxes(self, upper: np.ndarray) -> list[np.ndarray]:
        """One box for each choice of categories."""
        return self._onehot.assignments(upper) if self.groups else super().boxes(upper)

    def leap(self, direction: Tensor, gradient: Tensor, points: Tensor, x: Tensor) -> Tensor:
        """A direction that takes groups to the category which gains most, however short the step.

        Args:
            direction: Of the other features.
            gradient: At the points.
            points: ``(batch, features)``.
            x: Inputs.
        """
        if not self.groups:
            return direction
        still = self._kept(points, self._onehot.gains(gradient, x), x)
        here = self._onehot.without(ops.ones_like(points)) > 0
        return ops.where(here, direction, _LEAP * (still - points))

    def _described(self, rank: int) -> dict[str, Number]:
        found = {
            name: Number(limit, grows=name == "upper", per_sample=len(limit.shape) == rank)
            for name, limit in (("lower", self.lower), ("upper", self.upper))
        }
        if not self._whole:
            own = len(getattr(self._fraction, "shape", ())) == 1
            found["_fraction"] = Number(self._fraction, grows=True, per_sample=own)
        return found

    @property
    def _whole(self) -> bool:
        """Whether the box was not shrunk."""
        return isinstance(self._fraction, float) and self._fraction == 1.0

    def _contains(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        def end(limit: Any) -> np.ndarray:
            limit = np.asarray(ops.convert_to_numpy(limit), np.longdouble)
            fraction = np.asarray(ops.convert_to_numpy(self._fraction), np.longdouble)
            fraction = fraction.reshape(fraction.shape + (1,) * (x.ndim - fraction.ndim))
            return np.where(fraction == 1, limit, x + fraction * (limit - x))[:, None]

        center = x[:, None]
        lower, upper = np.minimum(end(self.lower), center), np.maximum(end(self.upper), center)
        inside = (lower <= points) & (points <= upper)
        inside = inside.reshape(*inside.shape[:2], -1).all(axis=-1)
        if not self.groups:
            return inside
        share = np.asarray(ops.convert_to_numpy(self._fraction), np.longdouble).reshape(-1, 1, 1)
        return inside & self._onehot.contain(points, upper, center, share)

    def get_config(self) -> dict[str, Any]:
        return {name: arguments.plain(value) for name, value in self._fields().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Box:
        config = dict(config)
        fraction = config.pop("fraction", 1.0)
        return cls(**config).scaled(fraction)

    def _fields(self) -> dict[str, Any]:
        fields = {"lower": self.lower, "upper": self.upper}
        if self.groups:
            fields["groups"] = self.groups
        return fields if self._whole else {**fields, "fraction": self._fraction}


def _is_like(limit: Any, x: Tensor) -> bool:
    """Whether a limit is a tensor of the type and, as far as these are known, the sizes of x."""
    if not (ops.is_tensor(limit) and ops.is_tensor(x)):
        return False
    return limit.dtype == x.dtype and tuple(limit.shape) == tuple(x.shape)


def _limit(name: str, value: Any) -> Any:
    # A tensor stays one, for limits that are computed inside a compiled function.
    if isinstance(value, keras.Variable):
        value = ops.convert_to_tensor(value)
    if ops.is_tensor(value):
        values = arguments.concrete(value)
        if values is None:
            return value
    else:
        value = values = arguments.as_array(name, value)
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite. Received: {name}={arguments.show(values)}.")
    return value
