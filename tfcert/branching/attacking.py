"""Looks for counterexamples of questions by gradient steps, from many starts at once.

A question is broken where a single margin is, and the least margin may never lead there. So most
starts have a goal of their own: one margin, in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert import attacks
from tfcert.attacks.losses import CLASSES
from tfcert.branching.rows import Rows
from tfcert.network import network_of
from tfcert.programs import programs_of
from tfcert.properties.questions import Problem, Question
from tfcert.regions import Box, Numbers
from tfcert.types import Tensor

__all__ = ["Turns", "around", "attack", "drawn", "worst_points"]

# Starting points that are searched from together.
_BATCH = 128
# One of so many starts has the whole question as its goal, and the others single margins of it, up
# to so many.
_WHOLE, _GOALS = 4, 64
# Attacks beside a search begin after so many seconds, and take this share of its time.
_FIRST, _SHARE = 2.0, 0.15
# Steps of these attacks; a square costs a third of a gradient step.
_STEPS, _SQUARES = 30, 300


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
    """The worst point of every start, by ``tfcert.attacks.APGD`` on the questions' margins.

    Args:
        model: The model.
        problems: What is asked of it; boxes without a number of the model's type are left out.
        steps: Gradient steps.
        starts: Random starting points of each problem.
        seed: Decides them.

    Returns:
        Points, ``(n, *input_shape)``, and the problem that each belongs to.
    """
    return _searched(model, problems, _apgd(steps, "margin"), starts, seed, True)


class Turns:
    """Attacks that go on beside a search, one after another, within a share of its time.

    They are those of ``tfcert.attacks.Ensemble``: APGD on margins, on cross-entropy and on the
    logits ratio, and squares. Each turn has new starts.

    Args:
        model: The model.
        problems: What is asked of it.
        seed: Decides the starts.
        expected: Seconds that a turn probably takes, as long as no turn of its kind was timed.
    """

    def __init__(
        self, model: keras.Model, problems: Sequence[Problem], seed: int, expected: float = 2.0
    ):
        self._model, self._problems, self._seed = model, list(problems), seed
        scores = 1 + min(problem.question.groups.size for problem in problems)
        margin, square = _apgd(_STEPS, "margin"), attacks.Square(Box(0.0, 1.0), _SQUARES)
        # Which attack is next, and whether starts have goals of their own: of a single margin,
        # other losses are no more than the margin.
        self.attacks: list[tuple[attacks.Search, bool]] = [(margin, True), (margin, True)]
        if scores > 2:
            self.attacks.append((_apgd(_STEPS, "cross_entropy"), False))
        if scores >= CLASSES["logits_ratio"]:
            self.attacks.append((_apgd(_STEPS, "logits_ratio"), False))
        self.attacks.append((square, True))
        self._expected = dict.fromkeys(range(len(self.attacks)), expected)
        self._turn, self._spent = 0, 0.0

    def is_due(self, elapsed: float, left: float) -> bool:
        """Whether it is time for a turn.

        Args:
            elapsed: Seconds of the search.
            left: Seconds until its deadline.
        """
        place = self._turn % len(self.attacks)
        wanted = elapsed >= _FIRST and self._spent <= _SHARE * elapsed
        return wanted and self._expected[place] < left

    def take(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """The worst points of one turn, and their problems."""
        begin, place = time.monotonic(), self._turn % len(self.attacks)
        self._turn += 1
        starts = max(1, _BATCH // len(self._problems))
        seed = self._seed + 104_729 * self._turn
        search, apart = self.attacks[place]
        found = _searched(self._model, self._problems, search, starts, seed, apart)
        seconds = time.monotonic() - begin
        self._expected[place], self._spent = seconds, self._spent + seconds
        return found


def _apgd(steps: int, loss: Any) -> attacks.APGD:
    return attacks.APGD(Box(0.0, 1.0), steps, loss=loss)


def _goals(question: Question, apart: bool) -> list[Question]:
    """A question, and the parts of it that break it alone, if there are several."""
    goals = [question]
    if not apart:
        return goals
    for group, need in zip(question.groups, question.needs, strict=True):
        members = np.flatnonzero(group)
        for part in members[:, None] if need == len(members) else [members]:
            alone = np.zeros((1, len(group)), bool)
            alone[0, part] = True
            least = need if len(part) == len(members) else 1
            goals.append(Question(question.rows, question.offsets, alone, [least]))
    return goals if 2 < len(goals) <= _GOALS else goals[:1]


def _searched(
    model: keras.Model,
    problems: Sequence[Problem],
    search: attacks.Search,
    starts: int,
    seed: int,
    apart: bool,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """The worst points that a search finds from random starts; see ``attack``.

    Args:
        apart: Whether most starts have a single margin as their goal.
    """
    dtype = network_of(model).dtype
    lower, upper = (
        np.stack([_inward(problem, dtype)[side] for problem in problems]) for side in (0, 1)
    )
    able = (lower <= upper).reshape(len(problems), -1).all(axis=1)
    owner = np.repeat(np.flatnonzero(able).astype(np.int32), starts)
    if not len(owner):
        return np.zeros((0, *lower.shape[1:]), dtype), owner
    goals = [_goals(problem.question, apart) for problem in problems]
    first = np.cumsum([0, *map(len, goals)])
    several = np.array(list(map(len, goals)))[owner] - 1
    number = np.arange(len(owner)) % starts
    single = (number % _WHOLE > 0) & (several > 0)
    part = (number - number // _WHOLE - 1) % np.maximum(several, 1)
    asked = first[owner] + np.where(single, 1 + part, 0)
    rows = Rows([goal for own in goals for goal in own], dtype)
    found = []
    for begin in range(0, len(owner), _BATCH):
        chosen = np.minimum(np.arange(begin, begin + _BATCH), len(owner) - 1)
        low, high = lower[owner[chosen]], upper[owner[chosen]]
        middle = np.clip(0.5 * (low + high), low, high)
        there = search.with_region(Box(low, high))
        found.append(worst_points(model, there, middle, rows, asked[chosen], (seed, begin)))
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
            count = ops.shape(outputs)[0] // ops.shape(x)[0]  # Neighbours of each input.
            rows, shift, members, at = (
                ops.repeat(part, count, axis=0) for part in (factors, offsets, groups, places)
            )
            margins = ops.einsum("brc,bc->br", rows, outputs) + shift
            own = ops.where(members, margins[:, None], -np.inf)
            ordered = ops.sort(own, axis=-1)
            kept = ops.take_along_axis(ordered, at[..., None], axis=-1)
            # The margins that a group needs are its largest ones; others do not count.
            needed = ops.where(own >= kept, own, ordered[..., -1:])
            scores = -ops.reshape(needed, (-1, needed.shape[1] * needed.shape[2]))
            return ops.pad(scores, ((0, 0), (1, 0)))

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
