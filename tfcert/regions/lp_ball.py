"""Balls of the p-norms."""

from __future__ import annotations

import copy
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.regions import arguments, geometry, region, rounding, seeds
from tfcert.regions.numbers import Number
from tfcert.types import ArrayLike, Norm, Tensor

__all__ = ["LpBall"]


@keras.saving.register_keras_serializable(package="tfcert")
class LpBall(region.Region):
    """The ball of all x' with ``||(x' - x) / eps||_p <= 1``, cut to the clip range.

    If eps is one number, the ball is ``||x' - x||_p <= eps``. An entry of eps that is 0 fixes this
    entry of x. With a clip range also ``low <= x' <= high``. For p = inf the region is a box, and
    all its functions are exact. For a finite p with a clip range, `minimise` returns the larger of
    two minima, over the ball and over the box. This is sound, but not the exact minimum over their
    intersection.

    The region has exactly the size that the caller wrote. No float32 equals 2/255, so a float32
    interval reaches a little further than 2/255, and a float32 attack a little less far. A tensor
    passed to `with_eps` counts with its own value.

    Args:
        eps: The radius: a number, or an array that broadcasts to one input (without the batch
            axis), such as one number per channel. For norm "inf", eps is at most the range of
            `clip`.
        norm: p: "inf", 2, 1 or any other number from 1 on; "linf" and "l2" work too.
        clip: The range of valid inputs, ``(low, high)``: numbers or arrays that broadcast to one
            input. An x outside the range raises an error.

    Example:

    >>> import numpy as np
    >>> from tfcert.regions import LpBall
    >>> x = np.array([[0.125, 0.5]], "float32")
    >>> bounds = LpBall(0.25, clip=(0.0, 1.0)).interval(x)
    >>> np.asarray(bounds.lower).tolist(), np.asarray(bounds.upper).tolist()
    ([[0.0, 0.25]], [[0.375, 0.75]])
    >>> coefficients = np.array([[[4.0, 3.0]]], "float32")
    >>> np.asarray(LpBall(0.5, norm=2).minimise(coefficients, x)).tolist()
    [[-0.5]]
    """

    def __init__(
        self,
        eps: ArrayLike,
        norm: Norm = "inf",
        clip: tuple[ArrayLike, ArrayLike] | None = None,
    ):
        if ops.is_tensor(eps) and arguments.concrete(eps) is None:
            raise ValueError(
                "`eps` must be a number or an array. Received: a symbolic tensor. Create the "
                "ball at its full size, and pass changing sizes to `with_eps` or `scaled`."
            )
        self._eps: Any = arguments.as_array("eps", eps)
        if not (np.isfinite(self._eps) & (self._eps >= 0)).all():
            raise ValueError(
                f"`eps` must be finite and at least 0. Received: eps={arguments.show(self._eps)}."
            )
        self.norm = arguments.as_norm(norm)
        limits: tuple[Any, Any] = arguments.as_clip(clip) or (None, None)
        self._low, self._high = limits
        self._check_scale(self._eps)
        # The region's eps is the exact product of `_eps` and this: 1.0, one number per sample, or
        # a tensor that a schedule computes.
        self._factor: Any = 1.0
        self._round = self._is_round()

    def _is_round(self) -> bool:
        """Whether the ball is of norm 1 and has one eps: `project` then finds the closest point."""
        return self.norm == 1 and bool((self._eps == self._eps.flat[:1]).all())

    @property
    def clip(self) -> Any:
        """The range of valid inputs, ``(low, high)``, or None."""
        return None if self._low is None else (self._low, self._high)

    @property
    def eps(self) -> float | Tensor:
        """The radius: a float, an array, or a tensor if a schedule sets it."""
        one = isinstance(self._eps, np.ndarray) and self._eps.ndim == 0
        eps = float(self._eps) if one else self._eps
        if isinstance(self._factor, float):
            return eps
        if isinstance(eps, float) and eps == 1.0:
            return self._factor
        if not ops.is_tensor(self._factor):
            return self._factor.reshape((-1,) + (1,) * self._eps.ndim) * eps
        factor = self._factor
        if len(factor.shape) == 1:
            factor = ops.reshape(factor, (-1,) + (1,) * self._eps.ndim)
        return factor * ops.cast(eps, factor.dtype)

    # Sizes.

    def with_eps(self, eps: ArrayLike | Tensor) -> LpBall:
        """Returns the same ball with another radius.

        Args:
            eps: The new radius: a number, a scalar tensor, or one number per sample of the batch.
                If the ball has an array, this is the new value of the largest entry; the other
                entries keep their proportion.
        """
        eps = arguments.as_factor("eps", eps)
        largest = self._eps.max(initial=0.0)
        if self._eps.ndim and largest == 0:
            raise ValueError("`with_eps` needs a ball with an eps above 0. Received: eps=0.")
        # The largest component is exactly 1, and becomes the very number that was asked for.
        proportion = np.ones_like(self._eps) if largest == 0 else self._eps / largest
        if isinstance(eps, float):
            self._check_scale(proportion * eps)
            return self._resized(proportion * eps, 1.0)
        return self._resized(proportion, eps)

    def scaled(self, fraction: ArrayLike | Tensor) -> LpBall:
        """Returns the ball with the radius ``fraction * eps``.

        Args:
            fraction: At least 0: a number, a scalar tensor, or one number per sample.
        """
        fraction = arguments.as_factor("fraction", fraction)
        if isinstance(fraction, float):
            return self._resized(self._eps * fraction, self._factor)
        return self._resized(self._eps, arguments.combine(self._factor, fraction))

    def _resized(self, eps: np.ndarray, factor: Any) -> LpBall:
        resized = copy.copy(self)
        resized._eps, resized._factor = np.asarray(eps), factor
        resized._round = resized._is_round()
        return resized

    def _described(self, rank: int) -> dict[str, Number]:
        found = {"_eps": Number(self._eps, grows=True)}
        if not isinstance(self._factor, float):
            own = len(self._factor.shape) == 1
            found["_factor"] = Number(self._factor, grows=True, per_sample=own)
        if self.clip is not None:
            found["_low"] = Number(self._low, grows=False)
            found["_high"] = Number(self._high, grows=True)
        return found

    def _size(self, x: Tensor, outward: bool) -> Tensor:
        """eps in the shape of x: at least the real one for bounds, at most for attacks."""
        cast = rounding.cast_up if outward else rounding.cast_down
        size = cast(self._eps, keras.backend.standardize_dtype(x.dtype))
        if not isinstance(self._factor, float):
            multiply = rounding.multiply_up if outward else rounding.multiply_down
            size = multiply(size, arguments.per_sample(self._factor, x, outward))
        return ops.broadcast_to(size, ops.shape(x))

    # Checks.

    def _check_scale(self, eps: np.ndarray) -> None:
        if self.clip is not None and self.norm == math.inf:
            arguments.check_scale(np.asarray(eps), self.clip)

    def _check_shapes(self, shape: tuple) -> None:
        arguments.check_broadcast("eps", self._eps.shape, shape[1:])
        arguments.check_per_sample("eps", self._factor, shape)
        for limit in self.clip or ():
            arguments.check_broadcast("clip", limit.shape, shape[1:])

    def _check_values(self, x: np.ndarray) -> None:
        if self.clip is not None:
            name = f"clip=({', '.join(arguments.show(limit) for limit in self.clip)})"
            arguments.check_inside(name, x, *self.clip)

    def _admitted(self, dtype: str) -> list[tuple[Any, Any]]:
        return [] if self.clip is None else [arguments.nearest(self.clip, dtype)]

    # Bounds.

    def bind(self, x: Tensor) -> region.BoundRegion:
        bound = super().bind(x)
        if self.norm == math.inf:
            return bound
        x = arguments.as_input(x)
        return bound._replace(center=x, radius=self._size(x, outward=True))

    def spread(self, x: Tensor) -> Tensor | None:
        kind = type(self)  # A subclass may have limits of its own.
        plain = kind._limits is LpBall._limits and kind.bind is LpBall.bind
        if not plain or self.clip is not None or self.varies(x):
            return None
        return self._size(x[:1], outward=True)

    def minimise_beside(self, coefficients: Tensor, bound: region.BoundRegion) -> Tensor:
        """Returns the minimum of ``sum(coefficients * x')``, see ``minimise_bound``.

        For finite p it is ``sum(A x) - ||A eps||_q`` with the dual norm, 1/p + 1/q = 1.
        """
        if self.norm == math.inf:
            return self._minimise_box(coefficients, bound)
        reach = geometry.dual_norm(coefficients * bound.radius, self.norm)
        ball = region.sum_inputs(coefficients * bound.center) - reach
        if self.clip is None:
            return ball
        return ops.maximum(ball, self._minimise_box(coefficients, bound))

    def _limits(self, x: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
        size = self._size(x, outward)
        if outward:
            lower, upper = rounding.add_down(x, -size), rounding.add_up(x, size)
        else:
            lower = ops.minimum(rounding.add_up(x, -size), x)
            upper = ops.maximum(rounding.add_down(x, size), x)
        if self.clip is not None:
            low, high = self._clip_limits(self.clip, x, outward)
            lower, upper = ops.maximum(lower, low), ops.minimum(upper, high)
        # x itself, bit by bit: arithmetic might flush a denormal to zero.
        return ops.where(size == 0, x, lower), ops.where(size == 0, x, upper)

    def _clip_limits(self, clip: tuple, x: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
        dtype = keras.backend.standardize_dtype(x.dtype)
        low, high = clip
        if outward:
            return rounding.cast_down(low, dtype), rounding.cast_up(high, dtype)
        # x may be the limit's nearest float, beyond the limit.
        low, high = rounding.cast_up(low, dtype), rounding.cast_down(high, dtype)
        return ops.minimum(low, x), ops.maximum(high, x)

    # Attacks.

    def reach(self, x: Tensor) -> Tensor:
        return self._size(arguments.as_input(x), outward=False)

    def minimiser(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """Returns a point of the region with the least ``sum(coefficients * x')``.

        Coordinates with coefficient 0 keep their value in x. For finite p with a clip range, the
        point is the ball's minimiser, clipped.
        """
        if self.norm == math.inf:
            return super().minimiser(coefficients, x)
        self.validate(x)
        x = arguments.as_input(x)
        coefficients = ops.cast(ops.convert_to_tensor(coefficients), x.dtype)
        size = ops.expand_dims(self._size(x, outward=False), 1)
        weights = geometry.flatten(ops.abs(coefficients) * size)
        if self.norm == 1:
            unit = geometry.vertex(weights)
        else:
            # Hoelder's inequality holds with equality for |A eps|^(q-1), q - 1 = 1 / (p-1).
            largest = ops.max(weights, axis=-1, keepdims=True, initial=0.0)
            unit = (weights / geometry.nonzero(largest)) ** (1 / (self.norm - 1))
            unit = unit / geometry.nonzero(self._norm(unit))
        moves = -ops.sign(coefficients) * ops.reshape(unit, ops.shape(coefficients)) * size
        return self._move(moves, x)

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        """Returns points of the region close to ``points``. Points inside stay.

        They are the closest points for norm inf, and for norms 2 and 1 with one eps for all
        coordinates and no clip range. Otherwise points are pulled straight towards x, and then
        clipped.

        Args:
            points: ``(batch, *input_shape)``, or ``(batch, count, *input_shape)``.
            x: Inputs of shape ``(batch, *input_shape)``.

        Returns:
            A tensor of the shape of ``points``.
        """
        if self.norm == math.inf:
            return super().project(points, x)
        self.validate(x)
        x = arguments.as_input(x)
        points = ops.cast(ops.convert_to_tensor(points), x.dtype)
        arguments.check_points(points, x)
        shape = ops.shape(points)
        points = points if len(shape) > len(x.shape) else ops.expand_dims(points, 1)
        center = ops.expand_dims(x, 1)
        size = ops.expand_dims(self._size(x, outward=False), 1)
        points = ops.where(size > 0, points, center)
        moves = points - center
        inside = self._norm(geometry.flatten(moves / geometry.nonzero(size))) <= 1 - self._margin(x)
        inside = ops.reshape(inside, (*ops.shape(points)[:2],) + (1,) * (len(x.shape) - 1))
        if self._round:
            pulled = geometry.soft_threshold(
                geometry.flatten(moves), geometry.flatten(size)[..., :1]
            )
            moves = ops.reshape(pulled, ops.shape(points))
        pulled = self._move(moves, x)
        return ops.reshape(self._clipped(ops.where(inside, points, pulled), x), shape)

    def _sample(self, x: Tensor, count: int, seed: seeds.Seeds, corners: bool) -> Tensor:
        if self.norm == math.inf:
            return super()._sample(x, count, seed, corners)
        shape = (ops.shape(x)[0], count, *ops.shape(x)[1:])
        unit = geometry.flatten(self._generalised_normal(shape, x.dtype, seed))
        if corners and self.norm == 1:
            unit = ops.sign(unit) * geometry.vertex(ops.abs(unit))
        else:
            unit = unit / geometry.nonzero(self._norm(unit))
        if not corners:
            volume = keras.random.uniform((*shape[:2], 1), dtype=x.dtype, seed=seed[2])
            unit = unit * volume ** (1 / unit.shape[-1])
        size = ops.expand_dims(self._size(x, outward=False), 1)
        return self._move(ops.reshape(unit, shape) * size, x)

    def _generalised_normal(self, shape: tuple, dtype: str, seed: seeds.Seeds) -> Tensor:
        """Independent draws of density exp(-|t|^p), whose direction is uniform on the sphere.

        |t|^p is Gamma(1/p) distributed: Gamma(1 + 1/p) by Marsaglia and Tsang's cube of a normal
        number, times U^p. Their rejection, of a few per cent, is left out, since XLA has no gamma
        sampler: norms other than 1 and 2 are only nearly uniform.
        """
        uniform = keras.random.uniform(shape, -1.0, 1.0, dtype=dtype, seed=seed[0])
        if self.norm == 1:
            tiny = float(np.finfo(keras.backend.standardize_dtype(dtype)).tiny)
            return -ops.sign(uniform) * ops.log(ops.maximum(ops.abs(uniform), tiny))
        normal = keras.random.normal(shape, dtype=dtype, seed=seed[1])
        if self.norm == 2:
            return normal
        scale = 2 / 3 + 1 / self.norm
        cube = ops.maximum(1.0 + normal / math.sqrt(9 * scale), 0.0) ** 3
        return uniform * (scale * cube) ** (1 / self.norm)

    def _move(self, moves: Tensor, x: Tensor) -> Tensor:
        """``x + moves``, inside: shortened where moves are too long, and rounded towards x.

        Moves are 0 where eps is.
        """
        size = ops.expand_dims(self._size(x, outward=False), 1)
        x_several = ops.broadcast_to(ops.expand_dims(x, 1), ops.shape(moves))
        length = self._norm(geometry.flatten(moves / geometry.nonzero(size)))
        margin = self._margin(x)
        # Shortened by twice the margin, so that a point that was moved inside is found inside.
        factor = ops.where(ops.isfinite(length), (1 - 2 * margin) / geometry.nonzero(length), 0.0)
        factor = ops.where(length <= 1 - margin, 1.0, factor)
        moves = moves * ops.reshape(factor, (*ops.shape(moves)[:2],) + (1,) * (len(x.shape) - 1))
        side = ops.where(moves < 0, -ops.ones_like(moves), ops.ones_like(moves))
        moved = rounding.add_down(side * x_several, ops.abs(moves))
        moved = side * ops.maximum(moved, side * x_several)
        return self._clipped(ops.where(moves == 0, x_several, moved), x)

    def _clipped(self, points: Tensor, x: Tensor) -> Tensor:
        # Towards x in every coordinate, so that points in the ball stay in it.
        if self.clip is None:
            return points
        low, high = self._clip_limits(self.clip, x, outward=False)
        low, high = ops.expand_dims(low, 1), ops.expand_dims(high, 1)
        return ops.where(points < low, low, ops.where(points > high, high, points))

    def _norm(self, values: Tensor) -> Tensor:
        """The p-norm over the last axis, which stays; accurate within `_margin`."""
        values = ops.abs(values)
        largest = ops.max(values, axis=-1, keepdims=True, initial=0.0)
        powers = (values / geometry.nonzero(largest)) ** self.norm
        return largest * geometry.pairwise_sum(powers) ** (1 / self.norm)

    def _margin(self, x: Tensor) -> float:
        """More than the relative error of `_norm`: the depth of its sum, and powers."""
        unit = float(np.finfo(keras.backend.standardize_dtype(x.dtype)).eps)
        depth = math.ceil(math.log2(max(geometry.input_size(x.shape[1:]), 1)))
        return (depth + (16 if self.norm in (1, 2) else 32)) * unit

    def _contains(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        x = x[:, None]
        factor = np.asarray(ops.convert_to_numpy(self._factor), np.longdouble)
        factor = factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim))
        size = np.broadcast_to(self._eps * factor, x.shape)
        moves, slack = rounding.difference(points, x)
        inside = np.ones(points.shape, bool)
        if self.clip is not None:
            inside &= (points >= np.minimum(self.clip[0], x)) & (
                points <= np.maximum(self.clip[1], x)
            )
        too_far = (np.abs(moves) > size) | ((np.abs(moves) == size) & (slack * moves > 0))
        inside = (inside & ~too_far).reshape(*inside.shape[:2], -1).all(axis=-1)
        if self.norm == math.inf:
            return inside
        ratio = np.abs(moves) / np.where(size > 0, size, 1)  # at most 1 where still inside
        ratio = np.where(inside[(...,) + (None,) * (x.ndim - 2)], ratio, 0)
        total = (ratio**self.norm).reshape(*inside.shape, -1).sum(axis=-1)
        return inside & (total <= 1)

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        config = {name: arguments.plain(value) for name, value in self._fields().items()}
        if self.clip is not None:
            config["clip"] = [limit.tolist() for limit in self.clip]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LpBall:
        config = dict(config)
        factor = config.pop("factor", 1.0)
        ball = cls(**config)
        return ball if factor == 1.0 else ball.scaled(np.array(factor))

    def _fields(self) -> dict[str, Any]:
        eps = float(self._eps) if self._eps.ndim == 0 else self._eps
        clip = self.clip and tuple(float(c) if c.ndim == 0 else c for c in self.clip)
        norm = "inf" if self.norm == math.inf else self.norm
        fields = {"eps": eps, "norm": norm, "clip": clip}
        return fields if isinstance(self._factor, float) else {**fields, "factor": self._factor}
