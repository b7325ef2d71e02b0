"""AdvIBP: adversarial and certified loss as two objectives, joined by their past gradients."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import ops

from tfcert import backend
from tfcert.network import network_of
from tfcert.objectives.arguments import as_count, as_switch
from tfcert.objectives.crown_ibp import CrownIBP
from tfcert.objectives.latent import check_frozen, latent_node, scores_from
from tfcert.objectives.losses import cross_entropy, worst_case_logits
from tfcert.objectives.moments import GradientMoments
from tfcert.objectives.objective import Batch, mean_of, ramp_of
from tfcert.regions import Region
from tfcert.schedules import Clock, Piecewise, Schedule, get
from tfcert.types import Tensor

__all__ = ["AdvIBP"]


@keras.saving.register_keras_serializable(package="tfcert")
class AdvIBP(CrownIBP):
    """Joint training on an attack's loss L1 and on the certified loss L2.

    In the joint phase each step follows ``c1 g1 + c2 g2`` (and ``L2 g2`` more in a conflict), with
    weights from moving averages of *past* gradients (``tfcert.objectives.moments``). Before it come
    three phases: while both radii are 0 the loss is that of clean inputs; while the attack's radius
    grows, L1; while the certified radius grows, L2.

    What the released code does differently can be had by a switch where that makes sense: its
    attack runs at the certified radius while the attack's should grow, so that phase trains on
    clean inputs (``clean_warmup=True``); it takes the weights from the first layer's kernel alone
    (``gradients="first"``, the default, since it is cheap; ``"all"`` is what the theory speaks of);
    it rescales the weights in the main phase (``rescale=True``). Its CROWN-IBP variant is
    configured but incomplete there; here it is ``backward_weight=(1.0, 0.0)``. The measure of the
    attack's quality is taken over the clipped box, which the attack cannot leave.

    While training the History shows means over the epoch of that measure, ``quality``, and of c1
    and c2, ``weight_adversarial`` and ``weight_certified``.

    Args:
        region: The target region, with norm inf.
        ramp: Of the certified radius, from 0 to 1.
        attack_ramp: Of the attack's radius, before it.
        joint_begin: Epoch from which both objectives are joined, not before the ramp ends;
            default: when it ends.
        conflict_threshold: c_t: an attack whose measure is at most this leads in a conflict; a
            number or a schedule. It scales with 1 / batch size: papers' values are for 256.
        attack_steps: Steps of the attack: one of 1.25 eps, or several of eps / 2.
        gradients: "first" or "all".
        rescale: Whether the weights of an agreement are multiplied by the norm of g1.
        clean_warmup: See above.
        stage: 1; in stage l > 1 the attack is on the input of the l-th layer with weights, within
            its interval, and all layers before it must be frozen: ``tfcert.objectives.next_stage``.
        backward_weight: 0.0 for AdvIBP, ``(1.0, 0.0)`` for AdvCROWN-IBP.
        train_eps: See ``RobustObjective``.
        validation_method: See ``RobustObjective``.

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
        train_eps: float | None = None,
        validation_method: Any = None,
    ):
        super().__init__(
            region,
            natural_weight=0.0,
            backward_weight=backward_weight,
            train_eps=train_eps,
            ramp=ramp,
            validation_method=validation_method,
        )
        if region.norm != math.inf:
            raise ValueError(f"AdvIBP needs a region of norm inf. Received: region={region!r}.")
        self.attack_ramp = ramp_of("attack_ramp", attack_ramp)
        self.joint_begin = None if joint_begin is None else float(joint_begin)
        self._check_order()
        self.conflict_threshold = get(conflict_threshold)
        self.attack_steps = as_count("attack_steps", attack_steps)
        self.stage = as_count("stage", stage)
        self.gradients = gradients
        self.rescale = as_switch("rescale", rescale)
        self.clean_warmup = as_switch("clean_warmup", clean_warmup)
        if gradients not in ("first", "all"):
            raise ValueError(f'`gradients` must be "first" or "all". Received: {gradients!r}.')
        self.moments: GradientMoments | None = None

    def build(self, trainer: Any) -> None:
        super().build(trainer)
        if self.moments is not None:
            raise ValueError(
                "This AdvIBP objective keeps the averages of another trainer. Make one for each: "
                "AdvIBP.from_config(objective.get_config())."
            )
        if self.stage > 1:
            check_frozen(trainer.model, self.stage)
        variables = trainer.model.trainable_variables
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

    # Phases.

    def _check_order(self) -> None:
        attack, ramp, begin = self.attack_ramp, self.ramp, self.joint_begin

        def grown_at(time: float) -> float:
            return float(ramp.value_at(ops.convert_to_tensor(time, "float32")))

        if ramp.last < 1.0:
            raise ValueError(
                "`ramp` must end at 1, where the joint phase begins; to train at a smaller radius "
                f"set `train_eps`. Received: ramp={ramp!r}."
            )
        if begin is not None and not grown_at(begin) >= 1.0:  # NaN, too.
            raise ValueError(
                "`joint_begin` must not lie before the end of `ramp`: until then the certified "
                f"loss is alone. Received: joint_begin={begin} and ramp={ramp!r}."
            )
        if not attack.end or attack.unit != ramp.unit:
            return  # Epochs and steps compare only once the length of an epoch is known.
        if grown_at(attack.end) > 0.0:
            raise ValueError(
                "`attack_ramp` must end before `ramp` leaves 0: from there on the attack rests. "
                f"Received: attack_ramp={attack!r} and ramp={ramp!r}."
            )

    def schedules(self) -> dict[str, Schedule]:
        known = {
            **super().schedules(),
            "attack_ramp": self.attack_ramp,
            "conflict_threshold": self.conflict_threshold,
        }
        if self.joint_begin is not None:
            known["joint_begin"] = self._joined
        return known

    @property
    def _joined(self) -> Schedule:
        return Piecewise([self.joint_begin or 0.0], [0.0, 1.0], self.ramp.unit)

    def current(self, clock: Clock) -> dict[str, Tensor]:
        values = super().current(clock)
        values.pop("natural_weight")
        eps, ramp = self._largest_eps(), self.attack_ramp(clock)
        return {
            **values,
            **({"attack_ramp": ramp} if eps is None else {"attack_eps": ramp * eps}),
            "conflict_threshold": self.conflict_threshold(clock),
        }

    def phase(self, clock: Clock) -> tuple[Tensor, Tensor]:
        """Whether the adversarial and the certified loss take part (both: the joint phase)."""
        ramp = self.ramp(clock)
        joint = ramp >= 1.0
        if self.joint_begin is not None:
            joint = ops.logical_and(joint, self._joined(clock) >= 1.0)
        certified = ramp > 0.0
        return ops.logical_or(joint, ops.logical_not(certified)), certified

    def weight(self, name: str, clock: Clock) -> Tensor:
        """A weight at this step; that of the sweep is 0 while the certified loss rests."""
        value = super().weight(name, clock)
        if name != "backward_weight":
            return value
        _, certified = self.phase(clock)
        return ops.where(certified, value, ops.zeros_like(value))

    # Losses.

    @property
    def term_names(self) -> tuple[str, ...]:
        return ("adversarial", "robust")

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        adversarial, certified = self.phase(batch.clock)
        batch.moments  # noqa: B018 - made outside of the branches below, which both read it.
        nothing = ops.zeros_like(batch.logits[:, 0])
        first, quality = ops.cond(
            adversarial,
            lambda: self._adversarial(batch),
            lambda: (nothing, ops.zeros((), dtype=nothing.dtype)),
        )
        if self.weights["backward_weight"].is_zero:
            second = ops.cond(certified, lambda: self._certified(batch), lambda: nothing)
        else:
            # The sweep is a branch of its own, which rests too (``weight``): XLA on TensorFlow has
            # no gradient of a branch inside of a branch. Intervals cost little beside it.
            second = ops.where(certified, self._certified(batch), nothing)
        batch.notes["quality"] = quality
        return {"adversarial": first, "robust": second}

    def _certified(self, batch: Batch) -> Tensor:
        known = self.bounds(batch, self.training_method())
        return cross_entropy(batch.y, worst_case_logits(self.margin_bounds(batch, known)))

    def _adversarial(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss at attacked points, and how far these are from stationary, on average."""
        lower, upper, reach, scores = self._attacked_box(batch)
        points, quality = self._attack(batch, scores, lower, upper, reach)
        return cross_entropy(batch.y, scores(points)), quality

    def _attacked_box(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Where the attack moves, what its steps are measured in, and the scores there.

        Steps are measured in the radius before clipping: half of the clipped box would shorten
        them where an input lies at a limit, as most pixels of a digit do.
        """
        if self.stage > 1:
            node = latent_node(network_of(batch.model), self.stage)
            known = self.bounds(batch, "ibp")
            interval = known.evaluation.intervals[node]
            reach = 0.5 * (interval.upper - interval.lower)
            return interval.lower, interval.upper, reach, scores_from(batch, node)
        if batch.clock.final:
            region = self.target
        else:
            ramp = self.ramp if self.clean_warmup else self.attack_ramp
            region = self.train_region.scaled(ramp(batch.clock))
        lower, upper, *_ = region.bind(batch.x)
        return lower, upper, region.reach(batch.x), batch.forward

    def _attack(
        self, batch: Batch, scores: Any, lower: Tensor, upper: Tensor, reach: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Signed gradient steps in a box, and ``sum(r |g|) - <x - centre, g>`` at their end.

        The second number is 0 exactly at a stationary point of the box. As in the paper, g is the
        gradient of the *mean* loss of the batch; samples below the threshold rest.

        Reference: Wang et al., On the convergence and robustness of adversarial training, ICML
        2019, equation 6.
        """
        lower, upper, reach = map(ops.stop_gradient, (lower, upper, reach))
        center, radius = 0.5 * (lower + upper), 0.5 * (upper - lower)
        uniform = keras.random.uniform(ops.shape(lower), dtype=lower.dtype, seed=batch.random())
        points = lower + uniform * (upper - lower)
        length = 1.25 if self.attack_steps == 1 else 0.5
        threshold = self.conflict_threshold(batch.clock)
        axes = tuple(range(1, len(lower.shape)))

        def measure(points: Tensor) -> tuple[Tensor, Tensor]:
            def mean_loss(variables: list[Tensor]) -> tuple[Tensor, Tensor]:
                loss = ops.mean(cross_entropy(batch.y, scores(variables[0]))) / backend.replicas()
                return loss, loss

            _, _, (gradient,) = backend.value_and_gradients(mean_loss, [points])
            off = ops.sum(radius * ops.abs(gradient), axis=axes)
            off = off - ops.sum((points - center) * gradient, axis=axes)
            return gradient, off

        for step in range(self.attack_steps):
            gradient, off = measure(points)
            move = length * reach * ops.sign(gradient)
            if step > 0:
                going = ops.cast(off > threshold, points.dtype)
                move = move * ops.reshape(going, (-1,) + (1,) * len(axes))
            points = ops.maximum(ops.minimum(points + move, upper), lower)
        points = ops.stop_gradient(points)
        _, off = measure(points)
        return points, ops.stop_gradient(mean_of(off))

    # Gradients.

    def combine(
        self, terms: dict[str, Tensor], gradients: list[list[Tensor]], batch: Batch
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        assert self.moments is not None
        if [*map(id, batch.model.trainable_variables)] != [*map(id, self._variables)]:
            raise ValueError(
                "Layers were frozen or made trainable after the trainer was made, and AdvIBP keeps "
                "averages of the gradients of the weights as they were. Make a new trainer and "
                "objective: AdvIBP.from_config(objective.get_config())."
            )
        adversarial, certified = self.phase(batch.clock)
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
        config = super().get_config()
        for name in ("natural_weight", "slope", "regularizer", "tolerance"):
            del config[name]
        return {
            **config,
            "attack_ramp": keras.saving.serialize_keras_object(self.attack_ramp),
            "joint_begin": self.joint_begin,
            "conflict_threshold": keras.saving.serialize_keras_object(self.conflict_threshold),
            "attack_steps": self.attack_steps,
            "gradients": self.gradients,
            "rescale": self.rescale,
            "clean_warmup": self.clean_warmup,
            "stage": self.stage,
        }
