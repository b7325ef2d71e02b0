"""The start of a search: hidden intervals and bounds on the whole boxes of problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.bounds import methods, propagation
from tfcert.branching.layout import Layout, flat_slopes, flat_units
from tfcert.branching.splitter import Problem
from tfcert.network import Network
from tfcert.programs import programs_of
from tfcert.regions import BoundRegion, Box
from tfcert.rules.nonlinear import Elementwise

__all__ = ["Roots"]

Array = npt.NDArray[Any]

# What rounding may take from a bound, relative to the size of the outputs.
_ROUNDING = {"float32": 1e-5, "float64": 1e-12}


class Roots:
    """Problems as arrays, with one entry a problem.

    Args:
        model: The model.
        layout: Of its network.
        problems: What is asked.
        method: How hidden values are bounded.

    Attributes:
        lower, upper: Limits of the boxes.
        rows: ``(problems, rows, outputs)``, as many for all as the largest question has.
        offsets: ``(problems, rows)``, less a margin for rounding; rows that only fill up have -1.
        slack: ``(problems,)``: the largest of these margins, above 0.
        ends: ``{place: (lower, upper)}`` of the nodes that relaxations depend on.
        units: Flat places of the units that can be split in some box: only their signs and
            multipliers are kept for each domain.
        slopes: Flat places of the slopes that can move in some box.
        known: Where each flat unit stands among ``units``; -1: nowhere.
        decided: ``(problems, all units)``: which piece each unit is on, 0 where on both.
        start: ``(problems, slopes)``: those of CROWN.
    """

    def __init__(
        self,
        model: keras.Model,
        layout: Layout,
        problems: Sequence[Problem],
        method: methods.Crown,
    ):
        network = layout.network
        self.lower = np.stack([problem.lower for problem in problems])
        self.upper = np.stack([problem.upper for problem in problems])
        first, which = _distinct(self.lower, self.upper)
        ends, outputs = _intervals(model, network, method, self.lower[first], self.upper[first])
        self.ends = {place: (low[which], high[which]) for place, (low, high) in ends.items()}
        self._take_questions(network, problems, [end[which] for end in outputs])
        low, high = (
            flat_units(layout, {place: pair[i] for place, pair in self.ends.items()})
            if layout.units
            else np.zeros((len(problems), 0))
            for i in (0, 1)
        )
        pieces = np.where(low >= 0, 1, np.where(high <= 0, -1, 0))
        self.decided = np.where(layout.smooth_units, 0, pieces).astype(np.int8)
        self.units = np.flatnonzero((self.decided == 0).any(axis=0))
        self.known = np.full(layout.unit_count, -1, np.int64)
        self.known[self.units] = np.arange(len(self.units))
        self._take_slopes(network, layout)

    def tighten(self, model: keras.Model, network: Network, method: methods.Crown) -> None:
        """Intersects the hidden intervals with those of another method."""
        first, which = _distinct(self.lower, self.upper)
        ends, _ = _intervals(model, network, method, self.lower[first], self.upper[first])
        for place, (low, high) in ends.items():
            low = np.maximum(self.ends[place][0], low[which])
            # Ends may cross by rounding: the interval then is a point.
            high = np.maximum(np.minimum(self.ends[place][1], high[which]), low)
            self.ends[place] = low, high

    def _take_questions(
        self, network: Network, problems: Sequence[Problem], outputs: list[Array]
    ) -> None:
        most = max(len(problem.question.rows) for problem in problems)
        size = np.maximum(*np.abs(outputs)).reshape(len(problems), -1)
        self.rows = np.zeros((len(problems), most, size.shape[1]))
        self.offsets = np.full((len(problems), most), -1.0)
        self.slack = np.zeros(len(problems))
        for i, problem in enumerate(problems):
            rows, offsets = problem.question.rows, problem.question.offsets
            self.rows[i, : len(rows)] = rows
            # Casting a factor rounds it, too.
            slack = _ROUNDING[network.dtype] * (np.abs(rows) @ size[i] + np.abs(offsets))
            self.offsets[i, : len(rows)] = offsets - slack
            self.slack[i] = max(slack.max(initial=0.0), _ROUNDING[network.dtype])

    def _take_slopes(self, network: Network, layout: Layout) -> None:
        start: dict[int, Any] = {}
        moves: dict[int, Any] = {}
        for place in {spot.place for spot in layout.slopes}:
            node = network.nodes[place]
            assert isinstance(node.primitive, Elementwise)
            curve = node.primitive.parameters(network.dtype)
            source = tuple(map(ops.convert_to_tensor, self.ends[network.index[node.inputs[0]]]))
            lines = curve.lines(*source)
            start[place] = [_full(s, node.shape) for s in (lines.lower_slope, lines.upper_slope)]
            moves[place] = [_full(curve.unstable(*source), node.shape)] * 2
        if layout.slopes:
            self.slopes = np.flatnonzero(flat_slopes(layout, moves).any(axis=0))
            self.start = flat_slopes(layout, start)[:, self.slopes]
        else:
            self.slopes, self.start = np.zeros(0, np.int64), np.zeros((len(self.lower), 0))


def _full(tensor: Any, shape: tuple[int, ...]) -> Array:
    array = ops.convert_to_numpy(tensor)
    return np.broadcast_to(array, (len(array), *shape))


def _distinct(lower: Array, upper: Array) -> tuple[Array, Array]:
    """The first of the problems on each box, and which of these boxes each problem has."""
    flat = np.concatenate([lower.reshape(len(lower), -1), upper.reshape(len(upper), -1)], axis=1)
    _, first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return first, which.ravel()


def _intervals(
    model: keras.Model, network: Network, method: methods.Crown, lower: Array, upper: Array
) -> tuple[dict[int, tuple[Array, Array]], list[Array]]:
    """Intervals of the nodes that relaxations depend on, and those of the outputs."""
    places = [network.index[node] for node in network.needing_bounds()]

    def compute(lower: Any, upper: Any) -> Any:
        region, bound = Box(np.zeros(1), np.zeros(1)), BoundRegion(lower, upper)
        evaluation = propagation.evaluate(network, region, bound, method)
        ends = {place: evaluation.intervals[network.nodes[place]].bounds for place in places}
        sweeps = methods.Crown()
        return ends, sweeps.outputs(evaluation, network.outputs).ordered().bounds

    parts, piece = [], method.samples_at_once(network, 2)
    for start in range(0, len(lower), piece):
        args = [ops.convert_to_tensor(end[start : start + piece]) for end in (lower, upper)]
        program = programs_of(model).get(
            model,
            "split root",
            (network, method),
            lambda: compute,
            args,
            jit_compile=method.jit_compile or None,
            at_once=method.first_call_at_once(network, len(args[0])),
        )
        parts.append(keras.tree.map_structure(ops.convert_to_numpy, program(*args)))
    ends, outputs = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    return {place: tuple(pair) for place, pair in ends.items()}, list(outputs)
