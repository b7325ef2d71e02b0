"""The findings on every input so far, and the problem behind them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from tfcert.bounds import methods
from tfcert.certification.goals import Goal
from tfcert.certification.subject import Subject
from tfcert.regions import Region

__all__ = ["Findings", "Problem"]


@dataclasses.dataclass
class Findings:
    """One entry per input.

    Attributes:
        predict: The model's class; -1 where it has not run.
        verdict: Text; empty while the input is open.
        margin: The largest lower bound of the margin so far; for misclassified and falsified
            inputs the margin that the model has there.
        method: What gave the margin.
        seconds: Time spent, an equal share of each batch.
        radius: The largest verified eps.
        points: Counterexamples.
    """

    predict: np.ndarray
    verdict: np.ndarray
    margin: np.ndarray
    method: np.ndarray
    seconds: np.ndarray
    radius: np.ndarray
    points: dict[int, np.ndarray]

    @classmethod
    def none(cls, size: int) -> Findings:
        """Nothing is known of any input."""
        return cls(
            predict=np.full(size, -1),
            verdict=np.full(size, "", object),
            margin=np.full(size, -np.inf),
            method=np.full(size, "none", object),
            seconds=np.zeros(size),
            radius=np.zeros(size),
            points={},
        )

    def counts(self) -> dict[str, int]:
        """Returns the numbers of verified and falsified inputs, for the progress."""
        return {name: int(np.sum(self.verdict == name)) for name in ("verified", "falsified")}

    def decide(self, places: np.ndarray, verdict: str, margin: np.ndarray, method: str) -> None:
        """Notes the verdict on some inputs."""
        self.verdict[places], self.margin[places], self.method[places] = verdict, margin, method


@dataclasses.dataclass
class Problem:
    """Inputs, what is asked about each, the region around it, and the model."""

    subject: Subject
    x: np.ndarray
    goal: Goal
    region: Region
    index: np.ndarray

    @property
    def y(self) -> np.ndarray:
        """The class that the property of each input is about; -1 for none."""
        return self.goal.labels

    def filled(self, places: np.ndarray, size: int) -> np.ndarray:
        """A whole batch of places, or of their numbers; the last one stands for the missing."""
        return np.concatenate([places, np.full(size - len(places), places[-1])])

    def region_of(self, places: np.ndarray, eps: np.ndarray | None = None) -> Region:
        """The region of some inputs, at sizes of their own where they are given."""
        region = self.region.select(places, self.x[:1])
        return region if eps is None else region.with_eps(eps)

    def eps_of(self, places: np.ndarray) -> np.ndarray:
        """The size of the ball around each of some inputs, rounded down where it was scaled."""
        ball: Any = self.region_of(places)
        eps = np.asarray(ops.convert_to_numpy(ball.eps), "float64")
        return np.nextafter(eps, 0.0) if eps.ndim else np.full(len(places), eps)

    def least_margins(
        self, places: np.ndarray, size: int, method: methods.Method, eps: np.ndarray | None = None
    ) -> np.ndarray:
        """The least margin bound of each input, from batches of one size.

        Raises:
            ValueError: A bound is NaN; the message names the input.
        """
        batch = self.filled(places, size)
        sizes = None if eps is None else self.filled(eps, size)
        try:
            margins = self._margins(batch, method, sizes, again=len(self.x) > size)
        except ValueError as error:
            self._name_the_input(places, size, method, eps, error)
            raise
        return margins[: len(places)]

    def _margins(
        self,
        batch: np.ndarray,
        method: methods.Method,
        eps: np.ndarray | None,
        again: bool = True,
    ) -> np.ndarray:
        region = self.region_of(batch, eps)
        least = self.goal.least(self.x[batch], batch, region, method, again)
        least = np.asarray(ops.convert_to_numpy(least), "float64")
        bad = np.isnan(least) | (least == np.inf)
        if bad.any():
            raise ValueError(
                f"Input {self.index[batch[np.argmax(bad)]]}: {method!r} gives bounds that are NaN "
                "or +inf. Its values are too large for the model's type."
            )
        return least

    def _name_the_input(
        self,
        places: np.ndarray,
        size: int,
        method: methods.Method,
        eps: np.ndarray | None,
        error: ValueError,
    ) -> None:
        """Finds the first input that fails alone, for the message."""
        for i, place in enumerate(places):
            try:
                alone = None if eps is None else np.full(size, eps[i])
                self._margins(np.full(size, place), method, alone)
            except ValueError:
                raise ValueError(f"Input {self.index[place]}: {error}") from error
