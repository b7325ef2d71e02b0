"""What must hold of all bounds, as checks that raise an AssertionError where it does not.

The tests of rules, of random graphs and of planted errors call the same checks.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import unittest
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

import tfcert
from tfcert import backend

__all__ = [
    "TOLERANCE",
    "Reached",
    "check_contains",
    "check_exact",
    "check_point",
    "eagerly",
    "flat",
    "needs_float64",
]

# By how much rounding may carry a value over a bound, relative to the largest of both: bounds and
# outputs are sums of some dozen terms, each within a few units of the last place.
TOLERANCE = {"float32": 5e-5, "float64": 1e-9}


if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    _NO_GRADIENT: tuple = (
        LookupError,
        tf.errors.InvalidArgumentError,
        tf.errors.UnimplementedError,
    )
else:
    _NO_GRADIENT = ()


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Runs bounds without compiling them: for nets that are small and bounded once."""
    if keras.backend.backend() == "tensorflow":
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(False)
    else:
        yield  # JAX takes longer to run a small net step by step than to compile it.


def dtypes() -> list[str]:
    """The float types that the backend computes in, the most precise one first."""
    if keras.backend.backend() == "jax":
        import jax

        if not jax.config.read("jax_enable_x64"):
            return ["float32", "float32"]
    return ["float64", "float32"]


def flat(structure: Any) -> list[np.ndarray]:
    """All tensors of a structure as arrays."""
    return [np.asarray(ops.convert_to_numpy(t)) for t in keras.tree.flatten(structure)]


def magnitude(*arrays: np.ndarray) -> float:
    """The largest finite absolute value, at least 1."""
    finite = [np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in arrays]
    return max(1.0, *finite)


