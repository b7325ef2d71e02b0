"""Finite regions: positions of a sequence that may be replaced by one of their alternatives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.regions import arguments, region, rounding, seeds
from tfcert.regions.numbers import Number
from tfcert.regions.options import Options
from tfcert.types import ArrayLike, Tensor

__all__ = ["Alternatives"]


@keras.saving.register_keras_serializable(package="tfcert")
class Alternatives(region.Region):
    """The region of all points with at most `max_changes` positions of x replaced by alternatives.

    The region is a finite set of points. The minimum of a linear function is exact: it adds the
    `max_changes` largest gains, where the gain of a position comes from its best alternative. The
    interval of a position spans all its alternatives.

    Args:
        choices: Alternatives of each position, ``(batch, positions, alternatives, *features)``, for
            inputs of the shape ``(positions, *features)``. A position with fewer alternatives than
            others repeats an alternative, or contains x.
        max_changes: The largest number of positions that may differ from x.

    Example:

    >>> import numpy as np
    >>> from tfcert.regions import Alternatives
    >>> x = np.zeros((1, 2, 1), "float32")
    >>> region = Alternatives(np.array([[[[1.0], [-2.0]], [[3.0], [-1.0]]]]), max_changes=1)
    >>> np.asarray(region.minimise(np.ones((1, 1, 2, 1), "float32"), x)).tolist()
    [[-2.0]]
    """

    # Counts positions that differ: no interval of a layer is exact by intervals of the input.
    norm = 0.0
    is_finite = True

    def __init__(self, choices: ArrayLike | Tensor, max_changes: int = 1):
        self._choices: Any = choices
        if not ops.is_tensor(choices):
            self._choices = arguments.as_array("choices", choices)
        if len(self._choices.shape) < 3:
            raise ValueError(
                "`choices` must have the shape (batch, positions, alternatives, *features). "
                f"Received: choices of shape {tuple(self._choices.shape)}."
            )
        if isinstance(max_changes, bool) or int(max_changes) != max_changes or max_changes < 0:
            raise ValueError(
                f"`max_changes` must be an integer >= 0. Received: max_changes={max_changes!r}."
            )
        self.max_changes = int(max_changes)

    @property
    def choices(self) -> Any:
        """Alternatives of each position, ``(batch, positions, alternatives, *features)``."""
        return self._choices

    def with_eps(self, eps: ArrayLike | Tensor) -> Alternatives:
        """Returns the region itself, because it has no eps."""
        return self

    def scaled(self, fraction: ArrayLike | Tensor) -> Alternatives:
        """Raises an error: a point between two words is not a word."""
        raise NotImplementedError(
            "A finite region cannot be scaled by a schedule. Train with the region at its full "
            f"size, or with a tfcert.Box. Received: region={self!r}."
        )

    # What the region checks.

    def _check_shapes(self, shape: tuple) -> None:
        known = tuple(self._choices.shape)
        if len(known) != len(shape) + 1 or not arguments.agree((*known[:2], *known[3:]), shape):
            raise ValueError(
                "`choices` must have the shape (batch, positions, alternatives, *features) for x "
                f"of shape {shape}. Received: choices of shape {known}."
            )

    def _check_values(self, x: np.ndarray) -> None:
        del x  # Any x is a point of its own region.

    # Bounds.

    def bind(self, x: Tensor) -> region.BoundRegion:
        x = arguments.as_input(x)
        self._check_shapes(tuple(x.shape))
        lower, upper = self._limits(x, outward=True)
        moves = self._cast(x.dtype) - ops.expand_dims(x, 2)
        return region.BoundRegion(lower, upper, center=x, moves=moves)

    def split(self, bound: region.BoundRegion) -> region.BoundRegion:
        return bound

    def minimise_beside(self, coefficients: Tensor, bound: region.BoundRegion) -> Tensor:
        """Returns ``sum(A x)`` plus the `max_changes` least ``min_a sum(A_p (c_pa - x_p))``.

        Args:
            coefficients: ``(batch, rows, positions, *features)``.
            bound: From ``bind``, with an axis of size 1 for the rows.
        """
        still = region.sum_inputs(coefficients * bound.center)
        if self.max_changes == 0:
            return still
        shape = tuple(coefficients.shape)
        size = math.prod(shape[3:])
        assert bound.moves is not None
        flat = ops.reshape(coefficients, (-1, *shape[1:3], 1, size))
        assert bound.moves is not None
        moves = ops.reshape(bound.moves, (-1, *bound.moves.shape[1:4], size))
        # Products of matrices, as one sample may stand beside the rows of many neurons.
        gains = ops.matmul(flat, ops.swapaxes(moves, -1, -2))
        gains = ops.minimum(ops.min(gains, axis=(-2, -1)), 0.0)
        if self.max_changes < shape[2]:
            gains = -ops.top_k(-gains, self.max_changes, sorted=False)[0]
        return still + ops.sum(gains, axis=-1)

    def _cast(self, dtype: Any) -> Tensor:
        return rounding.cast_up(self._choices, keras.backend.standardize_dtype(dtype))

    def _limits(self, x: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
        del outward  # The points are floats.
        if self.max_changes == 0:
            return x, x
        choices = self._cast(x.dtype)
        lower, upper = ops.min(choices, axis=2), ops.max(choices, axis=2)
        return ops.minimum(lower, x), ops.maximum(upper, x)

    # Points of the region.

    def _changed(self, x: Tensor, points: Tensor, gains: Tensor) -> Tensor:
        """``points`` where the gain is among the largest and positive, else x.

        Args:
            x: ``(batch, positions, *features)``.
            points: ``(batch, count, positions, *features)``.
            gains: ``(batch, count, positions)``.
        """
        rank = ops.argsort(ops.argsort(-gains, axis=-1), axis=-1)
        wins = ops.logical_and(rank < self.max_changes, gains > 0)
        wins = ops.reshape(wins, (*ops.shape(gains), *[1] * (len(x.shape) - 2)))
        return ops.where(wins, points, ops.expand_dims(x, 1))

    def _picked(self, choices: Tensor, which: Tensor) -> Tensor:
        """The alternatives of given numbers, ``(batch, count, positions)``, as they are."""
        hot = ops.one_hot(which, choices.shape[2], dtype=choices.dtype)
        flat = ops.reshape(choices, (*choices.shape[:3], -1))
        found = ops.einsum("bcpa,bpaf->bcpf", hot, flat)
        return ops.reshape(found, (*ops.shape(which), *choices.shape[3:]))

    def minimiser(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """Returns a point of the region with the least ``sum(coefficients * x')``."""
        self.validate(x)
        x = arguments.as_input(x)
        coefficients = ops.cast(ops.convert_to_tensor(coefficients), x.dtype)
        choices = self._cast(x.dtype)
        moves = choices - ops.expand_dims(x, 2)
        shape = (*coefficients.shape[:3], -1)
        gains = -ops.einsum(
            "brpf,bpaf->brpa",
            ops.reshape(coefficients, shape),
            ops.reshape(moves, (*moves.shape[:3], -1)),
        )
        points = self._picked(choices, ops.argmax(gains, axis=-1))
        return self._changed(x, points, ops.max(gains, axis=-1))

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        """Returns the points of the region closest to ``points``, see ``Region``."""
        self.validate(x)
        x = arguments.as_input(x)
        points = ops.cast(ops.convert_to_tensor(points), x.dtype)
        arguments.check_points(points, x)
        shape = ops.shape(points)
        several = points if len(shape) > len(x.shape) else ops.expand_dims(points, 1)
        choices = self._cast(x.dtype)
        features = tuple(range(4, len(x.shape) + 2))
        apart = ops.expand_dims(several, 3) - ops.expand_dims(choices, 1)
        away = ops.sum(ops.square(apart), axis=features)
        still = ops.sum(ops.square(several - ops.expand_dims(x, 1)), axis=[a - 1 for a in features])
        nearest = self._picked(choices, ops.argmin(away, axis=-1))
        return ops.reshape(self._changed(x, nearest, still - ops.min(away, axis=-1)), shape)

    def neighbours(self, points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns all points that differ from given points in at most one position, for attacks.

        Args:
            points: Points of the region, ``(batch, positions, *features)``.
            x: Inputs of the same shape.

        Returns:
            ``(batch, neighbours, positions, *features)``, and which of them the region holds.
        """
        length, rest = x.shape[1], x.shape[2:]
        words = ops.concatenate([self._cast(x.dtype), ops.expand_dims(x, 2)], axis=2)
        several = words.shape[2]
        here = ops.reshape(ops.eye(length, dtype="bool"), (1, length, 1, length, *[1] * len(rest)))
        near = ops.where(here, ops.expand_dims(words, 3), points[:, None, None])
        features = tuple(range(3, 3 + len(rest)))
        differs = ops.any(words != ops.expand_dims(x, 2), axis=features)
        before = ops.cast(ops.any(points != x, axis=[a - 1 for a in features]), "int32")
        changes = ops.sum(before, axis=1, keepdims=True) - before
        changes = ops.expand_dims(changes, 2) + ops.cast(differs, "int32")
        allowed = ops.reshape(changes <= self.max_changes, (-1, length * several))
        return ops.reshape(near, (-1, length * several, length, *rest)), allowed

    splits = True

    def options(self, x: np.ndarray) -> Options:
        """Returns the words that may stand at each position, those of x first."""
        batch, positions = x.shape[:2]
        words, counts = self._words(x)
        size = math.prod(x.shape[2:])
        return Options(
            np.arange(positions * size).reshape(positions, size),
            words.reshape(*words.shape[:3], size).astype(np.float64),
            counts,
            np.zeros((batch, positions), np.int64),
            np.zeros(positions, np.int64),
            np.array([self.max_changes]),
        )

    def assigned(
        self, x: np.ndarray, owner: np.ndarray, chosen: np.ndarray, changes: np.ndarray
    ) -> tuple[region.Region, np.ndarray]:
        words = self._words(x)[0][owner]
        at = np.maximum(chosen, 0).reshape(*chosen.shape, *[1] * (x.ndim - 1))
        centers = np.take_along_axis(words, at, axis=2)
        # A position with a word of its own has no other.
        still = (chosen >= 0).reshape(at.shape)
        choices = np.where(still, centers, words[:, :, 1:] if words.shape[2] > 1 else words)
        most = x.shape[1] if changes[0] < 0 else int(changes[0])
        return Alternatives(choices, most), centers[:, :, 0]

    def _words(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All distinct words of each position, that of x first, and how many there are."""
        choices = np.asarray(ops.convert_to_numpy(self._choices)).astype(x.dtype)
        words = np.concatenate([x[:, :, None], choices], axis=2)
        flat = words.reshape(*words.shape[:3], -1)
        same = (flat[:, :, :, None] == flat[:, :, None]).all(axis=-1)
        again = np.tril(same, -1).any(axis=-1)  # It stands earlier in the list.
        order = np.argsort(again, axis=2, kind="stable")
        flat = np.take_along_axis(flat, order[..., None], axis=2)
        counts = (~again).sum(axis=2)
        spare = np.arange(words.shape[2]) >= counts[..., None]
        flat = np.where(spare[..., None], flat[:, :, :1], flat)
        return flat.reshape(words.shape), counts

    def _sample(self, x: Tensor, count: int, seed: seeds.Seeds, corners: bool) -> Tensor:
        """Random replacements: of a random number of positions, or of all that may be."""
        choices = self._cast(x.dtype)
        shape = (ops.shape(x)[0], count, x.shape[1])
        uniform = keras.random.uniform(shape, dtype=x.dtype, seed=seed[0])
        most = choices.shape[2]
        which = ops.cast(ops.floor(uniform * most), "int32")
        points = self._picked(choices, ops.minimum(which, most - 1))
        gains = keras.random.uniform(shape, 0.1, 1.0, dtype=x.dtype, seed=seed[1])
        if not corners:
            share = keras.random.uniform((*shape[:2], 1), dtype=x.dtype, seed=seed[2])
            gains = ops.where(gains > share, gains, -gains)
        return self._changed(x, points, gains)

    def count(self, x: Tensor) -> int:
        """Returns the number of points in the region of one input, counting repetitions.

        Args:
            x: One input, with a batch axis.
        """
        positions, most = int(x.shape[1]), int(self._choices.shape[2])
        changes = range(min(self.max_changes, positions) + 1)
        return sum(math.comb(positions, k) * most**k for k in changes)

    def points(self, x: Tensor) -> np.ndarray:
        """Returns all points in the region of one input, ``(points, *input_shape)``.

        Args:
            x: One input, with a batch axis.
        """
        x = np.asarray(ops.convert_to_numpy(x))
        choices = np.asarray(ops.convert_to_numpy(self._choices)).astype(x.dtype)[0]
        found = []
        for changes in range(min(self.max_changes, x.shape[1]) + 1):
            for places in itertools.combinations(range(x.shape[1]), changes):
                for which in itertools.product(range(choices.shape[1]), repeat=changes):
                    point = x[0].copy()
                    point[list(places)] = choices[list(places), list(which)]
                    found.append(point)
        return np.stack(found)

    def _contains(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        features = tuple(range(3, points.ndim))
        still = (points == x[:, None]).all(axis=features)
        choices = np.asarray(ops.convert_to_numpy(self._choices), np.longdouble)
        known = np.zeros(still.shape, bool)
        for alternative in range(choices.shape[2]):
            known |= (points == choices[:, None, :, alternative]).all(axis=features)
        changes = (~still).sum(axis=-1)
        return (still | known).all(axis=-1) & (changes <= self.max_changes)

    # Numbers and configuration.

    def _described(self, rank: int) -> dict[str, Number]:
        return {"_choices": Number(self._choices, grows=True, per_sample=True)}

    def get_config(self) -> dict[str, Any]:
        return {name: arguments.plain(value) for name, value in self._fields().items()}

    def _fields(self) -> dict[str, Any]:
        return {"choices": self._choices, "max_changes": self.max_changes}
