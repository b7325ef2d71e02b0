"""Several attacks in turn, each on the inputs that are still classified right."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert.attacks import losses
from tfcert.attacks.apgd import APGD
from tfcert.attacks.attack import Attack, Found, Search, Wanted, positive
from tfcert.attacks.losses import TARGETED_CLASSES
from tfcert.attacks.sought import sought
from tfcert.attacks.square import Square
from tfcert.entering import Regions
from tfcert.types import Tensor

__all__ = ["Ensemble"]

# A batch shrinks to a quarter at a time, so that there are few programs to compile.
_SHRINK = 4

# All wrong classes of ten, which are the likeliest of more.
_TARGETS = 9


@keras.saving.register_keras_serializable(package="tfcert.attacks")
class Ensemble(Attack):
    """Several attacks in turn, each on the inputs that are still classified right.

    The default is the attacks of ``plan``: APGD on cross-entropy, APGD for each of nine wrong
    classes on the margin and on the logits ratio, and the square attack. The combination follows
    AutoAttack, which has FAB in place of the targeted margin. FAB looks for the closest
    misclassified point, not for a point in a given region, and is left out.

    Inputs that are still classified right are gathered into smaller batches. Free places of a batch
    hold copies of these inputs, which start elsewhere. The result is the worst point of all
    attacks, x included. So the ensemble breaks every input that its first attack breaks alone.

    Args:
        region: The region to search.
        attacks: The attacks, in their order; the ensemble replaces their regions. None: the default
            above.
        rounds: Number of times that all attacks run, each time from other starts. None: until the
            time runs out, or every input is broken.
        starts: Number of copies of each input that are attacked together, from different starts.
        time_limit: Seconds after which no new batch starts; a running batch is completed. None: no
            limit. With a limit, the result also depends on the speed of the machine.

    Example:

    >>> import keras, numpy as np, tfcert
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> model.set_weights([np.eye(2, 3), np.zeros(3)])
    >>> x, y = np.array([[0.5, 0.25], [0.9, 0.1]], "float32"), np.array([0, 0])
    >>> attack = tfcert.attacks.Ensemble(tfcert.LpBall(0.25))
    >>> np.asarray(model(attack(model, x, y))).argmax(axis=1).tolist()
    [1, 0]
    >>> [type(part).__name__ for part in attack.plan(classes=3)]
    ['APGD', 'APGD', 'Square']

    Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, section 6
    """

    def __init__(
        self,
        region: Regions,
        attacks: Sequence[Search] | None = None,
        *,
        rounds: int | None = 1,
        starts: int = 1,
        time_limit: float | None = None,
    ):
        super().__init__(region)
        if attacks is not None:
            attacks = tuple(attacks)
            wrong = [attack for attack in attacks if not isinstance(attack, Search)]
            if wrong or not attacks:
                raise ValueError(
                    "`attacks` must hold one or more single attacks of tfcert.attacks. "
                    f"Received: attacks={attacks!r}."
                )
        if rounds is None and time_limit is None:
            raise ValueError(
                "`rounds` must be a number if there is no `time_limit`. Received: rounds=None, "
                "time_limit=None."
            )
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"`time_limit` must be > 0. Received: time_limit={time_limit}.")
        self.attacks = attacks
        self.rounds = None if rounds is None else positive("rounds", rounds)
        self.starts, self.time_limit = positive("starts", starts), time_limit

    def plan(self, classes: int) -> tuple[Search, ...]:
        """Returns the attacks on a model with so many classes, in their order.

        The plan has no targeted logits ratio below four classes, and no square attack for norms
        other than inf and 2.
        """
        if self.attacks is not None:
            return tuple(attack.with_region(self.region) for attack in self.attacks)
        found: list[Search] = [
            APGD(self.region, loss="cross_entropy"),
            APGD(self.region, loss="margin", targets=_TARGETS),
        ]
        if classes >= TARGETED_CLASSES["logits_ratio"]:
            found.append(APGD(self.region, loss="logits_ratio", targets=_TARGETS))
        if self.region.norm in (2, math.inf):
            found.append(Square(self.region))
        return tuple(found)

    def worst_of_one(
        self, model: keras.Model, x: Tensor, y: Wanted, seed: int, batch_size: int
    ) -> Found:
        begin = time.monotonic()
        x, wanted = sought(model, x, y)
        self.region.validate(x)
        most = min(positive("batch_size", batch_size), x.shape[0] * self.starts)
        x = np.asarray(ops.convert_to_numpy(x))
        worst = _Worst(x)
        # Where x itself is misclassified nothing is left to find.
        worst.add(np.arange(len(x)), _Nothing(self.region).worst_points(model, x, wanted, 0, most))
        for attack, own in self._turns(wanted.classes(model, x), seed):
            standing = worst.standing()
            if not len(standing) or self._is_late(begin):
                break
            places, size = self._gathered(standing, most)
            there = attack.with_region(self.region.select(places, x))
            for piece in there.pieces(model, x[places], wanted.select(places), own, size):
                worst.add(places, piece)
                if self._is_late(begin):
                    break
        return Found(np.arange(len(x)), ops.convert_to_tensor(worst.points), worst.margins)

    def _turns(self, classes: int, seed: int) -> Iterator[tuple[Search, int]]:
        """The attacks in all rounds, each with a seed; the first has that of the call."""
        plan = self.plan(classes)
        rounds = itertools.count() if self.rounds is None else range(self.rounds)
        for number in rounds:
            for place, attack in enumerate(plan):
                yield attack, seed + 104_729 * (number * len(plan) + place)

    def _gathered(self, standing: np.ndarray, most: int) -> tuple[np.ndarray, int]:
        """Which inputs are attacked, copies among them, and how many at a time."""
        wanted, size = len(standing) * self.starts, most
        while size >= _SHRINK * wanted:
            size //= _SHRINK
        return np.resize(standing, max(wanted, size)), size

    def _is_late(self, begin: float) -> bool:
        return self.time_limit is not None and time.monotonic() - begin >= self.time_limit


class _Nothing(Search):
    """Stays at x."""

    def worst(self, scores: Any, x: Tensor, y: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        return x, losses.margin(y, scores(x))


class _Worst:
    """The worst point of each input so far, and its margin."""

    def __init__(self, x: np.ndarray):
        self.points, self.margins = x.copy(), np.full(len(x), -np.inf, x.dtype)

    def add(self, places: np.ndarray, found: Found) -> None:
        """Takes what an attack found, where it is worse.

        Args:
            places: Which inputs the attack was given; an input may come several times.
            found: Some of these.
        """
        own = places[found.places]
        points, margins = (np.asarray(ops.convert_to_numpy(part)) for part in found[1:])
        order = np.argsort(margins)  # the worst last, so that it stays
        order = order[margins[order] > self.margins[own[order]]]
        self.points[own[order]], self.margins[own[order]] = points[order], margins[order]

    def standing(self) -> np.ndarray:
        """The inputs that are not misclassified yet."""
        return np.flatnonzero(~(self.margins > 0))