class Reached:
    """Inputs of a region and what a model makes of them.

    Half of the inputs are extreme points of the region: all corners of a box in few dimensions,
    and where a short gradient attack on single outputs leads; the others lie anywhere in it.

    Args:
        model: The model.
        x: Inputs, ``(batch, *shape)``.
        region: The region.
        count: Number of random points.
        attacks: How many outputs to attack, in both directions.
        seed: Of the points.
    """

    def __init__(
        self,
        model: keras.Model,
        x: np.ndarray,
        region: Any,
        count: int = 64,
        attacks: int = 4,
        seed: int = 0,
    ):
        self.model, self.x, self.region = model, np.asarray(x), region
        self.attacks = attacks
        self.dtype = str(self.x.dtype)
        self.limits: list[np.ndarray] | None = None
        if type(region) is tfcert.LpBall and region.norm == math.inf:
            self.limits = [end[:, None] for end in flat(region.inner_limits(x))]
        points = [
            self.x[:, None],
            flat(region.sample(x, count // 2, seed))[0],
            flat(region.sample(x, count // 2, seed + 1, corners=True))[0],
            self._corners(count, seed),
        ]
        # TensorFlow has no gradients of some operations, as grouped convolutions, on a CPU.
        with contextlib.suppress(*_NO_GRADIENT):
            points += self._attacked(points[1], seed) if attacks else []
        self.points = np.concatenate(points, axis=1)
        self.outputs = self._forward(self.points)

    def _corners(self, count: int, seed: int) -> np.ndarray:
        shape = self.x.shape[1:]
        size = int(np.prod(shape))
        if size <= 9:
            signs = np.array(list(itertools.product((-1.0, 1.0), repeat=size)))
        else:
            signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(count, size))
        signs = signs.reshape(1, -1, *shape).astype(self.dtype)
        signs = np.broadcast_to(signs, (len(self.x), *signs.shape[1:]))
        return self._minimiser(signs)

    def _minimiser(self, slopes: np.ndarray) -> np.ndarray:
        """Returns the points where linear functions are least.

        Boxes have a shorter way of their own, since searches for points call this often.
        """
        if self.limits is None:
            return flat(self.region.minimiser(slopes, self.x))[0]
        lower, upper = self.limits
        still = np.where(slopes < 0, upper, self.x[:, None])
        return np.where(slopes > 0, lower, still)

    def _forward(self, points: np.ndarray) -> list[np.ndarray]:
        batch, count = points.shape[:2]
        outputs = flat(self.model(points.reshape(-1, *points.shape[2:]), training=False))
        return [value.reshape(batch, count, *value.shape[1:]) for value in outputs]

    def _attacked(self, start: np.ndarray, seed: int) -> list[np.ndarray]:
        """Frank-Wolfe steps on single outputs: towards the best point for the gradient."""
        batch, shape = len(self.x), self.x.shape[1:]

        def scores(t: Any) -> Any:
            parts = keras.tree.flatten(self.model(t, training=False))
            return ops.concatenate([ops.reshape(p, (ops.shape(t)[0], -1)) for p in parts], axis=1)

        outputs = keras.tree.flatten(self.model.outputs)
        size = sum(int(np.prod(output.shape[1:])) for output in outputs)
        chosen = np.random.default_rng(seed).permutation(size)[: self.attacks]
        rows = np.concatenate([np.eye(size)[chosen], -np.eye(size)[chosen]]).astype(self.dtype)
        count = len(rows)
        current = np.resize(start, (batch, count, *shape)) if start.shape[1] < count else start
        current, found = current[:, :count], []
        weights = ops.convert_to_tensor(np.tile(rows, (batch, 1)))
        for step in (1.0, 1.0, 0.5):
            flat_points = ops.convert_to_tensor(current.reshape(-1, *shape))
            (slopes,) = backend.vector_jacobian(scores, [flat_points], weights)
            best = self._minimiser(flat(slopes)[0].reshape(batch, count, *shape))
            found.append(best)
            if step == 1.0:  # The best point itself, which is inside.
                current = best
                continue
            current = current + np.asarray(step, self.dtype) * (best - current)
            current = flat(self.region.project(current, self.x))[0]
            found.append(current)
        return found

    def check(self, bounds: Any, what: str = "bounds") -> None:
        """Raises unless all outputs lie within bounds."""
        lows, highs = flat(bounds.lower), flat(bounds.upper)
        assert len(lows) == len(self.outputs), "as many bounds as outputs"
        for i, (low, high, values) in enumerate(zip(lows, highs, self.outputs, strict=True)):
            assert low.shape == high.shape == values[:, 0].shape, f"{what}: shapes of output {i}"
            assert not np.isnan(low).any() and not np.isnan(high).any(), f"{what}: NaN"
            slack = TOLERANCE[self.dtype] * magnitude(low, high, values)
            below = (low - values.min(axis=1)).max()
            above = (values.max(axis=1) - high).max()
            assert max(below, above) <= slack, (
                f"{what}: output {i} leaves its bounds by {below:.3g} below and {above:.3g} above; "
                f"{slack:.3g} is allowed for rounding"
            )

    def check_margins(self, lower: Any, rows: np.ndarray, what: str = "margins") -> None:
        """Raises unless ``rows . output >= lower``; rows are ``(batch, count, classes)``."""
        (values,) = self.outputs
        margins = np.einsum("bpc,brc->bpr", values, rows.astype(values.dtype))
        low = flat(lower)[0]
        assert low.shape == rows.shape[:2], f"{what}: shape"
        assert not np.isnan(low).any(), f"{what}: NaN"
        slack = TOLERANCE[self.dtype] * magnitude(low, margins)
        below = (low - margins.min(axis=1)).max()
        assert below <= slack, f"{what}: a margin is {below:.3g} below its bound"

    def check_attained(self, bounds: Any, what: str = "bounds") -> None:
        """Raises unless bounds touch the outputs at some of the points: they are exact."""
        for low, high, values in zip(
            flat(bounds.lower), flat(bounds.upper), self.outputs, strict=True
        ):
            slack = TOLERANCE[self.dtype] * magnitude(low, high)
            gap = max((values.min(axis=1) - low).max(), (high - values.max(axis=1)).max())
            assert gap <= slack, f"{what} are {gap:.3g} wider than what is reached"

    def check_points(self, bounds: Any, alone: np.ndarray, what: str = "") -> None:
        """Raises unless the bounds of samples whose region holds them alone are their outputs."""
        ends = [keras.tree.map_structure(lambda t: flat(t)[0][alone], end) for end in bounds]
        # The first of the points is the sample itself.
        found = [value[alone, 0] for value in self.outputs]
        _check_same(tfcert.Bounds(*ends), found, self.dtype, what)


def check_point(model: keras.Model, x: np.ndarray, method: Any, what: str = "") -> None:
    """Raises unless the bounds of the region that holds x alone are the outputs at x."""
    bounds = tfcert.bound(model, x, tfcert.LpBall(0.0), method)
    _check_same(bounds, flat(model(x, training=False)), str(x.dtype), what)


def _check_same(bounds: Any, outputs: list[np.ndarray], dtype: str, what: str) -> None:
    for low, high, value in zip(flat(bounds.lower), flat(bounds.upper), outputs, strict=True):
        slack = TOLERANCE[dtype] * magnitude(value)
        away = max(np.abs(low - value).max(), np.abs(high - value).max())
        assert away <= slack, f"{what}: bounds at eps=0 are {away:.3g} away from the output"


def check_exact(model: keras.Model, x: np.ndarray, region: Any, method: Any) -> None:
    """Raises unless the bounds of an affine model are attained at corners of the region."""
    reached = Reached(model, x, region, attacks=1000)
    bounds = tfcert.bound(model, x, region, method)
    reached.check(bounds)
    reached.check_attained(bounds)


def check_contains(outer: Any, inner: Any, what: str, tolerance: float) -> None:
    """Raises unless the outer bounds contain the inner ones."""
    for low, high, low_in, high_in in zip(
        flat(outer.lower), flat(outer.upper), flat(inner.lower), flat(inner.upper), strict=True
    ):
        slack = tolerance * magnitude(low, high)
        # Infinite on both sides is fine; inf - inf would not compare.
        below = np.where(low_in >= low, 0.0, low - low_in).max()
        above = np.where(high_in <= high, 0.0, high_in - high).max()
        assert max(below, above) <= slack, f"{what}: out by {max(below, above):.3g}"


def needs_float64() -> None:
    """Skips a test where the backend has no float64, which float_safe wants."""
    try:
        backend.check_float64("float_safe")
    except ValueError as reason:
        raise unittest.SkipTest(str(reason)) from reason
