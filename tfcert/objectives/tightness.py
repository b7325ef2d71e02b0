"""Regularisers that make a network's convex relaxation tight."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Unpack

import keras
from keras import ops

from tfcert.bounds import methods
from tfcert.bounds.margins import Margins
from tfcert.bounds.statistics import node_values
from tfcert.network import Network, network_of
from tfcert.objectives.arguments import as_choice
from tfcert.objectives.batch import Batch
from tfcert.objectives.crown_ibp import CrownIBP, SweptLoss
from tfcert.regions import Region
from tfcert.relaxations import TwoPiece
from tfcert.rules.nonlinear import Elementwise
from tfcert.rules.primitives import Node, Nonlinear
from tfcert.types import Tensor

__all__ = ["Tightness", "TightRelaxation", "relaxation_tightness"]

_CHOICES = {
    "base": ("crown-ibp", "fast-lin"),
    "specifications": ("worst", "random", "all"),
    "distance": ("touching", "face"),
    "reduction": ("mean", "sum"),
}


class Tightness(NamedTuple):
    """The distance of a relaxation from the network at the relaxed optimum.

    Attributes:
        gap: ``p'_O - p*_C`` per specification, ``(batch, rows)``: the network's value at the
            relaxed optimum minus the relaxed minimum, at least 0.
        infeasibility: Distance of unstable units from where their active face touches the ReLU,
            ``(batch, rows)``; 0 where none is unstable.
        weighted: The sum over unstable units of ``|coefficient| * distance to the active face``,
            which equals the gap up to rounding.
    """

    gap: Tensor
    infeasibility: Tensor
    weighted: Tensor


def relaxation_tightness(
    known: Margins,
    rows: Tensor,
    moments: dict[Node, Any] | None = None,
    distance: str = "touching",
    reduction: str = "mean",
) -> Tightness:
    """Both regularisers for given linear functions of the scores.

    Args:
        known: Margins with a backward method.
        rows: Coefficients on the scores, ``(batch, rows, classes)``.
        moments: Statistics of batch normalisations, those of ``known``.
        distance: "touching": a unit's distance from the points where its active face meets the
            ReLU, which are 0 for a lower face of slope strictly between 0 and 1, a half line for
            slope 0 or 1, and both ends of the interval for the upper face. "face": the vertical
            distance between ReLU and face.
        reduction: "mean" or "sum" over unstable units.
    """
    network = known.network
    relaxed = known.relaxed_minimum(rows)
    batch, count = ops.shape(rows)[0], rows.shape[1]
    points = ops.reshape(relaxed.point, (-1, *network.input.shape))
    values = node_values(network, {network.input: points}, moments or {})

    def several(node: Node) -> Tensor:
        return ops.reshape(values[node], (batch, count, math.prod(node.shape)))

    reached = ops.sum(rows * several(network.outputs), axis=-1)
    gap = reached - relaxed.value
    total = weighted = units = ops.zeros_like(gap)
    for node in _relu_nodes(network):
        if node not in relaxed.coefficients:
            continue
        interval = known.evaluation.intervals[node.inputs[0]]
        lower, upper = (_flat(t)[:, None] for t in interval.bounds)
        z = several(node.inputs[0])
        coefficients = ops.reshape(relaxed.coefficients[node], ops.shape(z))
        lines = known.evaluation.relaxation(node)
        lines = [None if t is None else _flat(t.tensor)[:, None] for t in lines]
        unstable = ops.cast(ops.logical_and(lower < 0, upper > 0), z.dtype)
        low, high = _faces(z, lines)
        active = ops.where(coefficients >= 0, low, high)
        vertical = ops.abs(ops.relu(z) - active)
        weighted = weighted + ops.sum(unstable * ops.abs(coefficients) * vertical, axis=-1)
        if distance == "face":
            here = vertical
        else:
            here = ops.where(
                coefficients >= 0,
                _from_lower_face(z, lines[0]),
                ops.minimum(ops.abs(z - lower), ops.abs(upper - z)),
            )
        total = total + ops.sum(unstable * here, axis=-1)
        units = units + ops.sum(unstable, axis=-1)
    if reduction == "mean":
        total = total / ops.maximum(units, 1.0)
    return Tightness(gap, total, weighted)


def _flat(tensor: Tensor) -> Tensor:
    return ops.reshape(tensor, (-1, math.prod(tensor.shape[1:])))


def _faces(z: Tensor, lines: list[Any]) -> tuple[Tensor, Tensor]:
    """The lower and the upper face at z; None stands for the intercept 0."""
    low_slope, low_intercept, high_slope, high_intercept = lines
    low, high = low_slope * z, high_slope * z
    if low_intercept is not None:
        low = low + low_intercept
    if high_intercept is not None:
        high = high + high_intercept
    return low, high


def _from_lower_face(z: Tensor, slope: Tensor) -> Tensor:
    flush = ops.logical_or(slope <= 0, slope >= 1)
    return ops.where(flush, ops.relu(z) - slope * z, ops.abs(z))


def _relu_nodes(network: Network) -> list[Node]:
    return [
        node
        for node in network.nodes
        if isinstance(node.primitive, Elementwise)
        and _is_relu(node.primitive.parameters("float32"))
    ]


def _is_relu(curve: Any) -> bool:
    if not isinstance(curve, TwoPiece):
        return False
    slope = curve.negative_slope
    return isinstance(slope, (int, float)) and slope == 0


@keras.saving.register_keras_serializable(package="tfcert")
class TightRelaxation(CrownIBP):
    """Trains a network so that its linear relaxation becomes tight.

    ``CE(worst, y) + lambda * gap + gamma * infeasibility``. The gap is the network's margin at the
    input with the least relaxed margin, minus this relaxed margin. If the gap is 0, the bound is
    exact. The infeasibility is the distance of unstable ReLUs from the points where their active
    face touches the function.

    The paper's abstract says that there are two regularisers, based on the feasibility of the
    relaxed optimum. Their form here is the direct reading, and arguments select the alternatives.

    Args:
        region: The target region.
        gap_weight: lambda, the weight of the gap: a number, a schedule, or a pair (at radius 0, at
            full radius).
        feasibility_weight: gamma, the weight of the infeasibility: a number, a schedule, or a pair
            (at radius 0, at full radius). For ReLU networks only.
        natural_weight: kappa, the share of the clean loss, from 0 to 1: a number, a schedule, or a
            pair (at radius 0, at full radius) between which it moves as the radius grows.
        backward_weight: beta, the share of the backward bound, from 0 to 1: a number, a schedule,
            or a pair (at radius 0, at full radius). By default the loss uses the backward bound
            only.
        base: "crown-ibp", or "fast-lin" for the relaxation of Wong and Kolter, also in hidden
            layers (much slower).
        specifications: "worst": the class with the smallest margin bound; "random": a random class;
            "all": the mean over all classes, which costs one more forward pass for each.
        distance: "touching": a unit's distance from the points where its active face meets the
            ReLU; "face": the vertical distance between ReLU and face.
        reduction: "mean" or "sum" over unstable units.
        slope: The lower line of an unstable ReLU in the CROWN-IBP base: "adaptive" (1 where
            u > -l, else 0), "zero", "one", or "same" (parallel to the upper line).
        regularizer: Weight of the warm-up regularisers of Shi et al. (2021), which fade out as the
            radius grows. They balance how fast intervals widen and how many units stay unstable.
            Use them with ``tfcert.models.ibp_initialization``. The paper uses 0.5.
        tolerance: tau, the tolerance of these regularisers.
        train_eps: The radius for training. Default: the region's radius. The literature trains at a
            larger radius than it tests: on MNIST at 0.2 for 0.1 and at 0.4 for 0.3.
        ramp: The fraction of the training radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line. Default: the full radius at once.
        validation_method: How ``verified_accuracy`` is bounded: a name or an object of
            ``tfcert.methods``. Default: "ibp" where beta ends at 0, else that of the base.
        property: What has to hold on the region in place of labels, of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's outputs against the targets of
            ``fit``, a name or an object of ``keras.losses``. Default: that of the property.
        property_scale: What the margins of the property are divided by in losses.

    References: Zhu et al., 2020, https://arxiv.org/abs/2002.09766; base: Wong and Kolter, 2018,
    https://arxiv.org/abs/1711.00851.
    """

    def __init__(
        self,
        region: Region,
        gap_weight: Any = (0.0, 0.1),
        feasibility_weight: Any = (0.0, 0.1),
        natural_weight: Any = 0.0,
        backward_weight: Any = 1.0,
        *,
        base: str = "crown-ibp",
        specifications: str = "worst",
        distance: str = "touching",
        reduction: str = "mean",
        **shared: Unpack[SweptLoss],
    ):
        super().__init__(region, natural_weight, backward_weight, **shared)
        self.add_weights(gap_weight=gap_weight, feasibility_weight=feasibility_weight)
        self.base, self.specifications = base, specifications
        self.distance, self.reduction = distance, reduction
        for name, choices in _CHOICES.items():
            as_choice(name, getattr(self, name), choices)

    def sweep_method(self) -> methods.Method:
        return methods.FastLin() if self.base == "fast-lin" else super().sweep_method()

    def build(self, trainer: Any) -> None:
        super().build(trainer)
        if self.weights["feasibility_weight"].is_zero:
            return
        network = network_of(trainer.scores)
        known = set(_relu_nodes(network))
        for node in network.nodes:
            if isinstance(node.primitive, Nonlinear) and node not in known:
                raise NotImplementedError(
                    f"Layer {node.name!r} is nonlinear, but not a ReLU: the feasibility "
                    "regulariser is for ReLU networks. Use feasibility_weight=0.0, and the gap "
                    "alone."
                )

    def training_method(self) -> Any:
        # The regularisers need the relaxation, whatever the share of the sweep in the loss.
        return self.share.method

    @property
    def extra_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(n for n in ("gap", "feasibility") if not self.weights[f"{n}_weight"].is_zero)

    @property
    def needs_all_margins(self) -> bool:
        return bool(self.extra_names)  # The regularisers are about the margins of single rivals.

    def extra_terms(self, batch: Batch, known: Margins, worst: Tensor) -> dict[str, Tensor]:
        if not self.extra_names:
            return {}
        rows, share = self._rows(batch, known, worst)
        tightness = relaxation_tightness(known, rows, batch.moments, self.distance, self.reduction)
        found = {"gap": tightness.gap, "feasibility": tightness.infeasibility}
        return {
            name: self.weight(f"{name}_weight", batch.clock) * share * ops.sum(found[name], axis=-1)
            for name in self.extra_names
        }

    def _rows(self, batch: Batch, known: Margins, worst: Tensor) -> tuple[Tensor, float]:
        """The margins to regularise, and what a sum over them is multiplied with."""
        classes = worst.shape[-1]
        if self.specifications == "all":
            return known.other_rows, 1.0 / (classes - 1)
        if self.specifications == "worst":
            scores = ops.stop_gradient(worst)
        else:
            scores = keras.random.uniform(ops.shape(worst), seed=batch.random())
        chosen = ops.argmax(ops.where(known.hot > 0, -math.inf, scores), axis=-1)
        other = ops.one_hot(chosen, classes, dtype=known.hot.dtype)
        return (known.hot - other)[:, None], 1.0

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "base": self.base,
            "specifications": self.specifications,
            "distance": self.distance,
            "reduction": self.reduction,
        }
