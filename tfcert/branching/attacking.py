"""Looks for counterexamples of questions by gradient steps, from many starts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert import attacks
from tfcert.branching.rows import Rows
from tfcert.network import network_of
from tfcert.programs import programs_of
from tfcert.properties.questions import Problem
from tfcert.regions import Box, Numbers
from tfcert.types import Tensor

__all__ = ["around", "attack", "drawn", "worst_points"]

# Starting points that are searched from together.
_BATCH = 128


def drawn(
    problems: Sequence[Problem], count: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Random points of all problems' boxes, the middles among them, with their owners.

    Args:
        problems: The problems.
        count: How many points of each: one is the middle, and half of the others are corners.
        seed: Decides the points.
    """
    points = []
    for place, problem in enumerate(problems):
        lower, upper = problem.limits
        generator = np.random.default_rng([seed, place])
        shares = generator.uniform(size=(count, *lower.shape))
        shares[: count // 2] = shares[: count // 2].round()
        shares[0] = 0.5
        points.append(lower + shares * (upper - lower))
    return np.concatenate(points), np.repeat(np.arange(len(problems), dtype=np.int32), count)


def attack(
    model: keras.Model, problems: Sequence[Problem], steps: int, starts: int, seed: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """The worst point of every start, by ``tfcert.attacks.APGD`` on the questions' values.

    Args:
        model: The model.
        problems: What is asked of it; boxes without a number of the model's type are left out.
        steps: Gradient steps.
        starts: Random starting points of each problem.
        seed: Decides them.

    Returns:
        Points, ``(n, *input_shape)``, and the problem that each belongs to.
    """
    dtype = network_of(model).dtype
    lower, upper = (
        np.stack([_inward(problem, dtype)[side] for problem in problems]) for side in (0, 1)
    )
    able = (lower <= upper).reshape(len(problems), -1).all(axis=1)
    owner = np.repeat(np.flatnonzero(able).astype(np.int32), starts)
    if not len(owner):
        return np.zeros((0, *lower.shape[1:]), dtype), owner
    rows = Rows([problem.question for problem in problems], dtype)
    search = attacks.APGD(Box(0.0, 1.0), steps, loss="margin")
    found = []
    for begin in range(0, len(owner), _BATCH):
        chosen = owner[np.minimum(np.arange(begin, begin + _BATCH), len(owner) - 1)]
        low, high = lower[chosen], upper[chosen]
        middle = np.clip(0.5 * (low + high), low, high)
        found.append(
            worst_points(
                *(model, search.with_region(Box(low, high)), middle, rows, chosen),
                (seed, begin),
            )
        )
    return np.concatenate(found)[: len(owner)], owner


def around(
    model: keras.Model,
    problems: Sequence[Problem],
    points: npt.NDArray[Any],
    owner: npt.NDArray[np.int32],
    steps: int,
) -> npt.NDArray[Any]:
    """The worst points that gradient steps find from given ones.

    Args:
        model: The model.
        problems: What is asked.
        points: Points near the problems' boxes, ``(n, *input_shape)``.
        owner: The problem of each.
        steps: Gradient steps.

    Returns:
        As many points; those whose box holds no number of the model's type stay where they are.
    """
    rows = Rows([problem.question for problem in problems], network_of(model).dtype)
    limits = [_inward(problem, network_of(model).dtype) for problem in problems]
    lower, upper = (np.stack([pair[side] for pair in limits]) for side in (0, 1))
    able = np.asarray((lower <= upper).reshape(len(problems), -1).all(axis=1))
    found = points.copy()
    places = np.flatnonzero(able[owner])
    for begin in range(0, len(places), _BATCH):
        chosen = places[np.minimum(np.arange(begin, begin + _BATCH), len(places) - 1)]
        low, high = lower[owner[chosen]], upper[owner[chosen]]
        search = attacks.PGD(
            Box(low, high), steps, step_size=0.1, loss="margin", random_start=False
        )
        start = np.clip(points[chosen], low, high).astype(low.dtype)
        found[chosen] = worst_points(model, search, start, rows, owner[chosen], (0, 0))
    return found


def worst_points(
    model: keras.Model,
    search: attacks.Search,
    x: npt.NDArray[Any],
    rows: Rows,
    owner: npt.NDArray[np.int32],
    seed: tuple[int, int],
) -> npt.NDArray[Any]:
    """Points of the regions around x where the values of questions are least.

    Args:
        model: The model.
        search: The attack, with its region.
        x: Inputs, ``(n, *input_shape)``.
        rows: The questions.
        owner: Which question is asked about each input, ``(n,)``.
        seed: Two numbers that decide random starts.
    """
    region, start = search.region, ops.convert_to_tensor(x)
    parts = (rows.factors, rows.offsets.astype(rows.factors.dtype), rows.groups, rows.places)
    arguments = (
        ops.convert_to_tensor(np.array([seed[0] & 0x7FFFFFFF, seed[1]], "int32")),
        region.numbers(start, outward=False),
        start,
        *(ops.convert_to_tensor(part[owner]) for part in parts),
    )
    options = tuple(value for name, value in vars(search).items() if name != "region")
    program = programs_of(model).get(
        model,
        "attack on questions",
        (type(search), region.signature(), options),
        lambda: _computation(model, search.with_region(region.template())),
        arguments,
    )
    return np.asarray(ops.convert_to_numpy(program(*arguments)))


def _computation(model: keras.Model, search: attacks.Search) -> Callable[..., Tensor]:
    def run(
        seed: Tensor,
        numbers: Numbers,
        x: Tensor,
        factors: Tensor,
        offsets: Tensor,
        groups: Tensor,
        places: Tensor,
    ) -> Tensor:
        def scores(points: Tensor) -> Tensor:
            outputs = model(points, training=False)
            count = outputs.shape[0] // x.shape[0]  # Neighbours of each input.
            rows, shift, members, at = (
                ops.repeat(part, count, axis=0) for part in (factors, offsets, groups, places)
            )
            margins = ops.einsum("brc,bc->br", rows, outputs) + shift
            own = ops.where(members, margins[:, None], -np.inf)
            kept = ops.take_along_axis(ops.sort(own, axis=-1), at[..., None], axis=-1)
            value = ops.min(kept[..., 0], axis=-1)
            return ops.stack([value, ops.zeros_like(value)], axis=-1)

        label = ops.zeros((x.shape[0],), "int32")
        region = search.region.with_numbers(numbers)
        return search.with_region(region).search(scores, x, label, seed)

    return run


def _inward(problem: Problem, dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The largest box with limits of a float type inside of a problem's."""
    lower, upper = problem.limits
    low, high = lower.astype(dtype), upper.astype(dtype)
    low = np.where(low < lower, np.nextafter(low, low.dtype.type(np.inf)), low)
    high = np.where(high > upper, np.nextafter(high, high.dtype.type(-np.inf)), high)
    return low, high
