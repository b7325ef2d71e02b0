"""Regions of choices, such as words and categories: one choice after another is made.

A part of such a region has some choices made, and bounds of it cover all others. Where all choices
of a part are made, what is left is a box: a single point for words, and the box of the other
features for one-hot groups. Splits of boxes and of units decide these, as they decide any problem.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert import attacks, backend
from tfcert.bounds import methods, propagation
from tfcert.branching.attacking import worst_points
from tfcert.branching.boxes import bounds_and_slopes
from tfcert.branching.checking import Referee
from tfcert.branching.outcome import Counterexample, Outcome, Reason, within_rounding
from tfcert.branching.rows import Rows as AskedRows
from tfcert.branching.search import Limits, search
from tfcert.branching.splitter import Bounded, Domains
from tfcert.network import network_of
from tfcert.programs import programs_of
from tfcert.properties.questions import Problem, Question
from tfcert.regions import Numbers, Region
from tfcert.types import Tensor

if TYPE_CHECKING:
    from tfcert.branching.verifying import Settings

__all__ = ["ChoiceSplitter", "Choices"]

# Batches up to this size are bounded operation by operation, at their own size.
_FEW = 16
# The most parts that are bounded together.
_MOST = 256
# The most boxes that are searched together.
_BOXES = 64
# Random points of each input, then attempts and steps of the attack.
_DRAWN, _STARTS, _STEPS = 256, 2, 8

# verify_boxes(model, problems, settings) -> Outcome
VerifyBoxes = Callable[[keras.Model, Sequence[Problem], Any], Outcome]


class Choices(NamedTuple):
    """Inputs with regions that consist of choices, and what is asked about each.

    Attributes:
        region: The region.
        x: The inputs, ``(batch, *input_shape)``, in the type of the network.
        questions: The questions.
    """

    region: Region
    x: npt.NDArray[Any]
    questions: list[Question]

    def verified(
        self,
        model: keras.Model,
        settings: Settings,
        verify_boxes: VerifyBoxes,
        attacked: bool = False,
    ) -> Outcome:
        """Decides whether all questions hold.

        Args:
            model: The model.
            settings: How to go about it.
            verify_boxes: Decides problems about boxes.
            attacked: Whether an attack was tried before.
        """
        if settings.recorder is not None:
            raise NotImplementedError(
                "A proof cannot be recorded for regions of words or of one-hot groups. Use "
                f"recorder=None, certificate=None. Received: region={self.region!r}."
            )
        begin = time.monotonic()
        referee = Referee(model, self.boxes())
        found = None
        if not attacked:
            # Steps along gradients come where choices are made, for boxes that need them.
            steps = _STEPS if self.region.is_finite else 0
            found = self._attacked(model, referee, settings.seed, steps)
        if found is not None:
            return _outcome("violated", referee.value(found), 0, begin, "attack", found, referee)
        splitter = ChoiceSplitter(model, self, settings, verify_boxes, referee)
        limits = Limits(settings.deadline, settings.max_memory)
        result = search(
            *(splitter, self.boxes(), referee, limits), log=settings.log, verbose=settings.verbose
        )
        domains = result.domains + splitter.domains
        name, counterexample = splitter.name, result.counterexample
        if counterexample is not None:
            value = referee.value(counterexample)
            return _outcome("violated", value, domains, begin, name, counterexample, referee)
        verdict = "holds" if result.holds else "unknown"
        outcome = _outcome(verdict, result.bound, domains, begin, name, None, referee)
        if result.reason is None:
            return outcome
        return dataclasses.replace(outcome, reason=result.reason.text, limit=result.reason.kind)

    def counterexample(
        self, model: keras.Model, steps: int, starts: int, seed: int
    ) -> Counterexample | None:
        """A point that breaks a question, by random points and an attack; None if none is found."""
        return self._attacked(model, Referee(model, self.boxes()), seed, steps, starts)

    def _attacked(
        self,
        model: keras.Model,
        referee: Referee,
        seed: int,
        steps: int,
        starts: int = _STARTS,
    ) -> Counterexample | None:
        x, count = ops.convert_to_tensor(self.x), len(self.x)
        drawn = np.asarray(ops.convert_to_numpy(self.region.sample(x, _DRAWN, int(seed))))
        points = np.concatenate([self.x[:, None], drawn], axis=1)
        owner = np.repeat(np.arange(count, dtype=np.int32), points.shape[1])
        found = referee.judge(points.reshape(-1, *self.x.shape[1:]), owner)
        if found is not None or not steps:
            return found
        attack: attacks.Search
        if self.region.is_finite:
            attack = attacks.Substitutions(self.region, steps, starts)
        else:
            attack = attacks.PGD(self.region, steps, restarts=starts, loss="margin")
        owner = np.arange(count, dtype=np.int32)
        rows = AskedRows(self.questions, network_of(model).dtype)
        return referee.judge(worst_points(model, attack, self.x, rows, owner, (seed, 0)), owner)

    def boxes(self) -> list[Problem]:
        """The smallest box around each region, with its question."""
        return boxes_of(self.region, self.x, self.questions)


def boxes_of(region: Region, x: npt.NDArray[Any], questions: Sequence[Question]) -> list[Problem]:
    """The smallest box around the region of each input, as a problem."""
    outward, inward = region.interval(x), region.inner_limits(x)
    ends = [np.asarray(ops.convert_to_numpy(end)) for end in (*outward, *inward)]
    return [
        Problem(low, high, question, (inner.astype(np.float64), outer.astype(np.float64)))
        for low, high, inner, outer, question in zip(*ends, questions, strict=True)
    ]


class ChoiceSplitter:
    """Makes one choice after another: that whose options make the largest difference.

    The difference is that of a relaxed margin, a linear function of the input.

    Args:
        model: A built model with one output, ``(batch, outputs)``.
        asked: The inputs, their regions, and what is asked.
        settings: The method, the size of batches, and limits for boxes.
        verify_boxes: Decides the boxes that are left when all choices are made.
        referee: Evaluates the points that are left.

    Attributes:
        domains: How many parts of these boxes were bounded.
    """

    name = "choices"

    def __init__(
        self,
        model: keras.Model,
        asked: Choices,
        settings: Settings,
        verify_boxes: VerifyBoxes,
        referee: Referee,
    ):
        self._referee = referee
        self._model, self._asked, self._settings = model, asked, settings
        self._verify_boxes, self._network = verify_boxes, network_of(model)
        self._method: methods.Method = settings.method
        self._method.check(self._network)
        self._dtype = self._method.dtype(self._network)
        options = asked.region.options(asked.x)
        assert options is not None
        self._options = options
        self._rows = AskedRows(asked.questions, self._dtype)
        fits = self._method.samples_at_once(self._network, self._rows.count)
        self.batch = settings.batch_size or max(2, min(_MOST, fits))
        self._reason: Reason | None = None
        self.domains = 0

    def start(self) -> Domains:
        chosen = self._options.start()
        count = len(chosen)
        return Domains(
            owner=np.arange(count, dtype=np.int32),
            bound=np.full(count, -np.inf),
            depth=np.zeros(count, np.int32),
            state={"chosen": chosen.astype(np.int16), "slot": chosen.argmin(axis=1)},
        )

    def can_split(self, domains: Domains) -> npt.NDArray[np.bool_]:
        return np.asarray((domains.state["chosen"] < 0).any(axis=1))

    def split(self, domains: Domains) -> Domains:
        """The parts with each option of the slot that was chosen when the domain was bounded."""
        chosen, slot = domains.state["chosen"].astype(np.int64), domains.state["slot"]
        parent, parts = self._options.parts(domains.owner, chosen, slot)
        return Domains(
            domains.owner[parent],
            domains.bound[parent],
            domains.depth[parent] + 1,
            {"chosen": parts.astype(np.int16), "slot": parts.argmin(axis=1)},
        )

    def bound(self, domains: Domains) -> Bounded:
        count, shape = len(domains), self._network.input.shape
        lower = np.zeros((count, self._rows.count))
        points = np.zeros((count, *shape), self._asked.x.dtype)
        gains = np.zeros((count, self._options.places.shape[0]))
        chosen = domains.state["chosen"].astype(np.int64)
        changes = self._options.changes(domains.owner, chosen)
        # Parts with as many changes left have regions of one form.
        kinds, which = np.unique(changes, axis=0, return_inverse=True)
        for kind in range(len(kinds)):
            mine = np.flatnonzero(which.ravel() == kind)
            owner = domains.owner[mine]
            part = self._asked.region.assigned(self._asked.x, owner, chosen[mine], kinds[kind])
            found, slopes = self._bounded(*part, owner)
            lower[mine] = self._rows.margins(found, owner)
            deciding = self._rows.deciding(lower[mine], owner)
            own = slopes[np.arange(len(mine)), deciding][:, None]
            best = part[0].minimiser(own, part[1])
            points[mine] = ops.convert_to_numpy(best)[:, 0]
            flat = slopes.reshape(*slopes.shape[:2], -1).astype(np.float64)
            gains[mine] = self._options.gains(owner, chosen[mine], np.nan_to_num(flat, posinf=0.0))
        state = {**domains.state, "slot": gains.argmax(axis=1)}
        return Bounded(dataclasses.replace(domains, state=state), lower, points)

    def settle(self, domains: Domains, deadline: float) -> Bounded:
        """Points and boxes in which all choices are made: evaluated, or split further."""
        lower = np.full((len(domains), self._rows.count), -np.inf)
        chosen, owner = domains.state["chosen"].astype(np.int64), domains.owner
        region, x = self._asked.region.assigned(
            self._asked.x, owner, chosen, np.full(len(self._options.most), -1)
        )
        if region.is_finite:
            # A point is no counterexample, or it had been found when it was bounded. Up to
            # rounding, its bound is its value.
            if not self._method.float_safe:
                lower[:] = self._referee.values(x, owner)[:, None]
            return Bounded(domains, lower, None)
        settings = dataclasses.replace(self._settings, deadline=deadline)
        for start in range(0, len(domains), _BOXES):
            part = np.arange(start, min(start + _BOXES, len(domains)))
            own, center = region.select(part, x), x[part]
            questions = [self._asked.questions[place] for place in owner[part]]
            outcome = self._verify_boxes(self._model, boxes_of(own, center, questions), settings)
            self.domains += outcome.domains
            if outcome.counterexample is not None:
                # It belongs to one of these boxes; the others keep their centres.
                point = np.repeat(outcome.counterexample[None].astype(x.dtype), len(part), axis=0)
                inside = own.contains(point, center).reshape(-1, *[1] * (x.ndim - 1))
                x[part] = np.where(inside, point, center)
                return Bounded(domains, lower, x)
            if outcome.verdict == "holds":
                lower[part] = outcome.bound
            else:
                self._reason = Reason(outcome.limit, outcome.reason)  # type: ignore[arg-type]
        return Bounded(domains, lower, None)

    def open_reason(self, count: int) -> Reason:
        return self._reason or within_rounding(count)

    def _bounded(
        self, region: Region, x: npt.NDArray[Any], owner: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Bounds of the rows of the owners on parts of their regions, and slopes in the inputs."""
        count = len(x)
        at_once = backend.runs_at_once() and count <= _FEW
        # Later batches run one program.
        places = np.minimum(np.arange(count if at_once else self.batch), count - 1)
        region, x = region.select(places, x), ops.convert_to_tensor(x[places], dtype=self._dtype)
        rows = ops.convert_to_tensor(self._rows.factors[owner[places]])
        arguments = (region.numbers(x, outward=True), x, rows)
        if at_once:
            found = self._computation(region.template())(*arguments)
        else:
            program = programs_of(self._model).get(
                self._model,
                "choices",
                (self._method, region.signature()),
                lambda: self._computation(region.template()),
                arguments,
                jit_compile=self._method.jit_compile or None,
                at_once=True,
            )
            found = program(*arguments)
        lower, slopes = (np.asarray(ops.convert_to_numpy(part))[:count] for part in found)
        return lower, slopes

    def _computation(self, template: Region) -> Callable[..., Any]:
        network, method = self._network, self._method

        def run(numbers: Numbers, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            region = template.with_numbers(numbers)
            evaluation = propagation.evaluate(network, region, region.bind(x), method, point=x)
            return bounds_and_slopes(evaluation, method, rows)

        return run


def _outcome(
    verdict: Any,
    bound: float,
    domains: int,
    begin: float,
    method: str,
    found: Counterexample | None,
    referee: Referee,
) -> Outcome:
    return Outcome(
        verdict=verdict,
        bound=float(bound),
        domains=domains,
        seconds=time.monotonic() - begin,
        method=method,
        found=found,
        notes=tuple(dict.fromkeys(referee.notes)),
    )
