"""Domains whose every unit is on a known piece: the network is affine there, and a linear program
decides.

SciPy's HiGHS solves it in float64. The half-spaces are pushed outward by more than its tolerance,
and a minimum counts by as much less, so that neither decides in the solver's favour.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.branching.layout import Layout
from tfcert.network import Network
from tfcert.rules.primitives import Constant, Node, Nonlinear

__all__ = ["AffinePiece", "Minimum", "least_value"]

Array = npt.NDArray[np.float64]

# Beyond HiGHS's own tolerances, which are 1e-7.
_SLACK = 1e-6
# Inputs whose effect is computed at a time.
_CHUNK = 256


class Minimum(NamedTuple):
    """The minimum of a linear program.

    Attributes:
        value: The least value, inf where there is no point, -inf where the solver found neither.
        point: Where it is attained, flat; None where there is none.
        multipliers: ``(constraints,)``, of the half-spaces, >= 0; None likewise.
    """

    value: float
    point: Array | None
    multipliers: Array | None


class AffinePiece:
    """A network on the part of a box where every unit is on a known piece.

    Args:
        network: The network; its nonlinear nodes are two-piece functions.
        layout: Of the network.
        lower: Lower limits of the box, ``input_shape``.
        upper: Upper limits.
        piece: ``(units,)``: 1 where a unit is >= 0, -1 where it is <= 0.

    Attributes:
        free: The inputs that are not fixed, flat places.
        lower: The limits of all inputs, flat.
        upper: The same.
    """

    def __init__(self, network: Network, layout: Layout, lower: Any, upper: Any, piece: Any):
        self.network, self.layout = network, layout
        self.lower = np.asarray(lower, np.float64).ravel()
        self.upper = np.asarray(upper, np.float64).ravel()
        self.free = np.flatnonzero(self.upper > self.lower)
        self._factors = self._factors_of(np.asarray(piece))
        self._parameters = {
            node: node.primitive.parameters("float64")
            for node in network.nodes
            if not isinstance(node.primitive, Nonlinear)
        }
        self._matrices, self._offsets = self._affine()

    def _factors_of(self, piece: npt.NDArray[Any]) -> dict[Node, Array]:
        """By two-piece function, its slope on the piece of each unit."""
        factors = {}
        for spot, readers in zip(self.layout.units, self.layout.readers, strict=True):
            if self.layout.smooth[self.layout.units.index(spot)]:
                continue  # Refused below.
            own = piece[spot.start : spot.stop].reshape(spot.shape)
            for place in readers:
                node = self.network.nodes[place]
                curve = node.primitive.parameters("float64")
                below = np.asarray(ops.convert_to_numpy(curve.negative_slope), np.float64)
                factors[node] = np.where(own > 0, 1.0, np.broadcast_to(below, spot.shape))
        for node in self.network.nodes:
            if isinstance(node.primitive, Nonlinear) and node not in factors:
                raise NotImplementedError(
                    f"Layer {node.name!r}: splitting units needs a network whose nonlinear layers "
                    "are all ReLU, LeakyReLU, PReLU or absolute values."
                )
        return factors

    def _values(self, inputs: Array) -> tuple[Array, Array]:
        """All units and the outputs at some flat inputs."""
        network = self.network
        given = ops.convert_to_tensor(inputs.reshape(-1, *network.input.shape))
        values: dict[Node, Any] = {network.input: given}
        for node in network.nodes:
            if node in values:
                continue
            sources = [values[source] for source in node.inputs]
            if node in self._factors:
                values[node] = sources[0] * self._factors[node]
            else:
                values[node] = node.primitive.apply(self._parameters[node], *sources)
                if isinstance(node.primitive, Constant):
                    shape = (len(inputs), *node.shape)
                    values[node] = ops.broadcast_to(values[node], shape)
        units = [
            ops.reshape(values[network.nodes[spot.place]], (len(inputs), -1))
            for spot in self.layout.units
        ]
        outputs = ops.reshape(values[network.outputs], (len(inputs), -1))
        return ops.convert_to_numpy(ops.concatenate(units, axis=-1)), ops.convert_to_numpy(outputs)

    def _affine(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Matrices ``(free inputs, units or outputs)`` and offsets, from the lower limits on."""
        count, parts = len(self.free) + 1, []
        for start in range(0, count, _CHUNK):
            steps = np.arange(start, min(start + _CHUNK, count))
            points = np.repeat(self.lower[None], len(steps), axis=0)
            moved = np.flatnonzero(steps)  # The first point is the corner itself.
            points[moved, self.free[steps[moved] - 1]] += 1.0
            parts.append(self._values(points))
        units, outputs = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return (units[1:] - units[0], outputs[1:] - outputs[0]), (units[0], outputs[0])

    def least(self, signs: Any, rows: Array, offsets: Array) -> Minimum:
        """The least value of the largest margin on the part of the box with given signs.

        Args:
            signs: ``(units,)``: of the units that bound the part; 0: none.
            rows: ``(rows, outputs)``.
            offsets: ``(rows,)``.
        """
        signs = np.asarray(signs)
        used = np.flatnonzero(signs)
        (units, outputs), (unit_offsets, output_offsets) = self._matrices, self._offsets
        found = least_value(
            (outputs @ rows.T).T,
            output_offsets @ rows.T + offsets,
            (units[:, used] * signs[used]).T,
            unit_offsets[used] * signs[used],
            self.upper[self.free] - self.lower[self.free],
        )
        if found.point is None:
            return found
        point = self.lower.copy()
        point[self.free] += found.point
        return found._replace(point=np.clip(point, self.lower, self.upper))


def least_value(
    rows: Array, offsets: Array, normals: Array, depths: Array, widths: Array
) -> Minimum:
    """The least of ``max(rows @ x + offsets)`` over a box, cut by half-spaces.

    The box is ``0 <= x <= widths``, and in the half-spaces ``normals @ x + depths >= 0``.

    Args:
        rows: ``(rows, inputs)``.
        offsets: ``(rows,)``.
        normals: ``(constraints, inputs)``.
        depths: ``(constraints,)``.
        widths: ``(inputs,)``.

    Returns:
        The minimum; its point is x.
    """
    linprog = _linprog()
    scale = np.abs(normals) @ widths + np.abs(depths)
    scale = np.where(scale > 0, scale, 1.0)
    # Variables: x and the value t; rows @ x - t <= -offsets.
    above = np.concatenate([rows, -np.ones((len(rows), 1))], axis=1)
    inside = np.concatenate([-normals / scale[:, None], np.zeros((len(normals), 1))], axis=1)
    cost = np.zeros(len(widths) + 1)
    cost[-1] = 1.0
    solved = linprog(
        cost,
        A_ub=np.concatenate([above, inside]),
        b_ub=np.concatenate([-offsets, depths / scale + _SLACK]),
        bounds=[*((0.0, width) for width in widths), (None, None)],
        method="highs",
    )
    if solved.status == 2:
        return Minimum(math.inf, None, None)
    if solved.status != 0:
        return Minimum(-math.inf, None, None)
    size = np.abs(rows).max(initial=0.0, axis=0) @ widths + np.abs(offsets).max()
    multipliers = -solved.ineqlin.marginals[len(rows) :] / scale
    return Minimum(solved.fun - _SLACK * size, solved.x[:-1], np.maximum(multipliers, 0.0))


def _linprog() -> Any:
    try:
        from scipy.optimize import linprog
    except ImportError as reason:
        raise ImportError(
            "This search needs SciPy for parts whose units are all split: pip install "
            "tfcert[verify]."
        ) from reason
    return linprog
