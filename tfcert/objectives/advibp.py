"""AdvIBP: adversarial and certified loss as two objectives, joined by their past gradients."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Unpack

import keras
from keras import ops

from tfcert.bounds import methods
from tfcert.network import network_of
from tfcert.objectives.arguments import as_count, as_switch
from tfcert.objectives.attacking import Place, SignedSteps
from tfcert.objectives.batch import Batch, mean_of
from tfcert.objectives.latent import check_frozen, latent_node
from tfcert.objectives.losses import cross_entropy, worst_case_logits
from tfcert.objectives.mixture import SweepShare
from tfcert.objectives.moments import GradientMoments
from tfcert.objectives.objective import RobustObjective
from tfcert.objectives.phases import Phases
from tfcert.objectives.settings import Radius
from tfcert.regions import Region
from tfcert.schedules import Clock, Schedule, get
from tfcert.types import Tensor

__all__ = ["AdvIBP"]


@keras.saving.register_keras_serializable(package="tfcert")
class AdvIBP(RobustObjective):
    """Trains jointly on an attack's loss L1 and on the certified loss L2.

    In the joint phase each step follows ``c1 g1 + c2 g2`` (and ``L2 g2`` more in a conflict), with
    weights from moving averages of *past* gradients (``tfcert.objectives.moments``). Three phases
    come first. While both radii are 0, the loss is the loss of clean inputs. While the attack's
    radius grows, the loss is L1. While the certified radius grows, the loss is L2.

    Some arguments follow the released code. ``clean_warmup=True``: while the attack's radius should
    grow, the release trains on clean inputs, because its attack runs at the certified radius.
    ``gradients="first"`` (the default, because it is cheap): the weights use the gradient of the
    first layer's kernel only; the theory uses ``"all"``. ``rescale=True``: the main phase rescales
    the weights. The release's CROWN-IBP variant is incomplete; here it is
    ``backward_weight=(1.0, 0.0)``. The quality of the attack is measured over the clipped box,
    which the attack cannot leave.

    During training the History shows means over the epoch of this ``quality``, and of c1 and c2 as
    ``weight_adversarial`` and ``weight_certified``.

    Args:
        region: The target region, with norm inf.
        ramp: The fraction of the certified radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs for a straight line. Default: the full radius at once.
        attack_ramp: The fraction of the attack's radius: a schedule from 0 to 1, or a pair
            ``(begin, end)`` of epochs. It grows before `ramp` does.
        joint_begin: The epoch from which both objectives are joined, not before the ramp ends;
            default: when it ends.
        conflict_threshold: c_t, a number or a schedule. In a conflict, L1 leads if the attack's
            quality is at most c_t. c_t scales with 1 / batch size: the paper's values are for a
            batch of 256.
        attack_steps: Steps of the attack: one of 1.25 eps, or several of eps / 2.
        gradients: "first" or "all": the weights of the model whose gradients decide, see above.
        rescale: Whether to multiply c1 and c2 by the norm of g1 if the gradients agree.
        clean_warmup: Whether the phase of the growing attack trains on clean inputs, see above.
        stage: Number of the stage, from 1 on. In stage l > 1 the attack searches the input of the
            l-th layer with weights, within its interval, and all earlier layers must be frozen: see
            ``tfcert.objectives.next_stage``.
        backward_weight: beta, the share of CROWN-IBP's backward bound, from 0 to 1: a number, a
            schedule, or a pair (at radius 0, at full radius). 0.0 for AdvIBP, ``(1.0, 0.0)`` for
            AdvCROWN-IBP.
        train_eps: The radius to train at, where it differs from the region's. The literature
            trains at a larger radius than it tests at: MNIST at 0.2 for 0.1 and at 0.4 for 0.3.
        validation_method: How ``verified_accuracy`` is bounded: a name or an object of
            ``tfcert.methods``. Default: "ibp" where beta ends at 0, else "crown-ibp".
        property: What has to hold on the region in place of labels, of ``tfcert.properties``.
        natural_loss: With a property: the loss of the model's outputs against the targets of
            ``fit``, a name or an object of ``keras.losses``. Default: that of the property.
        property_scale: What the margins of the property are divided by in losses.

    Reference: Fan and Li, 2021, https://arxiv.org/abs/2008.06081, and the authors' code.
    """

    separate: ClassVar[bool] = True
    logged_notes: ClassVar[tuple[str, ...]] = ("quality", "weight_adversarial", "weight_certified")

    def __init__(
        self,
        region: Region,
        ramp: Any = 1.0,
        attack_ramp: Any = 1.0,
        joint_begin: float | None = None,
        conflict_threshold: Any = 0.0,
        *,
        attack_steps: int = 1,
        gradients: str = "first",
        rescale: bool = True,
        clean_warmup: bool = False,
        stage: int = 1,
        backward_weight: Any = 0.0,
        **shared: Unpack[Radius],
    ):
        super().__init__(region, ramp=ramp, **shared)
        self.add_weights(most=1.0, backward_weight=backward_weight)
        if self.target.norm != math.inf:
            raise ValueError(f"AdvIBP needs a region of norm inf. Received: region={region!r}.")
        self.share = SweepShare(self.weights["backward_weight"], methods.CrownIBP())
        self.phases = Phases(self.ramp, attack_ramp, joint_begin)
        self.conflict_threshold = get(conflict_threshold)
        self.attack_steps = as_count("attack_steps", attack_steps)
        self.stage = as_count("stage", stage)
        self.gradients = gradients
        self.rescale = as_switch("rescale", rescale)
        self.clean_warmup = as_switch("clean_warmup", clean_warmup)
        if gradients not in ("first", "all"):
            raise ValueError(f'`gradients` must be "first" or "all". Received: {gradients!r}.')
        self.attack = SignedSteps(self.attack_steps, 1.25 if self.attack_steps == 1 else 0.5)
        self.moments: GradientMoments | None = None

    def build(self, trainer: Any) -> None:
        super().build(trainer)
        if self.moments is not None:
            raise ValueError(
                "This AdvIBP objective keeps the averages of another trainer. Create one "
                "objective for each trainer: AdvIBP.from_config(objective.get_config())."
            )
        if self.stage > 1:
            check_frozen(trainer.model, self.stage)
        self._trained = trainer.model  # Of several inputs, batches have a model of some of it.
        variables = self._trained.trainable_variables
        if not variables:
            raise ValueError(f"Model {trainer.model.name!r} has no trainable weights.")
        self._variables = list(variables)
        if self.gradients == "first":
            # The first weight tensor with an input and an output axis: a kernel, no bias.
            kernels = [i for i, v in enumerate(variables) if len(v.shape) >= 2] or [0]
            self._watched = kernels[:1]
        else:
            self._watched = list(range(len(variables)))
        shapes = [variables[i].shape for i in self._watched]
        self.moments = GradientMoments(trainer, shapes)

    # Schedules.

    @property
    def joint_begin(self) -> float | None:
        """The epoch at which joint training starts; None: the end of the ramp."""
        return self.phases.joint_begin

    @property
    def default_method(self) -> Any:
        """The bound method behind ``verified_accuracy``, as at the end of training."""
        return self.share.last_method

    def schedules(self) -> dict[str, Schedule]:
        threshold = {"conflict_threshold": self.conflict_threshold}
        return {**super().schedules(), **self.phases.schedules(), **threshold}

    def current(self, clock: Clock) -> dict[str, Tensor]:
        eps, ramp = self.settings.largest_eps, self.phases.attack_ramp(clock)
        return {
            **super().current(clock),
            **({"attack_ramp": ramp} if eps is None else {"attack_eps": ramp * eps}),
            "conflict_threshold": self.conflict_threshold(clock),
        }

    def weight(self, name: str, clock: Clock) -> Tensor:
        """Returns a weight at this step; 0 for the sweep while L2 is not used."""
        value = super().weight(name, clock)
        if name != "backward_weight":
            return value
        _, certified = self.phases.parts(clock)
        return ops.where(certified, value, ops.zeros_like(value))

    # Losses.

    term_names = ("adversarial", "robust")

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        adversarial, certified = self.phases.parts(batch.clock)
        nothing = ops.zeros_like(batch.logits[:, 0])
        first, quality = ops.cond(
            adversarial,
            lambda: self.adversarial_loss(batch),
            lambda: (nothing, ops.zeros((), dtype=nothing.dtype)),
        )
        if self.share.is_zero:
            second = ops.cond(certified, lambda: self.certified_loss(batch), lambda: nothing)
        else:
            # The sweep is a branch of its own, which rests too (``weight``): XLA on TensorFlow has
            # no gradient of a branch inside of a branch. Intervals cost little beside it.
            second = ops.where(certified, self.certified_loss(batch), nothing)
        batch.notes["quality"] = quality
        return {"adversarial": first, "robust": second}

    def certified_loss(self, batch: Batch) -> Tensor:
        """Returns the cross-entropy of worst-case logits, ``(batch,)``."""
        known = self.bounds(batch, self.share.training_method)
        margins = self.share.margins(known, self.weight("backward_weight", batch.clock))
        return cross_entropy(batch.y, worst_case_logits(margins))

    def adversarial_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the loss at attacked points, and the mean quality of the attack."""
        place = self.attacked_place(batch)
        points, off = self.attack(place, self.conflict_threshold(batch.clock))
        return cross_entropy(batch.y, place.scores(points)), mean_of(off)

    def attacked_place(self, batch: Batch) -> Place:
        """Returns the place of the attack: the input, or the input of a later stage's layer."""
        if self.stage > 1:
            node = latent_node(network_of(batch.model), self.stage)
            return batch.at_node(node, self.bounds(batch, "ibp").evaluation.intervals[node])
        if batch.clock.final:
            return batch.at_input(self.target)
        ramp = self.ramp if self.clean_warmup else self.phases.attack_ramp
        return batch.at_input(self.train_region.scaled(ramp(batch.clock)))

    # Gradients.

    def combine(
        self, terms: dict[str, Tensor], gradients: list[list[Tensor]], batch: Batch
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        assert self.moments is not None
        if [*map(id, self._trained.trainable_variables)] != [*map(id, self._variables)]:
            raise ValueError(
                "Layers were frozen or unfrozen after the trainer was created, but AdvIBP keeps "
                "averages of the gradients of the earlier weights. Create a new trainer and "
                "objective: AdvIBP.from_config(objective.get_config())."
            )
        adversarial, certified = self.phases.parts(batch.clock)
        joint = ops.logical_and(adversarial, certified)
        g1, g2 = gradients
        first, second = ([g[i] for i in self._watched] for g in (g1, g2))
        leads = batch.notes["quality"] <= self.conflict_threshold(batch.clock)
        # A void step leaves no trace in the averages, even where its gradients are finite.
        valid = ops.isfinite(sum(terms.values()))
        active = ops.logical_and(joint, valid)
        c1, c2, conflict = self.moments.weights(first, second, active, leads, self.rescale)
        one, zero = ops.ones_like(c1), ops.zeros_like(c1)
        c1 = ops.where(joint, c1, ops.where(adversarial, one, zero))
        c2 = ops.where(joint, c2, ops.where(certified, one, zero))
        batch.notes.update(weight_adversarial=c1, weight_certified=c2)
        l1, l2 = terms["adversarial"], terms["robust"]
        more = ops.where(ops.logical_and(joint, conflict), one, zero)
        logged = {"adversarial": c1 * l1, "robust": c2 * l2 + 0.5 * more * l2**2}
        factor = c2 + more * l2
        return logged, [c1 * a + factor * b for a, b in zip(g1, g2, strict=True)]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self.phases.get_config(),
            "conflict_threshold": keras.saving.serialize_keras_object(self.conflict_threshold),
            "attack_steps": self.attack_steps,
            "gradients": self.gradients,
            "rescale": self.rescale,
            "clean_warmup": self.clean_warmup,
            "stage": self.stage,
        }
