"""Input splitting: a box is cut across, until bounds prove every part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert import backend
from tfcert.bounds import methods, propagation
from tfcert.bounds.answers import plain_sweeper
from tfcert.bounds.evaluation import Evaluation
from tfcert.bounds.known import Known
from tfcert.bounds.sweep import sweep
from tfcert.branching.outcome import Reason, within_rounding
from tfcert.branching.recording import BoxRecord
from tfcert.branching.rows import Rows as AskedRows
from tfcert.branching.splitter import Bounded, Domains
from tfcert.network import derived_from
from tfcert.programs import Program, Programs
from tfcert.properties.questions import Problem
from tfcert.regions import Box
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Bounds, Tensor

__all__ = ["BoxSplitter", "bounds_and_slopes", "free_inputs"]

# Batches up to this size are bounded operation by operation, at their own size. So are the first
# larger ones: for an ACAS Xu network, compiling takes as long as six of them save.
_FEW, _AT_ONCE = 16, 6
# Numbers of hidden layers and inputs that the domains of one batch have together.
_ENTRIES = 1 << 19
# The least slope that an axis counts with, as a share of the largest one.
_FLOOR = 0.05


def free_inputs(problem: Problem) -> int:
    """Returns the number of input entries that may vary."""
    return int((problem.upper > problem.lower).sum())


class BoxSplitter:
    """Cuts boxes of inputs in halves, where that promises the largest gain.

    The gain of cutting an axis is taken to be ``|A| * width``: how far a relaxed margin falls along
    the axis, the largest over all margins. A part starts from the hidden intervals of the box that
    it was cut from.

    Args:
        model: A built model with one output, ``(batch, outputs)``.
        problems: What is asked about it.
        method: Bounds the boxes.
        batch: The most boxes that are bounded together; None: chosen by the size of the network.
        record: Keeps the tree; None where nobody asks for it.
    """

    name = "boxes"

    def __init__(
        self,
        model: keras.Model,
        problems: Sequence[Problem],
        method: methods.Method,
        batch: int | None = None,
        record: BoxRecord | None = None,
    ):
        self._model, self._method, self._record = model, method, record
        self._problems, self._large = list(problems), 0
        derived = derived_from(model)
        self._network, self._programs = derived.network, derived.once(Programs)
        method.check(self._network)
        self._dtype = method.dtype(self._network)
        self._hidden = self._network.needing_bounds()
        self._rows = AskedRows([problem.question for problem in problems], self._dtype)
        sizes = sum(math.prod(node.shape) for node in (self._network.input, *self._hidden))
        self.batch = batch or 1 << int(np.clip(math.log2(_ENTRIES / sizes), 6, 11))

    def start(self) -> Domains:
        count = len(self._problems)
        lower, upper = (
            np.stack([getattr(problem, name) for problem in self._problems])
            for name in ("lower", "upper")
        )
        unknown = [np.full((count, *node.shape), np.inf, self._dtype) for node in self._hidden]
        state = {
            "lower": lower,
            "upper": upper,
            # What a cut across each axis promises; at first, how long it is.
            "gain": (upper - lower).reshape(count, -1).astype(np.float64),
            "hidden": [(-end, end) for end in unknown],
            "node": self._record.roots() if self._record else np.full(count, -1),
        }
        return Domains(
            owner=np.arange(count, dtype=np.int32),
            bound=np.full(count, -np.inf),
            depth=np.zeros(count, np.int32),
            state=state,
        )

    def can_split(self, domains: Domains) -> npt.NDArray[np.bool_]:
        lower, upper = _flat(domains.state["lower"]), _flat(domains.state["upper"])
        return np.asarray(_between(lower, upper)[1].any(axis=1))

    def split(self, domains: Domains) -> Domains:
        """Halves of all boxes, and halves of the halves while that fits into a batch."""
        for _ in range(max(1, int(math.log2(max(1, self.batch // max(1, len(domains))))))):
            able = self.can_split(domains)
            if not able.any():
                break
            parts = [] if able.all() else [domains.take(~able)]
            domains = Domains.joined([*_halves(domains.take(able), self._record), *parts])
        return domains

    def bound(self, domains: Domains) -> Bounded:
        count, state = len(domains), domains.state
        if count == 0:
            return Bounded(domains, np.zeros((0, self._rows.count)), None)
        # Short searches are not worth compiling for; later batches all run one program.
        at_once = backend.runs_at_once() and (count <= _FEW or self._large < _AT_ONCE)
        self._large += count > _FEW
        size = count if at_once else self.batch
        chosen = np.minimum(np.arange(size), count - 1)
        factors = self._rows.factors[domains.owner[chosen]]
        arguments = keras.tree.map_structure(
            lambda array: ops.convert_to_tensor(array[chosen], dtype=self._dtype),
            (state["lower"], state["upper"], state["hidden"]),
        )
        arguments = (*arguments, ops.convert_to_tensor(factors))
        run = self._computation if at_once else self._program(arguments)
        found = run(*arguments)
        found = keras.tree.map_structure(lambda t: ops.convert_to_numpy(t)[:count], found)
        lower, slopes, hidden = found
        lower = self._rows.margins(lower, domains.owner)
        if self._record is not None:
            self._record.bounded(state["node"], domains.owner, lower)
        deciding = self._rows.deciding(lower, domains.owner)
        slopes = slopes.reshape(count, slopes.shape[1], -1)
        own = slopes[np.arange(count), deciding]
        width = _flat(state["upper"]).astype(np.float64) - _flat(state["lower"])
        # An axis on which no relaxed margin depends may still widen the relaxation.
        slope = np.nan_to_num(np.abs(slopes), posinf=0.0).max(axis=1)
        gain = np.maximum(slope, _FLOOR * slope.max(axis=1, keepdims=True)) * width
        # Where no axis promises anything, the longest one is cut.
        gain = np.where(gain.max(axis=1, keepdims=True) > 0, gain, width)
        corner = np.where(own > 0, _flat(state["lower"]), _flat(state["upper"]))
        after = Domains(
            domains.owner,
            domains.bound,
            domains.depth,
            {
                **state,
                "gain": gain,
                # A proof has to bound each part anew.
                "hidden": state["hidden"] if self._record else [tuple(ends) for ends in hidden],
            },
        )
        return Bounded(after, lower, corner.reshape(state["lower"].shape))

    def settle(self, domains: Domains, deadline: float) -> Bounded:
        """Boxes without a number between their ends: all that is left is to look at an end."""
        del deadline
        lower = np.full((len(domains), self._rows.count), -np.inf)
        return Bounded(domains, lower, domains.state["lower"])

    def open_reason(self, count: int) -> Reason:
        return within_rounding(count)

    def _program(self, arguments: tuple) -> Program:
        return self._programs.get(
            self._model,
            "boxes",
            self._method,
            lambda: self._computation,
            arguments,
            jit_compile=self._method.jit_compile or None,
        )

    @property
    def _computation(self) -> Callable[..., Any]:
        """Bounds of rows on boxes, their slopes in the inputs, and the hidden intervals."""
        network, method, hidden = self._network, self._method, self._hidden

        def run(lower: Tensor, upper: Tensor, known: list, rows: Tensor) -> Any:
            box = Box(lower, upper)
            x = backend.fused(lambda a, b: ops.clip(0.5 * (a + b), a, b), lower, upper)
            ends = [Bounds(*pair) for pair in known]
            places = dict(zip([network.index[node] for node in hidden], ends, strict=True))
            evaluation = propagation.evaluate(
                network, box, box.bind(x), method, point=x, known=Known(intervals=places)
            )
            bounds, slopes = bounds_and_slopes(evaluation, method, rows)
            return bounds, slopes, [evaluation.intervals[node].bounds for node in hidden]

        return run


def _flat(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.reshape(len(array), math.prod(array.shape[1:]))


def _between(
    lower: npt.NDArray[Any], upper: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The middles of some intervals, and where these lie strictly inside."""
    middle = lower + (upper - lower) / 2
    return middle, (lower < middle) & (middle < upper)


