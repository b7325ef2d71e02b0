"""The base class of attacks: regions, results, and one program for all sizes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self, TypeAlias

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.attacks import losses
from tfcert.attacks.inputs import Scores
from tfcert.attacks.sought import Sought, sought
from tfcert.entering import Inputs, Regions, enter
from tfcert.programs import programs_of
from tfcert.properties import OutputProperty
from tfcert.regions import Numbers, Region, WordSubstitutions
from tfcert.regions.checking import check_region
from tfcert.regions.product import as_region
from tfcert.types import Tensor

__all__ = ["Attack", "Found", "Search", "better", "positive"]


# Labels, or what points should break.
Wanted: TypeAlias = Tensor | OutputProperty | Sought


class Found(NamedTuple):
    """The worst points of some inputs.

    Attributes:
        places: Which inputs of the batch, ``(inputs,)``.
        points: Of the shape of these inputs; of several inputs in their structure.
        margins: By how much a wrong class is ahead at these points, ``(inputs,)``; at most 0 where
            the class is right. Of a property: minus the least margin that is needed.
    """

    places: np.ndarray
    points: Tensor
    margins: Tensor


class Attack:
    """Base class of attacks, which search a region for points that a model gets wrong.

    Args:
        region: Where to search; of several inputs a dictionary or a list with a region, or
            "fixed", for each.
    """

    # Whether it searches regions that are finite sets, and those only.
    for_finite = False

    def __init__(self, region: Regions):
        region = as_region(region)
        if not isinstance(region, WordSubstitutions):
            check_region(region)
        self._check(region)
        self.region: Any = region

    def _check(self, region: Any) -> None:
        """Raises where the attack cannot search a region of this kind."""
        if region.is_finite != self.for_finite:
            raise ValueError(
                "`region` must suit the attack: use tfcert.attacks.Substitutions for finite "
                f"regions, and PGD, APGD or Square for other regions. Received: region={region!r} "
                f"for {type(self).__name__}."
            )

    def __call__(
        self, model: keras.Model, x: Inputs, y: Wanted, seed: int = 0, batch_size: int = 1024
    ) -> Any:
        """The worst points found.

        Args:
            model: A model with one output, ``(batch, classes)``, or ``(batch, 1)`` for a logit or a
                probability; with a property any numbers. Runs in inference mode.
            x: Inputs, ``(batch, *input_shape)``; a dictionary or a list of them where the model has
                several inputs.
            y: Integer labels, ``(batch,)`` or ``(batch, 1)``, or one-hot ones, or an object of
                ``tfcert.properties``: what the points should break.
            seed: Decides all that is random, together with `batch_size`.
            batch_size: Inputs that are attacked together.

        Returns:
            A tensor of the shape of x; of several inputs arrays in the structure of x.
        """
        return self.worst_points(model, x, y, seed, batch_size).points

    def worst_points(
        self, model: keras.Model, x: Inputs, y: Wanted, seed: int = 0, batch_size: int = 1024
    ) -> Found:
        """The worst points found with their margins; the arguments are those of a call."""
        entry = enter(model, x, self.region)
        attack = self if entry.region is self.region else self.with_region(entry.region)
        found = attack.worst_of_one(entry.model, entry.x, y, seed, batch_size)
        if entry.apart is None:
            return found
        return found._replace(points=entry.apart(found.points, found.places))

    def worst_of_one(
        self, model: keras.Model, x: Tensor, y: Tensor, seed: int, batch_size: int
    ) -> Found:
        """Returns the same as ``worst_points``, for a model with one input."""
        raise NotImplementedError

    def with_region(self, region: Region) -> Self:
        """The same attack elsewhere."""
        self._check(region)
        other = copy.copy(self)
        other.region = region
        return other

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the attack, ready for JSON."""
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self._arguments().items()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the attack with the arguments of a ``get_config``."""
        return cls(**{name: keras.saving.deserialize_keras_object(v) for name, v in config.items()})

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({given})"


class Search(Attack):
    """Base class of attacks that are one compiled program, with attempts from several starts.

    A subclass defines `_attempt`. If the number of attempts is not ``restarts``, it also defines
    `_attempts`.

    Args:
        region: The region to search.
        restarts: Number of attempts.
        early_stop: Whether to stop once all inputs of the batch are misclassified.
    """

    def __init__(self, region: Regions, restarts: int = 1, early_stop: bool = True):
        super().__init__(region)
        self.restarts, self.early_stop = positive("restarts", restarts), early_stop

    def worst_of_one(
        self, model: keras.Model, x: Tensor, y: Wanted, seed: int, batch_size: int
    ) -> Found:
        places, *found = zip(*self.pieces(model, x, y, seed, batch_size), strict=True)
        if len(places) == 1:
            return Found(places[0], *(part[0] for part in found))
        return Found(np.concatenate(places), *(ops.concatenate(part, axis=0) for part in found))

    def pieces(
        self, model: keras.Model, x: Tensor, y: Wanted, seed: int = 0, batch_size: int = 1024
    ) -> Iterator[Found]:
        """The worst points, batch by batch, of a model with one input.

        Each batch is attacked when it is asked for.
        """
        if not isinstance(seed, (int, np.integer)):
            raise ValueError(f"`seed` must be an integer. Received: seed={seed!r}.")
        x, wanted = sought(model, x, y, *self._needs())
        self.region.validate(x)
        size = x.shape[0]
        piece = min(size, positive("batch_size", batch_size))
        numbers = self.region.numbers(x, outward=False)
        for index, start in enumerate(range(0, size, piece)):
            # The last batch is filled up, so that all of them run the same program.
            chosen = np.minimum(np.arange(start, start + piece), size - 1)
            key = ops.convert_to_tensor(np.array([int(seed) & 0x7FFFFFFF, index], "int32"))
            there = wanted.select(chosen)
            arguments = (key, numbers.cut(chosen), ops.take(x, chosen, axis=0), *there.parts)
            points, margins = self._program(model, there, arguments)(*arguments)
            real = min(piece, size - start)
            yield Found(chosen[:real], points[:real], margins[:real])

    def search(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
        """Returns the worst points of a function of points, also inside compiled code.

        Args:
            scores: A function from points to their scores, ``(batch, classes)``.
            x: Inputs.
            y: Integer labels.
            seed: Integer tensor of shape ``(2,)``.
        """
        return self.worst(scores, x, y, seed)[0]

    def worst(self, scores: Scores, x: Tensor, y: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the points of ``search``, and their margins."""
        logits = scores(x)
        attempts = self._attempts(logits.shape[-1])
        state = (ops.convert_to_tensor(0, dtype="int32"), x, losses.margin(y, logits))

        def running(number: Tensor, best: Tensor, best_margin: Tensor) -> Tensor:
            return ops.logical_and(number < attempts, self._goes_on(best_margin))

        def body(number: Tensor, best: Tensor, best_margin: Tensor) -> tuple:
            own = ops.cast(seed, "int32") + ops.stack([0 * number, 7919 * number])
            found = self._attempt(scores, x, y, logits, number, own, best, best_margin)
            return number + 1, *found

        _, best, best_margin = backend.loop(running, body, state)
        return best, best_margin

    def _attempts(self, classes: int) -> int:
        """How many attempts there are for a model with so many classes."""
        return self.restarts

    def _attempt(
        self,
        scores: Scores,
        x: Tensor,
        y: Tensor,
        logits: Tensor,
        number: Tensor,
        seed: Tensor,
        best: Tensor,
        best_margin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One attempt: the worst points so far and their margins, with those met on the way.

        Args:
            scores: As for `search`.
            x: Inputs.
            y: Labels.
            logits: The scores of x.
            number: Which attempt, from 0 on.
            seed: The attempt's own.
            best: The worst points before.
            best_margin: Their margins.
        """
        raise NotImplementedError

    def _needs(self) -> tuple[int, str]:
        """The fewest classes of a model, and what needs them."""
        return 2, "The attack"

    def _goes_on(self, best_margin: Tensor) -> Tensor:
        """Whether some input is still classified correctly, where that decides."""
        return ops.any(best_margin <= 0) if self.early_stop else ops.convert_to_tensor(True)

    def _program(self, model: keras.Model, wanted: Sought, arguments: tuple) -> Callable:
        """The search as one program for all sizes of the region."""
        # The numbers of the region are an argument of the program and no part of its key.
        rest = tuple(value for name, value in vars(self).items() if name != "region")
        wanted = wanted.without_parts()

        def make() -> Callable:
            attack = self.with_region(self.region.template())  # whose attributes nobody changes

            def run(seed: Tensor, numbers: Numbers, x: Tensor, *parts: Tensor) -> tuple:
                found = attack.with_region(attack.region.with_numbers(numbers))
                scores, y = wanted.scores(model, parts)
                return found.worst(scores, x, y, seed)

            return run

        key = (type(self), self.region.signature(), rest, type(wanted), wanted.key)
        return programs_of(model).get(model, "attack", key, make, arguments)


def better(points: Tensor, margin: Tensor, best: Tensor, best_margin: Tensor) -> tuple:
    """The worse point for the model of two, sample by sample; NaN never wins."""
    wins = margin > best_margin
    shape = (-1,) + (1,) * (len(points.shape) - 1)
    return (
        ops.where(ops.reshape(wins, shape), points, best),
        ops.where(wins, margin, best_margin),
    )


def positive(name: str, value: int) -> int:
    """The value, which has to be a positive integer."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)
