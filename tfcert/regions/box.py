"""A box given by its limits."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.regions import arguments, region, rounding
from tfcert.regions.numbers import Number
from tfcert.types import ArrayLike, Tensor

__all__ = ["Box"]


@keras.saving.register_keras_serializable(package="tfcert")
class Box(region.Region):
    """All x' with ``lower <= x' <= upper``.

    A box has no eps: schedules shrink it about x, which must lie inside.

    Args:
        lower: Lower limits, which broadcast against one input, or of the shape of the batch.
        upper: Upper limits, likewise.

    Example:

    >>> import numpy as np
    >>> from tfcert.regions import Box
    >>> box, x = Box(lower=[0.0, -1.0], upper=[1.0, 1.0]), np.zeros((1, 2), "float32")
    >>> coefficients = np.array([[[2.0, -3.0]]], "float32")
    >>> np.asarray(box.minimise(coefficients, x)).tolist()
    [[-3.0]]
    >>> np.asarray(box.scaled(0.5).interval(x).upper).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, lower: ArrayLike, upper: ArrayLike):
        self.lower, self.upper = _limit("lower", lower), _limit("upper", upper)
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

    def with_eps(self, eps: ArrayLike | Tensor) -> Box:
        """The box itself: it has no eps."""
        return self

    def scaled(self, fraction: ArrayLike | Tensor) -> Box:
        """The box with the limits ``x + fraction * (limits - x)``.

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

    def _check_values(self, x: np.ndarray) -> None:
        lower, upper = arguments.concrete(self.lower), arguments.concrete(self.upper)
        if lower is not None and upper is not None:
            arguments.check_inside("the box", x, lower, upper)

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
        return inside.reshape(*inside.shape[:2], -1).all(axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {name: arguments.plain(value) for name, value in self._fields().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Box:
        config = dict(config)
        fraction = config.pop("fraction", 1.0)
        return cls(**config).scaled(fraction)

    def _fields(self) -> dict[str, Any]:
        fields = {"lower": self.lower, "upper": self.upper}
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
