"""Bounds of many domains at once: one compiled program for each batch size.

Intervals of hidden values are given: those of the whole box, tightened by interval arithmetic from
the signs of the units that were split. On top of them come some steps of gradient ascent on slopes
and multipliers (beta-CROWN), from where the parent ended.

Bounds are computed in the network's float type. Rounding is not followed step by step: a margin for
it, relative to the size of the outputs, is taken off every bound.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert import backend
from tfcert.bounds import methods
from tfcert.bounds.alpha import optimised, standing
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.known import Known
from tfcert.bounds.sweep import Slopes, sweep
from tfcert.branching import choosing
from tfcert.branching.halfspaces import CutBox
from tfcert.branching.layout import Layout, flat_slopes, flat_units
from tfcert.programs import Program, programs_of
from tfcert.regions import BoundRegion, Box
from tfcert.rules.interval import Interval
from tfcert.rules.primitives import Node, Nonlinear
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Bounds, Tensor

__all__ = ["Bounder", "Found", "Inputs", "Narrowed"]

Array = npt.NDArray[Any]

# A program for a few domains and one for many; and up to how many are a few, in several calls.
_FEW, _MANY, _TURN = 16, 256, 96
# Numbers of all layers, samples and rows up to which a program's first call is not worth compiling.
_AT_ONCE = 1 << 20
# To compile a program takes about so many times what a call takes that is not compiled.
_COMPILING = 5.0


class Inputs(NamedTuple):
    """The known facts about some domains, as arrays with one entry per domain.

    Attributes:
        lower: ``(n, *input_shape)``.
        upper: The same.
        rows: ``(n, rows, outputs)``: the margins are ``rows @ outputs + offsets``.
        offsets: ``(n, rows)``.
        ends: ``{place: (lower, upper)}``: intervals of the nodes that relaxations depend on.
        signs: ``(n, units)``, int8: of the units that were split.
        points: ``(n, units)``: what the signs compare units with; None where that is 0 for all.
        slopes: ``(n, rows, slopes)``: where to start.
        multipliers: ``(n, rows, units)``: where to start.
    """

    lower: Array
    upper: Array
    rows: Array
    offsets: Array
    ends: dict[int, tuple[Array, Array]]
    signs: Array
    points: Array | None
    slopes: Array
    multipliers: Array


class Found(NamedTuple):
    """The results of bounding, as arrays with one entry per domain.

    Attributes:
        lower: ``(n, rows)``: bounds of the margins; inf where the domain is empty.
        slopes: ``(n, rows, slopes)``: these and the multipliers give the bounds.
        multipliers: ``(n, rows, units)``.
        decided: ``(n, units)``, int8: which piece each unit is on, 0 where both are possible.
        candidates: ``(n, candidates)``: flat units that look best to split; -1: none.
        cuts: ``(n, candidates)``: where to split these.
        points: ``(n, *input_shape)``: where the relaxed problem has its minimum.
    """

    lower: Array
    slopes: Array
    multipliers: Array
    decided: Array
    candidates: Array
    cuts: Array
    points: Array


class Narrowed(NamedTuple):
    """Intervals of the units of some domains, as arrays with one entry per domain.

    Attributes:
        low: ``(n, units)``.
        high: The same.
        empty: ``(n,)``: where no point is left.
    """

    low: Array
    high: Array
    empty: Array


@dataclasses.dataclass(frozen=True)
class _Standing:
    """No step at all: the better one of the default slopes and the given ones."""

    iterations: int = 0
    learning_rate: float = 0.0
    decay: float = 1.0


class _Narrow(methods.Crown):
    """CROWN that sweeps no neuron whose functions are linear on its interval already."""

    def tighten(self, evaluation: Evaluation, node: Node, interval: Interval) -> Interval:
        unstable: list[Tensor] = []
        for reader, _ in evaluation.network.reads[node]:
            assert isinstance(reader.primitive, Nonlinear)
            unstable += reader.primitive.unstable(evaluation.parameters[reader], interval)
        return self.refined(evaluation, node, interval, functools.reduce(ops.logical_or, unstable))


class Bounder:
    """Bounds domains of one model.

    Args:
        model: One output of shape ``(batch, outputs)``.
        layout: Of its network.
        method: How far slopes and multipliers are optimised.
        candidates: How many units are proposed for splitting, at most as many as there are.
        most: Most domains in one call of a program.
        deadline: By ``time.monotonic()``: no program is compiled that would probably be ready late.
    """

    def __init__(
        self,
        model: keras.Model,
        layout: Layout,
        method: methods.AlphaCrown,
        candidates: int = 1,
        most: int = _MANY,
        deadline: float = math.inf,
    ):
        self._deadline = deadline
        self._slow_calls: dict[Any, float] = {}  # Seconds of calls that were not compiled.
        self.model, self.network, self.layout = model, layout.network, layout
        self.method, self.candidates, self.most = method, candidates, most

    def bound(self, inputs: Inputs) -> Found:
        """Bounds domains, however many."""
        found = self._run("split", self._bounded, inputs)
        layout = self.layout
        return Found(
            found["lower"].astype(np.float64),
            flat_slopes(layout, found["slopes"]) if layout.slopes else inputs.slopes,
            flat_units(layout, found["multipliers"]),
            found["decided"],
            found["candidates"],
            found["cuts"],
            found["points"],
        )

    def try_out(self, inputs: Inputs) -> Array:
        """Bounds of domains by one sweep with the given slopes, ``(n, rows)``."""
        return self._run("split trial", self._tried, inputs)["lower"].astype(np.float64)

    def narrow(self, inputs: Inputs) -> Narrowed:
        """Intervals of all units where no row of a domain is above 0."""
        if backend.runs_at_once():
            # Most of the time is that of large tensors: compiling would take longer than it saves.
            found = keras.tree.map_structure(
                ops.convert_to_numpy, self._narrowed(self._arguments(inputs))
            )
        else:
            found = self._run("split narrow", self._narrowed, inputs)
        low, high = (
            flat_units(self.layout, {place: pair[i] for place, pair in found["ends"].items()})
            for i in (0, 1)
        )
        return Narrowed(low, high, found["empty"])

    # The programs.

    def _evaluate(self, args: dict[str, Any]) -> Evaluation:
        known = Known(
            intervals={place: Bounds(*pair) for place, pair in args["ends"].items()},
            signs={place: ops.cast(s, self.network.dtype) for place, s in args["signs"].items()},
            points=args["points"],
            settled=True,
        )
        region = Box(np.zeros(1), np.zeros(1))  # Its form; the limits are those that are bound.
        bound = BoundRegion(args["lower"], args["upper"])
        return self.method.evaluate(self.network, region, bound, known=known)

    def _tried(self, args: dict[str, Any]) -> dict[str, Any]:
        evaluation = self._evaluate(args)
        output, rows = self.network.outputs, self._rows(args)
        evaluation.prepare(output, True)
        lower = standing(evaluation, output, rows, args["slopes"], args["multipliers"])
        return {"lower": _with_offsets(lower, args, evaluation)}

    def _rows(self, args: dict[str, Any]) -> Rows:
        rows = args["rows"]
        return Rows(ops.reshape(rows, (-1, rows.shape[1], *self.network.outputs.shape)))

    def _bounded(self, args: dict[str, Any]) -> dict[str, Any]:
        network, layout = self.network, self.layout
        evaluation = self._evaluate(args)

        def enough(lower: Tensor) -> Tensor:
            return ops.all(ops.any(_with_offsets(lower, args, evaluation) > 0, axis=-1))

        found, record = self._relaxed(evaluation, args, self.method, enough)
        lower = _with_offsets(found.lower, args, evaluation)
        # The row that is nearest to a proof decides where to split and where to look.
        chosen = ops.one_hot(ops.argmax(lower, axis=-1), lower.shape[1], dtype=network.dtype)
        points = _minimiser(record[network.input], chosen, args)
        scores = choosing.estimates(evaluation, layout, record, found.slopes, chosen)
        candidates = choosing.best_units(scores, self.candidates)
        return {
            "lower": lower,
            "slopes": {
                place: [slope for slope in found.slopes[place] if slope is not None]
                for place in {spot.place for spot in layout.slopes}
            },
            "multipliers": found.multipliers,
            "decided": choosing.decided(evaluation, layout),
            "candidates": candidates,
            "cuts": choosing.cuts(evaluation, layout, candidates),
            "points": points,
        }

    def _narrowed(self, args: dict[str, Any]) -> dict[str, Any]:
        """CROWN for hidden values, on the part of each box where a relaxed row is at most 0.

        The relaxed row is a linear function of the input below the row itself.
        """
        network = self.network
        evaluation = self._evaluate(args)
        found, record = self._relaxed(evaluation, args, _Standing(), None)
        lower = _with_offsets(found.lower, args, evaluation)
        chosen = ops.one_hot(ops.argmax(lower, axis=-1), lower.shape[1], dtype=network.dtype)
        bound = BoundRegion(args["lower"], args["upper"])
        normal, parts = _of_row(record[network.input], chosen), CutBox().split(bound)
        least = normal * parts.middle - ops.abs(normal) * parts.half
        least = ops.sum(ops.reshape(least, (-1, math.prod(network.input.shape))), axis=-1)
        depth = ops.sum((found.lower + args["offsets"]) * chosen, axis=-1) - least
        bound = bound._replace(normal=normal, depth=ops.expand_dims(depth, -1))
        known = Known(
            intervals={place: Bounds(*pair) for place, pair in args["ends"].items()},
            signs={place: ops.cast(s, network.dtype) for place, s in args["signs"].items()},
        )
        narrow = _Narrow().evaluate(network, CutBox(), bound, known=known)
        places = [spot.place for spot in self.layout.units]
        return {
            "ends": {place: narrow.intervals[network.nodes[place]].bounds for place in places},
            "empty": ops.logical_or(evaluation.empty, narrow.empty),
        }

    def _relaxed(
        self, evaluation: Evaluation, args: dict[str, Any], ascent: Any, enough: Any
    ) -> tuple[Any, dict[Any, Tensor]]:
        """Optimised bounds of the rows, and the coefficients that arrive at each node for them."""
        record: dict[Any, Tensor] = {}
        output, rows = self.network.outputs, self._rows(args)
        evaluation.prepare(output, True)
        found = optimised(
            evaluation,
            ascent,
            output,
            rows,
            Frame(),
            slopes=args["slopes"],
            multipliers=args["multipliers"],
            enough=enough,
        )
        slopes = Slopes(found.slopes, found.multipliers)
        sweep(evaluation, output, rows, Frame(), slopes=slopes, record=record)
        return found, record

    # Calls.

    def _run(self, kind: str, compute: Callable[..., Any], inputs: Inputs) -> Any:
        count, parts, start = len(inputs.lower), [], 0
        while start < count:
            size = min(self.most, _FEW if count - start <= _TURN else _MANY)
            chosen = np.minimum(np.arange(start, start + size), count - 1)
            found = self._call(kind, compute, inputs, chosen)
            keep = min(size, count - start)
            parts.append(
                keras.tree.map_structure(lambda t, k=keep: ops.convert_to_numpy(t)[:k], found)
            )
            start += size
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    def _call(
        self, kind: str, compute: Callable[..., Any], inputs: Inputs, chosen: Array
    ) -> dict[str, Any]:
        inputs = keras.tree.map_structure(lambda a: None if a is None else a[chosen], inputs)
        args, layout = self._arguments(inputs), self.layout
        size = (
            len(chosen)
            * inputs.rows.shape[1]
            * sum(math.prod(node.shape) for node in self.network.nodes)
        )
        program = programs_of(self.model).get(
            self.model,
            kind,
            (self.network, self.method, self.candidates),
            lambda: compute,
            args,
            jit_compile=self.method.jit_compile or None,
            # The lines around smooth functions are found by bisection: hundreds of operations.
            at_once=size <= _AT_ONCE and not any(layout.smooth),
        )
        return self._run_in_time(program, (kind, len(chosen)), args)

    def _run_in_time(self, program: Program, form: Any, args: dict[str, Any]) -> dict[str, Any]:
        """Calls a program, uncompiled where compiling it would take longer than is left."""
        if program.is_compiled or not backend.runs_at_once():
            return program(args)
        begin = time.monotonic()
        late = begin + _COMPILING * self._slow_calls.get(form, 0.0) > self._deadline
        result = program.run_slowly(args) if late else program(args)
        if not program.is_compiled:
            self._slow_calls[form] = time.monotonic() - begin
        return result

    def _arguments(self, inputs: Inputs) -> dict[str, Any]:
        """The tensors of a program, by their names."""
        layout, dtype = self.layout, self.network.dtype
        slopes = layout.slopes_by_place(inputs.slopes.astype(dtype))
        points = {} if inputs.points is None else layout.by_place(inputs.points.astype(dtype))
        args = {
            "lower": inputs.lower,
            "upper": inputs.upper,
            "rows": inputs.rows.astype(dtype),
            "offsets": inputs.offsets.astype(dtype),
            "ends": inputs.ends,
            "signs": layout.by_place(inputs.signs),
            "points": points,
            "slopes": {place: [*own, None][:2] for place, own in slopes.items()},
            "multipliers": layout.by_place(inputs.multipliers.astype(dtype)),
        }
        return keras.tree.map_structure(
            lambda a: None if a is None else ops.convert_to_tensor(a), args
        )


def _with_offsets(lower: Tensor, args: dict[str, Any], evaluation: Evaluation) -> Tensor:
    """Bounds of margins from those of their linear parts; inf where the domain is empty."""
    total = lower + args["offsets"]
    if evaluation.empty is None:
        return total
    return ops.where(evaluation.empty[:, None], math.inf, total)


def _minimiser(coefficients: Tensor, chosen: Tensor, args: dict[str, Any]) -> Tensor:
    """The corner of the box where a linear function of the input is least."""
    return ops.where(_of_row(coefficients, chosen) > 0, args["lower"], args["upper"])


def _of_row(coefficients: Tensor, chosen: Tensor) -> Tensor:
    """Those of the chosen row, ``(n, *shape)``."""
    picked = ops.reshape(chosen, (*chosen.shape, *[1] * (len(coefficients.shape) - 2)))
    return ops.sum(coefficients * picked, axis=1)