def _halves(domains: Domains, record: BoxRecord | None) -> list[Domains]:
    """Both halves of each box, cut across the axis that promises most."""
    state, rows = domains.state, np.arange(len(domains))
    lower, upper = _flat(state["lower"]), _flat(state["upper"])
    middle, able = _between(lower, upper)
    axis = np.where(able, state["gain"], -np.inf).argmax(axis=1)
    point = middle[rows, axis]
    nodes = np.stack([state["node"]] * 2)
    if record is not None:
        nodes = record.split(state["node"], axis, point)
    found = []
    for (name, ends), node in zip((("upper", upper), ("lower", lower)), nodes, strict=True):
        moved, gain = ends.copy(), state["gain"].copy()
        moved[rows, axis] = point
        gain[rows, axis] /= 2
        found.append(
            Domains(
                domains.owner,
                domains.bound,
                domains.depth + 1,
                {**state, name: moved.reshape(state[name].shape), "gain": gain, "node": node},
            )
        )
    return found


def bounds_and_slopes(
    evaluation: Evaluation, method: methods.Method, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns lower bounds of rows of the outputs, and their slopes in the inputs.

    Args:
        evaluation: The network on the parts.
        method: What bounds the rows. The slopes are 0 if it does not sweep backward.
        rows: The rows, ``(parts, rows, outputs)``.
    """
    network = evaluation.network
    node = network.outputs
    bounds = propagation.lower_rows(evaluation, method, node, rows, intersect=method.intersect)
    slopes = ops.zeros((*rows.shape[:2], *network.input.shape), rows.dtype)
    if method.backward:
        record: dict = {}
        plain_sweeper(evaluation, node)  # Makes what the sweep reads.
        sweep(evaluation, node, Rows(rows), Frame(), record=record)
        slopes = record.get(network.input, slopes)
    return bounds, slopes
