"""The backward sweep: lower bounds of linear functions of a node, by way of the input.

Everything that the CROWN family computes is a *lower* bound of rows ``a . value``: an upper bound
is minus the lower bound of the negated row. One sweep carries both.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any

from keras import ops

from tfcert import backend
from tfcert.bounds.evaluation import Evaluation
from tfcert.regions import BoundRegion
from tfcert.relaxations import Lines
from tfcert.rules.fused_lines import apply_fused
from tfcert.rules.linear import Matrix
from tfcert.rules.nonlinear import Elementwise, apply_lines, dot, passes_zero
from tfcert.rules.primitives import Affine, Constant, Input, Node, Nonlinear
from tfcert.rules.rows import Frame, Rows, Window, covers
from tfcert.rules.windows import Sliding
from tfcert.types import Tensor

__all__ = ["Slopes", "neuron_rows", "sweep"]


class Slopes:
    """What an optimiser moves in a sweep, one set per row, by the places of nodes.

    Attributes:
        values: ``{place: [lower_slope, upper_slope]}`` of elementwise nodes, in the shape of the
            rows at that node; None where the default slope is best. Of products of two values the
            numbers that choose their planes, see ``Nonlinear.turn``.
        ranges: ``{place: [lower_min, lower_max, upper_min, upper_max]}``, with None likewise.
        multipliers: ``{place: beta}`` of nodes whose signs are known, in the shape of the rows
            there, >= 0.
    """

    def __init__(self, values: dict[int, Any] | None = None, multipliers: Any = None):
        self.recording = values is None
        self.values: dict[int, Any] = {} if values is None else values
        self.ranges: dict[int, Any] = {}
        self.multipliers: dict[int, Tensor] = multipliers or {}

    def constrain(
        self, place: int, rows: Rows, sign: Tensor, point: Tensor | None
    ) -> tuple[Rows, Tensor | float]:
        """Rows of a node, of whose values z only those with ``sign * (z - point) >= 0`` count.

        There, ``a . z >= a . z - beta . (sign * (z - point))`` for every beta >= 0.

        Args:
            place: Of the node.
            rows: Those that arrive at the node.
            sign: Beside the rows.
            point: Beside the rows; None for 0.

        Returns:
            The rows ``a - beta * sign``, and the constant that goes with them.

        Reference: Wang et al., 2021, https://arxiv.org/abs/2103.06624, equation 5.
        """
        if self.recording:
            self.multipliers[place] = ops.zeros_like(rows.coefficients)
            return rows, 0.0
        taken = self.multipliers[place] * sign
        change = 0.0 if point is None else dot(taken, point)
        return Rows(rows.coefficients - taken, rows.window, rows.clean), change


def sweep(
    evaluation: Evaluation,
    node: Node,
    rows: Rows,
    frame: Frame,
    constant: Tensor | float = 0.0,
    *,
    stop: Callable[[Node], bool] | None = None,
    slopes: Slopes | None = None,
    record: dict[Node, Tensor] | None = None,
) -> Tensor:
    """A lower bound of ``rows . value(node) + constant``, ``(groups, rows)``.

    Args:
        evaluation: Holds intervals of all nodes that nonlinear nodes read.
        node: The node that the rows are functions of.
        rows: Their coefficients.
        frame: Which sample the rows belong to.
        constant: Added to the bound.
        stop: Nodes at which the sweep ends and takes their interval; the input always ends it.
        slopes: Slopes and multipliers to use in place of the default lines, or a recorder of the
            default ones. Without them, known signs count through the intervals alone.
        record: Filled with the coefficients that arrive at each node; rows over whole values only.
    """
    pending: dict[Node, Rows] = {node: rows}
    total = constant
    path = evaluation.path(node)
    readers = collections.Counter(source for reader in path for source in reader.inputs)
    shifted: set[Node] = set()  # Affine nodes whose bias a later node has taken along.

    def ends(at: Node) -> bool:
        return evaluation.is_cut(at) or (stop is not None and at is not node and stop(at))

    for current in path:
        if current not in pending:
            continue
        here = pending.pop(current)
        if here.window is not None and covers(here.extent, current.shape):
            here = frame.dense(here, current.shape)
        if record is not None:
            record[current] = here.coefficients
        primitive = current.primitive
        end = ends(current)
        sign = evaluation.sign_table(current)
        if slopes is not None and sign is not None and not end:
            point = evaluation.point_table(current)
            point = None if point is None else frame.take(point, here)
            place, sign = evaluation.place(current), frame.take(sign, here)
            here, change = slopes.constrain(place, here, sign, point)
            total = total + change
        if current in evaluation.errors and not end:
            total = total - _rounding(evaluation, current, here, frame)
        if isinstance(primitive, Input):
            total = total + _minimum_on_input(evaluation, here, frame)
            continue
        if isinstance(primitive, Constant):
            here = frame.dense(here, current.shape)
            value = ops.broadcast_to(evaluation.parameters[current], (1, *current.shape))
            total = total + dot(here.coefficients, value[:, None])
            continue
        if end:
            total = total + _minimum_on_interval(evaluation, current, here, frame)
            continue
        if isinstance(primitive, Affine):
            biased = current not in shifted
            sources, change = _through_affine(evaluation, current, here, frame, biased)
        elif slopes is None and _is_hot(evaluation, current, here, frame):
            source = current.inputs[0]
            if isinstance(source.primitive, Affine) and readers[source] == 1 and not ends(source):
                shifted.add(source)
            sources, change = _in_one_kernel(evaluation, current, here, frame, source in shifted)
        else:
            sources, change = _through_nonlinear(evaluation, current, here, frame, slopes)
        if change is not None:
            total = total + change
        for source, more in zip(current.inputs, sources, strict=True):
            known = pending.get(source)
            pending[source] = more if known is None else frame.add(known, more, source.shape)
    return total


def _is_hot(evaluation: Evaluation, node: Node, rows: Rows, frame: Frame) -> bool:
    """Whether a training step sweeps whole rows of every sample through a two-piece function."""
    if not evaluation.trains or rows.window is not None or frame.sample is not None:
        return False
    return isinstance(node.primitive, Elementwise) and passes_zero(evaluation.parameters[node])


def _in_one_kernel(
    evaluation: Evaluation, node: Node, rows: Rows, frame: Frame, shifted: bool
) -> tuple[Any, Tensor]:
    """Rows through a two-piece function, and through the bias of the affine node before it."""
    lines = [None if t is None else frame.take(t, rows) for t in evaluation.relaxation(node)]
    source, shift = node.inputs[0], None
    if shifted:
        shift = source.primitive.bias(evaluation.parameters[source])  # type: ignore[attr-defined]
    return apply_fused(Lines(*lines), rows, shift, turns=evaluation.slope == "same")


def _through_affine(
    evaluation: Evaluation, node: Node, rows: Rows, frame: Frame, biased: bool
) -> tuple[Any, Tensor | None]:
    primitive, p = node.primitive, evaluation.parameters[node]
    assert isinstance(primitive, Affine)
    shapes = [source.shape for source in node.inputs] + [node.shape]
    change = None
    if rows.window is not None:
        windowed = primitive.windowed
        if windowed is not None:
            bias = primitive.bias(p) if biased else None
            if bias is not None or not windowed.stays_outside:
                rows = frame.mask(rows, node.shape)
            prepared = evaluation.prepared.get((node, rows.extent))
            sources = primitive.transpose_window(p, rows, frame, shapes, prepared)
            if bias is not None:
                change = dot(rows.coefficients, _beside_window(bias, rows, frame, node.shape))
            return sources, change
        rows = frame.dense(rows, node.shape)
    bias = evaluation.bias(node) if biased else None
    if bias is not None:
        change = dot(rows.coefficients, bias)
    sources = primitive.transpose(p, rows.flat(), shapes)
    return [rows.like(source) for source in sources], change


def _beside_window(bias: Tensor, rows: Rows, frame: Frame, shape: tuple[int, ...]) -> Tensor:
    """A bias beside windowed rows that are 0 outside of the map."""
    if len(bias.shape) <= len(shape) - len(rows.extent):  # The same at all places.
        return ops.broadcast_to(bias, (1, 1, *rows.coefficients.shape[2:]))
    return frame.take_shared(ops.broadcast_to(bias, shape), rows)


def _through_nonlinear(
    evaluation: Evaluation, node: Node, rows: Rows, frame: Frame, slopes: Slopes | None
) -> tuple[Any, Tensor]:
    primitive, p, place = node.primitive, evaluation.parameters[node], evaluation.place(node)
    shapes = [source.shape for source in node.inputs] + [node.shape]
    relaxation = evaluation.relaxation(node)
    assert isinstance(primitive, Nonlinear)
    if slopes is not None and primitive.turns:
        return _through_planes(evaluation, node, rows, frame, slopes)
    if slopes is None or not isinstance(primitive, Elementwise):
        return primitive.backward(p, relaxation, rows, frame, shapes)
    if slopes.recording:
        ranges = [None if t is None else frame.take(t, rows) for t in evaluation.slope_tables(node)]
        slopes.ranges[place] = ranges
        slopes.values[place] = [
            None
            if ranges[2 * side] is None
            else frame.take(relaxation[2 * side], rows) + ops.zeros_like(rows.coefficients)
            for side in (0, 1)
        ]
        return primitive.backward(p, relaxation, rows, frame, shapes)
    lower_slope, upper_slope = slopes.values[place]
    if upper_slope is None:  # A two-piece function: its line through 0 may turn, its chord is best.
        lines = [None if t is None else frame.take(t, rows) for t in relaxation]
        return apply_lines(Lines(lower_slope, *lines[1:]), rows)
    # Outside of the map the ends read 0, where a line need not be 0: the coefficients must be.
    rows = frame.mask(rows, node.shape)
    lower, upper = (frame.take(t, rows) for t in evaluation.tables(node.inputs[0]))
    curve = primitive.beside(p, rows, frame, node.shape)
    return apply_lines(curve.lines_with_slopes(lower_slope, upper_slope, lower, upper), rows)


def _through_planes(
    evaluation: Evaluation, node: Node, rows: Rows, frame: Frame, slopes: Slopes
) -> tuple[Any, Tensor]:
    """Through a product of two values, by planes that the rows choose."""
    primitive, p, place = node.primitive, evaluation.parameters[node], evaluation.place(node)
    assert isinstance(primitive, Nonlinear)
    shapes = [source.shape for source in node.inputs] + [node.shape]
    tables = [evaluation.center_tables(source) for source in node.inputs]
    if slopes.recording:
        found = primitive.turn(tables, rows, frame, shapes)
        slopes.values[place] = [*found, None][:2]
        slopes.ranges[place] = [-1.0, 1.0, *([-1.0, 1.0] if len(found) == 2 else [None, None])]
    chosen = None if slopes.recording else slopes.values.get(place)
    if chosen is None:  # A search that splits units keeps the slopes of scalar functions alone.
        return primitive.backward(p, evaluation.relaxation(node), rows, frame, shapes)
    numbers = [number for number in chosen if number is not None]
    return primitive.turned(numbers, tables, rows, frame, shapes)


def _rounding(evaluation: Evaluation, node: Node, rows: Rows, frame: Frame) -> Tensor:
    """What rounding in the execution of a node may take from the rows."""
    error = evaluation.error_table(node)
    return dot(ops.abs(rows.coefficients), frame.take(error, rows))


def _minimum_on_input(evaluation: Evaluation, rows: Rows, frame: Frame) -> Tensor:
    taken = [None if t is None else frame.take(t, rows) for t in evaluation.input_tables]
    return evaluation.region.minimise_beside(rows.coefficients, BoundRegion(*taken))


def _minimum_on_interval(evaluation: Evaluation, node: Node, rows: Rows, frame: Frame) -> Tensor:
    center, radius = (frame.take(t, rows) for t in evaluation.center_tables(node))
    return dot(rows.coefficients, center) - dot(ops.abs(rows.coefficients), radius)


def neuron_rows(
    evaluation: Evaluation, node: Node, sample: Tensor, neuron: Tensor
) -> tuple[Node, Rows, Frame, Tensor | float]:
    """Rows ``+e_j`` and ``-e_j`` of given neurons j of given samples, in one group per neuron.

    Returns:
        The node to start at (a kernel is stepped over by picking its columns), the rows, their
        frame, and the constant that goes with them.
    """
    rank = evaluation.network.spatial[node]
    primitive, p = node.primitive, evaluation.parameters[node]
    if isinstance(primitive, Matrix) and len(node.shape) == 1 and node not in evaluation.errors:
        rows = Rows(_both_signs(backend.gather(p["transposed"], neuron)))
        bias = 0.0 if p["bias"] is None else _both_signs(backend.gather(p["bias"], neuron))
        return node.inputs[0], rows, Frame(sample), bias
    if rank == 0:
        hot = ops.one_hot(neuron, math.prod(node.shape), dtype=evaluation.dtype)
        rows = Rows(backend.reshape(_both_signs(hot), (-1, 2, *node.shape)))
        return node, rows, Frame(sample), 0.0
    rest = node.shape[rank:]
    position, seed = neuron // math.prod(rest), []
    for size in reversed(node.shape[:rank]):
        seed.append(position % size)
        position = position // size
    frame = Frame(sample, ops.stack(seed[::-1], axis=-1))
    window, extent = Window((1,) * rank, (0,) * rank), (1,) * rank
    channel = neuron % math.prod(rest)
    windowed = getattr(primitive, "windowed", None)
    if isinstance(windowed, Sliding) and node not in evaluation.errors and isinstance(p, dict):
        picked = windowed.pick(p["kernel"], channel, node.inputs[0].shape)
        if picked is not None:
            rows = Rows(_both_signs(picked), windowed.moved(window, extent)[0])
            bias = 0.0 if p["bias"] is None else _both_signs(backend.gather(p["bias"], channel))
            return node.inputs[0], rows, frame, bias
    hot = ops.one_hot(channel, math.prod(rest), dtype=evaluation.dtype)
    coefficients = backend.reshape(_both_signs(hot), (-1, 2, *extent, *rest))
    return node, Rows(coefficients, window, clean=True), frame, 0.0


def _both_signs(values: Tensor) -> Tensor:
    """The values and their negatives as two rows, ``(n, 2, ...)``."""
    return ops.stack([values, -values], axis=1)
