"""The self-check: verified inputs are attacked, and a certificate that breaks has consequences."""

from __future__ import annotations

import datetime
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import attacks, provenance
from tfcert.attacks.exact import in_float64
from tfcert.certification.findings import Findings, Problem
from tfcert.certification.stages import Stage, search
from tfcert.logs.writing import write_whole

__all__ = ["SelfCheck", "UnsoundCertificateError", "chosen"]


class UnsoundCertificateError(RuntimeError):
    """Error for a broken certificate: tfcert has a fault, or float_safe's conditions do not hold.

    Attributes:
        folder: The folder with everything needed to reproduce the error.
    """

    def __init__(self, message: str, folder: pathlib.Path):
        super().__init__(message)
        self.folder = folder


def chosen(index: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns the inputs to check: a share of all, by seed and number, in any batch."""
    draws = [np.random.SeedSequence(seed, spawn_key=(int(i),)).generate_state(1)[0] for i in index]
    return np.array(draws, "float64") < share * 2.0**32


class SelfCheck(Stage):
    """Attacks verified inputs by APGD before their verdict is given.

    A point that the model gets wrong is evaluated again in float64. Wrong there too, or no float64
    at hand: the certificate counts as unsound, and the run stops. Wrong in float32 alone: rounding
    broke it. That is recorded, and the input is falsified; with ``float_safe`` it stops the run.

    Args:
        wanted: Which inputs are checked.
        float_safe: Whether certificates hold for the model as executed.
        attack: The attack.
        seed: Of the attack.
        folder: Where to save what a stopped run needs; None: a new temporary folder.
        record: Is told what rounding broke.
    """

    limited = False

    def __init__(
        self,
        problem: Problem,
        findings: Findings,
        size: int,
        *,
        wanted: np.ndarray,
        float_safe: bool,
        attack: attacks.Attack,
        seed: int,
        folder: pathlib.Path | None,
        record: Callable[[dict[str, Any]], None],
    ):
        super().__init__(problem, findings, size)
        self.chosen, self.float_safe, self.attack = wanted, float_safe, attack
        self.seed, self.folder, self.record = seed, folder, record
        self._twin: keras.Model | None = None

    def wants(self, place: int) -> bool:
        found = self.findings
        return bool(self.chosen[place]) and (
            found.verdict[place] == "verified" or found.radius[place] > 0
        )

    def run(self, places: np.ndarray) -> None:
        eps, radius = None, self.findings.radius[places]
        if radius.any():  # The largest claim that was made.
            eps = np.where(radius > 0, radius, self.problem.eps_of(places))
        points, wrong = search(self.problem, self.attack, places, self.size, self.seed, eps)
        for place, point in zip(places[wrong], points[wrong], strict=True):
            self._broken(int(place), point)

    def _broken(self, place: int, point: np.ndarray) -> None:
        problem, found = self.problem, self.findings
        number = int(problem.index[place])
        exact = self._exact_margin(point, place)
        executed = float(problem.goal.executed(point[None], np.array([place]))[0])
        facts = {
            "idx": number,
            "label": int(problem.y[place]),
            "method": str(found.method[place]),
            "margin_bound": float(found.margin[place]),
            "radius": float(found.radius[place]),
            "executed_margin": executed,
            "float64_margin": exact,
        }
        if exact is not None and exact > 0 and not self.float_safe:
            self.record(facts)
            self._withdraw(place, point, executed)
            return
        folder = self._save(place, point, facts)
        if exact is None:
            reason = "Whether rounding did it cannot be told without float64."
        elif exact <= 0:
            reason = (
                "Evaluated in float64 the point is still misclassified: the bounds are unsound."
            )
        else:
            reason = "It holds in float64, but float_safe promises it for float32 as executed."
        raise UnsoundCertificateError(
            f"Input {number} was verified by {facts['method']} and broken by {self.attack!r}. "
            f"{reason} The folder {folder} holds everything needed to reproduce this. Please "
            "report it.",
            folder,
        )

    def _withdraw(self, place: int, point: np.ndarray, executed: float) -> None:
        """Takes back what does not hold for the model as executed."""
        problem, found, places = self.problem, self.findings, np.array([place])
        x = problem.x[places]
        if problem.region_of(places).contains(point[None], x)[0]:
            found.decide(places, "falsified", np.array([executed]), "rounding")
            found.points[place], found.radius[place] = point, 0.0
        else:  # The point broke the largest eps, beyond the region.
            found.radius[place] = problem.eps_of(places)[0]

    def _exact_margin(self, point: np.ndarray, place: int) -> float | None:
        """The margin in float64; None where the backend has none, or the model no twin."""
        if self._twin is None:
            try:
                self._twin = in_float64(self.problem.subject.scores)
            except (ValueError, TypeError, NotImplementedError):
                return None
        scores = self._twin(ops.convert_to_tensor(point[None].astype("float64")), training=False)
        values = self.problem.goal.values(
            np.asarray(ops.convert_to_numpy(scores)), np.array([place])
        )
        return float(values[0])

    def _save(self, place: int, point: np.ndarray, facts: dict[str, Any]) -> pathlib.Path:
        folder = self.folder or pathlib.Path(tempfile.mkdtemp(prefix="tfcert_unsound_"))
        folder = folder / str(facts["idx"])
        folder.mkdir(parents=True, exist_ok=True)
        problem = self.problem
        region = problem.region_of(np.array([place]))
        facts = {
            **facts,
            "region": repr(region),
            "attack": repr(self.attack),
            "float_safe": self.float_safe,
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        np.save(folder / "x.npy", problem.x[place], allow_pickle=False)
        np.save(folder / "point.npy", point, allow_pickle=False)
        problem.subject.model.save(folder / "model.keras")
        config = keras.saving.serialize_keras_object(region)
        text = json.dumps({**facts, "region_config": config}, indent=1, default=str) + "\n"
        write_whole(folder / "facts.json", text.encode())
        return folder
