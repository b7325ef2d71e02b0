"""Training of l-inf-distance networks, whose certificates are margins."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Unpack

import keras
from keras import ops

from tfcert.bounds import lipschitz
from tfcert.bounds.margins import Margins
from tfcert.layers import distance_layers, point_kernels, set_exponent
from tfcert.objectives.arguments import as_choice
from tfcert.objectives.batch import Batch
from tfcert.objectives.losses import cross_entropy
from tfcert.objectives.objective import RobustObjective
from tfcert.objectives.settings import Radius
from tfcert.regions import LpBall, Region
from tfcert.schedules import Clock
from tfcert.types import Tensor

__all__ = ["LInfDistance"]

_LOSSES = ("boosted", "hinge")
_METHODS = ("lipschitz", "ibp")
_MEANS = ("classes", "rivals")


# The layer of the same name goes without the addition.
@keras.saving.register_keras_serializable(package="tfcert", name="LInfDistanceObjective")
class LInfDistance(RobustObjective):
    """Adds a scaled cross-entropy that fades out and a clipped hinge on the certified margin.

    ``weight CE(s f, y) + clip(1 - m / (2 L eps), 0, 1)``, with the margin
    ``m = f_y - max_{j != y} f_j``, the Lipschitz factor L of the network, and a trained scalar s in
    the cross-entropy. The second term is 0 if the input is certified at the training radius eps.
    The second term has no gradient if the input is misclassified: only the first term trains such
    inputs.

    As `ramp` goes from 0 to 1, the exponent p of all distance layers grows by equal factors from
    its first to its last value, and `weight` shrinks in the same way. After the ramp p is infinite.
    The radius has its full size from the start. Validation and ``verified_accuracy`` use p = inf,
    where certificates hold.

    Args:
        region: The target region, an l-inf ``LpBall``.
        ramp: A schedule from 0 to 1, or a pair ``(begin, end)`` of epochs; default: p infinite at
            once.
        weight: Weight of the cross-entropy, a pair (at ramp 0, at ramp 1), both > 0. The paper uses
            0.05 to 0.0002 on MNIST.
        exponents: The first and the last finite p, from 1 to 1000.
        loss: "boosted" as above, or "hinge": the first paper's ``max(1 - m_j / (2 L eps), 0)``,
            not clipped, without cross-entropy, a mixture of its largest value over the classes
            ``j != y`` and their mean.
        mixture: Share of the mean in "hinge". The authors' code has 0.25.
        mean_over: Divisor of the sum of "hinge" over ``j != y``: "classes", the number of classes,
            as in the authors' code, or "rivals", one less.
        scale_rate: The learning rate of s, as a multiple of the optimizer's (Adam's, or another's
            whose steps do not depend on the size of gradients).
        method: The bound of the margin at the training radius: "lipschitz" as above, or "ibp",
            where the interval bound replaces ``m - 2 L eps``. "ibp" also trains hybrids, whose last
            layers are dense. L is then the factor of the layers before the first distance layer, or
            1 if there are none.
        train_eps: The radius to train at, where it differs from the region's; the papers use 0.45
            for MNIST at 0.3.
        validation_method: The bound method behind ``verified_accuracy``: a name or an object of
            ``tfcert.methods``. Default: `method`.
        property: Must be None: this objective trains margins between classes.
        natural_loss: Must be None.
        property_scale: Must be 1.

    Example:

    >>> region = tfcert.LpBall(0.3, clip=(0.0, 1.0))
    >>> objective = tfcert.objectives.LInfDistance(region, ramp=(25, 400), train_eps=0.45)

    References: Zhang et al., 2022, https://arxiv.org/abs/2110.06850, equation 6; for "hinge" Zhang
    et al., 2021, https://arxiv.org/abs/2102.05363.
    """

    def __init__(
        self,
        region: Region,
        ramp: Any = 1.0,
        weight: Any = (0.05, 0.0002),
        exponents: Any = (8.0, 1000.0),
        *,
        loss: str = "boosted",
        mixture: float = 0.25,
        mean_over: str = "classes",
        scale_rate: float = 0.2,
        method: str = "lipschitz",
        **shared: Unpack[Radius],
    ):
        super().__init__(region, ramp=ramp, **shared)
        if shared.get("property") is not None:
            raise ValueError(
                "`property` must be None: LInfDistance trains margins between classes. "
                f"Received: property={shared['property']!r}."
            )
        if not isinstance(region, LpBall) or region.norm != math.inf:
            raise ValueError(
                f"`region` must be a tfcert.LpBall in the l-inf norm. Received: region={region!r}."
            )
        self.train_radius = self.settings.largest_eps or 0.0
        if not self.train_radius:
            raise ValueError(f"The training radius must be > 0. Received: {self.train_region!r}.")
        self.weight_ends = _pair("weight", weight, 0.0, math.inf)
        self.exponents = _pair("exponents", exponents, 1.0, point_kernels.LARGEST)
        self.loss = as_choice("loss", loss, _LOSSES)
        self.method = as_choice("method", method, _METHODS)
        self.mean_over = as_choice("mean_over", mean_over, _MEANS)
        if not 0.0 <= mixture <= 1.0 or not scale_rate > 0.0:
            raise ValueError(
                "`mixture` must lie in [0, 1] and `scale_rate` be > 0. "
                f"Received: mixture={mixture}, scale_rate={scale_rate}."
            )
        self.mixture, self.scale_rate = float(mixture), float(scale_rate)

    def build(self, trainer: Any) -> None:
        if not distance_layers(trainer.model):
            raise ValueError(
                f"Model {trainer.model.name!r} has no layer of tfcert.layers.LInfDistance or "
                "LInfDistanceConv2D, which this objective trains."
            )
        self._front = _front(trainer.model)
        # Adam's steps do not depend on the size of gradients: s = rate * scale moves by rate times
        # the learning rate.
        self.scale = trainer.add_weight(
            name="scale",
            shape=(),
            initializer=keras.initializers.Constant(1.0 / self.scale_rate),
            trainable=self.loss == "boosted",
        )

    @property
    def term_names(self) -> tuple[str, ...]:
        return ("cross_entropy", "hinge") if self.loss == "boosted" else ("hinge",)

    def exponent(self, clock: Clock) -> Tensor:
        """Returns the exponent p at a time, inf at the end."""
        ramp = self.ramp(clock)
        p = _between(self.exponents, ramp)
        return ops.where(ramp >= 1.0, ops.full_like(p, math.inf), p)

    def first_pass(self, batch: Batch) -> Tensor:
        set_exponent(batch.model, self.exponent(batch.clock))
        return super().first_pass(batch)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        lacking = self.lacking(batch)
        hot = ops.one_hot(batch.y, batch.logits.shape[-1], dtype=lacking.dtype)
        if self.loss == "hinge":
            hinges = ops.maximum(lacking, 0.0) * (1.0 - hot)
            largest = ops.max(hinges, axis=-1)
            count = hot.shape[-1] - (self.mean_over == "rivals")
            mean = ops.sum(hinges, axis=-1) / count
            return {"hinge": (1.0 - self.mixture) * largest + self.mixture * mean}
        worst = ops.max(ops.where(hot > 0, -ops.ones_like(lacking), lacking), axis=-1)
        weight = _between(self.weight_ends, self.ramp(batch.clock))
        scaled = self.scale_rate * ops.convert_to_tensor(self.scale) * batch.logits
        return {
            "cross_entropy": weight * cross_entropy(batch.y, scaled),
            "hinge": ops.clip(worst, 0.0, 1.0),
        }

    def lacking(self, batch: Batch) -> Tensor:
        """Returns ``1 - m_j / (2 L eps)`` for every class j, above 0 without a certificate."""
        eps = self.train_radius
        if self.method == "ibp":
            # Infinite p or not: the rules bound the network as it is.
            region = self.train_region
            known = Margins(batch.model, batch.x, batch.y, region, "ibp", batch.moments)
            return -known.interval() / (2.0 * self.stretch() * eps)
        with _at_infinity(batch.model):
            factor = ops.stop_gradient(lipschitz.factor(batch.model))
        own = ops.take_along_axis(batch.logits, ops.cast(batch.y, "int32")[:, None], axis=-1)
        return 1.0 - (own - batch.logits) / (2.0 * factor * eps)

    def stretch(self) -> Tensor:
        """Returns the Lipschitz factor of the layers before the first distance layer, or 1."""
        if self._front is None:
            return ops.ones((), "float32")
        return ops.stop_gradient(lipschitz.factor(self._front))

    def margins(
        self,
        model: keras.Model,
        x: Tensor,
        y: Tensor,
        shift: Tensor | None = None,
        allowed: int = 0,
    ) -> Tensor:
        with _at_infinity(model):
            return super().margins(model, x, y, shift, allowed)

    @property
    def default_method(self) -> str:
        """The bound method behind ``verified_accuracy``."""
        return self.method

    def current(self, clock: Clock) -> dict[str, Tensor]:
        ends = self.weight_ends
        values = {"inverse_p": 1.0 / self.exponent(clock)}
        if self.loss == "boosted":
            values["weight"] = _between(ends, self.ramp(clock))
            values["scale"] = self.scale_rate * ops.convert_to_tensor(self.scale)
        return values

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight": self.weight_ends,
            "exponents": self.exponents,
            "loss": self.loss,
            "mixture": self.mixture,
            "mean_over": self.mean_over,
            "scale_rate": self.scale_rate,
            "method": self.method,
        }


@contextlib.contextmanager
def _at_infinity(model: keras.Model) -> Iterator[None]:
    """Sets p to infinity, and back."""
    layers = distance_layers(model)
    before = [layer.p + 0.0 for layer in layers]
    set_exponent(model, math.inf)
    try:
        yield
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p.assign(p)


def _front(model: keras.Model) -> keras.Model | None:
    """What lies before the first layer of distances, where that has a Lipschitz factor."""
    start = distance_layers(model)[0]
    try:
        front = keras.Model(model.inputs, start.input)
        lipschitz.factor(front)
    except (NotImplementedError, AttributeError, ValueError):
        return None  # Dense layers in front, or a layer that is used twice or inside of a model.
    return front


def _between(ends: tuple[float, float], ramp: Tensor) -> Tensor:
    """From the first to the last end by equal factors."""
    return ends[0] * ops.exp(math.log(ends[1] / ends[0]) * ramp)


def _pair(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    try:
        first, last = (float(end) for end in value)
    except (TypeError, ValueError):
        first = last = math.nan
    if not (low <= first <= high and low <= last <= high and min(first, last) > 0):
        limits = "> 0" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"`{name}` must be a pair of numbers {limits}. Received: {value!r}.")
    return first, last
