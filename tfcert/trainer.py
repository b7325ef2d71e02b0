"""``CertifiedTrainer``: a Keras model around the user's own, which trains an objective."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import keras
from keras import ops

from tfcert import backend, entering, fitting, graph, naming
from tfcert.bounds.statistics import clean_moments
from tfcert.objectives import Batch, Objective
from tfcert.schedules import Clock
from tfcert.types import ArrayLike, PathLike, Tensor

__all__ = ["CertifiedTrainer"]

# What ``fit`` takes besides arrays: a tf.data.Dataset or another source of batches.
DataSet: TypeAlias = keras.utils.PyDataset | Iterable[Any]

Callbacks: TypeAlias = (
    keras.callbacks.Callback | Sequence[keras.callbacks.Callback] | keras.callbacks.CallbackList
)


@keras.saving.register_keras_serializable(package="tfcert")
class CertifiedTrainer(backend.TrainStep, keras.Model):
    """Trains a model with a certified objective, through Keras's own ``compile`` and ``fit``.

    The trainer logs ``loss``; every term of the objective, which add up to the loss; ``accuracy``
    of the clean inputs; ``verified_accuracy``, the share of inputs that are classified right and
    have positive margin bounds at the objective's *target* region; and the values of the schedules
    (``eps`` and others). An invalid input, such as one outside the clip limits, is never verified,
    and a batch with such an input has a loss of NaN. In validation all terms use the target region,
    so you can compare ``val_`` numbers from epoch to epoch. During training, ``verified_accuracy``
    covers a part of each batch, see ``verified_share``.

    ``fit`` tells schedules how long an epoch is. If you call ``train_on_batch`` before the first
    ``fit``, each step counts as an epoch: set ``trainer.steps_per_epoch.assign(...)`` first, or use
    schedules with ``unit="steps"``.

    ``trainer.model`` stays a plain Keras model: save, export and share it without tfcert.

    Args:
        model: A built Sequential or Functional model with one output, ``(batch, classes)``, or
            ``(batch, 1)`` for two classes. Where it has several inputs, ``fit`` takes dictionaries,
            lists or tuples of them, and the objective a region for each. What is trained are its
            logits: a final softmax, or the sigmoid of a single output, is left out of the loss and
            stays in ``trainer.model``.
            Objectives with a region need layers with bound rules, in float32; those of smoothing
            take any layer, and mixed precision (``tfcert.smoothing.in_bfloat16``).
        objective: From ``tfcert.objectives``.
        seed: Decides, together with the step, the order of the samples and all noise.
        verified_share: Share of a training batch that ``verified_accuracy`` is measured on while
            training, 0 for none; validation always measures all.

    Example:

    >>> region = tfcert.LpBall(0.1, clip=(0.0, 1.0))
    >>> trainer = tfcert.CertifiedTrainer(model, tfcert.objectives.IBP(region, ramp=(1, 10)))
    >>> trainer.compile(keras.optimizers.Adam(1e-3))
    >>> history = trainer.fit(x, y, epochs=20, validation_data=(x_test, y_test))
    >>> history.history["val_verified_accuracy"][-1]
    """

    def __init__(
        self,
        model: keras.Model,
        objective: Objective,
        seed: int = 0,
        verified_share: float = 0.125,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not isinstance(objective, Objective):
            raise ValueError(
                "`objective` must be an object of tfcert.objectives, such as "
                f"tfcert.objectives.IBP(region). Received: objective={objective!r}."
            )
        if not 0 <= verified_share <= 1:
            raise ValueError(
                f"`verified_share` must lie in [0, 1]. Received: verified_share={verified_share}."
            )
        if isinstance(seed, bool) or int(seed) != seed or not 0 <= seed < 2**31:
            raise ValueError(f"`seed` must be an integer in [0, 2**31). Received: seed={seed!r}.")
        fitting.check_model(model, objective.aim, bounded=objective.region is not None)
        self.model, self.objective = model, objective
        fitting.settle(self.door, objective.region)
        self.seed, self.verified_share = int(seed), float(verified_share)
        self.step = self._counter("step")
        self.steps_per_epoch = self._counter("steps_per_epoch", 1)
        self.void_step = self._counter("void_step", -1)  # The first one of a fit, if there is one.
        objective.build(self)
        self.trackers = self._make_trackers()
        self.example: tuple | None = None  # Of the data, for messages.
        self.built = True

    def _counter(self, name: str, start: int = 0) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(start),
            trainable=False,
            aggregation="only_first_replica",
        )

    def _make_trackers(self) -> dict[str, keras.Metric]:
        """In the order in which ``metrics_names`` lists them: last what validation leaves out."""
        names = [*self.objective.term_names]
        if self.model.losses:
            names.append("regularization")
        names.append(self.objective.accuracy_name)
        if self.objective.region is not None:
            names.append("verified_accuracy")
        names.extend(self.objective.logged_notes)
        trackers = {name: keras.metrics.Mean(name) for name in names}
        return trackers | {name: fitting.Latest(name) for name in self._schedule_names()}

    @property
    def classes(self) -> int:
        """Number of the model's scores; two where it has a single output."""
        return self.scores.output_shape[1]

    @property
    def scores(self) -> keras.Model:
        """The model of the scores in the loss, with the variables of ``model``.

        Scores leave out a final softmax, and are (0, z) for a single output z. Several inputs are
        one vector.
        """
        bounded = self.objective.region is not None
        return self.objective.aim.scored(self._model_of_vectors, read=bounded)

    @property
    def plain(self) -> keras.Model:
        """The model whose outputs decide: ``scores``, or what a property is asked of."""
        bounded = self.objective.region is not None
        return self.objective.aim.plain(self._model_of_vectors, read=bounded).model

    @property
    def _model_of_vectors(self) -> keras.Model:
        """The model, or where it has several inputs the model of one vector."""
        return self.model if self.door is None else self.door.model

    @property
    def door(self) -> entering.Joined | None:
        """The way from several inputs to the vectors that ``scores`` takes; None for one input."""
        return entering.joined(self.model)

    def inputs_of(self, x: entering.Inputs, training: bool = False) -> Tensor:
        """Returns the inputs of ``scores`` for inputs of ``model``."""
        if self.door is not None:
            return self.door.vector(x, training)
        return ops.cast(x, self.scores.inputs[0].dtype)  # Data sets bring types of their own.

    def call(self, inputs: entering.Inputs, training: bool | None = None) -> Tensor:
        """The model's own outputs."""
        return self.model(inputs, training=training)

    def compile(
        self,
        optimizer: str | dict[str, Any] | keras.optimizers.Optimizer = "adam",
        *,
        jit_compile: bool | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures the optimizer, the metrics and the compilation of training.

        Args:
            optimizer: A Keras optimizer.
            jit_compile: Whether XLA compiles the steps. "auto" uses XLA on JAX and on TensorFlow
                with a GPU. On a CPU, XLA makes TensorFlow's convolutions several times slower
                (benchmarks/training.py).
            **kwargs: Other arguments of ``keras.Model.compile``, such as more ``metrics`` of the
                logits, or ``steps_per_execution``. The loss is the objective's.
        """
        if kwargs.get("loss") is not None:
            raise ValueError(
                "CertifiedTrainer takes its loss from the objective. "
                f"Received: loss={kwargs['loss']!r}. Use keras.Model for another loss."
            )
        if self.objective.region is not None:
            kwargs["auto_scale_loss"] = False
            scaled = getattr(optimizer, "loss_scale_factor", None) is not None
            if scaled or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                raise ValueError(
                    "Certified training is in float32, which needs no loss scale. Received: "
                    f"optimizer={type(optimizer).__name__} with a scale. Pass one without: not "
                    "LossScaleOptimizer but the optimizer inside of it, no loss_scale_factor."
                )
        if jit_compile == "auto":
            jit_compile = backend.prefers_xla()
        super().compile(optimizer, jit_compile=jit_compile, **kwargs)

    # Training.

    def evaluate(
        self,
        x: ArrayLike | DataSet | None = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        verbose: int | Literal["auto"] = "auto",
        sample_weight: ArrayLike | None = None,
        **kwargs: Any,
    ) -> Any:  # A number, a list or, with return_dict, a dictionary of them.
        """Evaluates the model as ``keras.Model.evaluate`` does, with the checks of ``fit``."""
        if not kwargs.get("_use_cached_eval_dataset"):  # Keras's fit: checked before training.
            x, y, sample_weight, batch_size = fitting.checked(self, x, y, sample_weight, batch_size)
        return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)

    def fit(
        self,
        x: ArrayLike | DataSet | None = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Callbacks | None = None,
        validation_split: float = 0.0,
        validation_data: Sequence[ArrayLike] | DataSet | None = None,
        shuffle: bool = True,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains the model as ``keras.Model.fit`` does, with checks of the data and ``augment``.

        The trainer's seed and the epoch decide the order of arrays, so a resumed run sees the
        samples in the order of an unbroken run. A ``tf.data.Dataset`` keeps its own order. For
        arrays of images ``augment`` is "none", "crop" (random shifts by up to ``crop_pixels``,
        default 4) or "crop_flip" (shifts and random mirroring). ``crop_fill`` says what is beyond
        the border: "black" or "edge".
        """
        self._assert_compile_called("fit")
        naming.mark(self.model, self.objective.bound)
        arguments = {
            "batch_size": batch_size,
            "epochs": epochs,
            "verbose": verbose,
            "callbacks": callbacks,
            "validation_split": validation_split,
            "validation_data": validation_data,
            "shuffle": shuffle,
            **kwargs,
        }
        data, kwargs = fitting.prepare(self, x, y, arguments)
        if not self.optimizer.built:  # Inside of the first step it would cost another trace.
            self.optimizer.build(self.trainable_variables)
        return super().fit(data, **kwargs)

    def batch_of(self, data: tuple[Any, ...], train: bool, logits: Tensor | None = None) -> Batch:
        """Returns what the objective sees of a batch; runs the first pass without given logits."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self.inputs_of(x, train)
        plain, aim = self.plain, self.objective.aim
        truth = aim.truth(x, y, plain.output_shape[1])
        step = self.step + 0  # The value: a variable would be read when it is used.
        clock = Clock(step, self.steps_per_epoch + 0, final=not train)
        batch = Batch(
            model=self.scores,
            x=x,
            y=truth.y,
            logits=logits,
            clock=clock,
            training=train,
            seed=self._noise_seed(step, train),
            sample_weight=sample_weight,
            known=truth.known,
            plain=plain,
            targets=truth.targets,
            shift=truth.shift,
            allowed=truth.allowed,
        )
        if logits is None:
            if train:
                self._reseed_layers(step)
            batch.logits = self.objective.first_pass(batch)
        # Behind the first pass, which may change what the layers compute (an exponent).
        if train and self.objective.needs_moments:
            batch.moments = clean_moments(self.scores, x)
        return batch

    def _noise_seed(self, step: Tensor, train: bool) -> Tensor:
        """Another one in every step; in validation in every batch, the same in all epochs."""
        if not train:  # The samples seen so far: set back to 0 before each validation.
            seen = self.trackers[self.objective.accuracy_name].count
            step = -1 - ops.cast(seen + 0, "int32")
        return ops.stack([self._own_seed(), step])

    def _own_seed(self) -> Tensor:
        # Replicas of a tf.distribute strategy have samples of their own, hence noise of their own.
        return ops.convert_to_tensor(self.seed, dtype="int32") + 1_000_003 * backend.replica()

    def _reseed_layers(self, step: Tensor) -> None:
        """The layers' own noise, such as Dropout's, follows from the seed and the step, too.

        Keras saves neither the seed that it chose for a layer nor how often that was used.
        """
        for index, generator in enumerate(graph.seed_generators(self.model)):
            # Each use in a step counts on by 1. The other numbers keep off the step's own noise.
            key = ops.stack([self._own_seed() + 7_368_787 * (index + 1), 1024 * step])
            generator.state.assign(ops.cast(key, generator.state.dtype))

    def losses_of(self, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The losses whose gradients are taken, and the terms.

        The only loss is the sum of the terms. For an objective with ``separate``, each term is a
        loss, followed by the regularisation of the model's weights.
        """
        terms = {name: batch.mean(term) for name, term in self.objective.terms(batch).items()}
        if tuple(terms) != self.objective.term_names:
            raise ValueError(
                f"{type(self.objective).__name__}.terms must give the terms that its term_names "
                f"lists, {self.objective.term_names}. Received: {tuple(terms)}."
            )
        # Nothing is known about labels that do not exist, nor about inputs that the region cannot
        # be put around: the step is void.
        known = ops.all(self._admitted(batch))
        terms = {name: ops.where(known, term, math.nan) for name, term in terms.items()}
        separate = list(terms.values())
        weights = self.model.losses  # Weight decay and the like.
        if weights:
            terms["regularization"] = sum(weights)
            separate.append(terms["regularization"])
        if self.objective.separate and batch.training:
            return separate, terms
        return [sum(terms.values())], terms

    def combine(
        self, terms: dict[str, Tensor], gradients: list[list[Tensor]], batch: Batch
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """One gradient from those of ``losses_of``."""
        if not self.objective.separate:
            return terms, gradients[0]
        own = {name: terms[name] for name in self.objective.term_names}
        joined, gradient = self.objective.combine(own, gradients[: len(own)], batch)
        for more in gradients[len(own) :]:  # Regularisation, whose weight is its own.
            gradient = [a + b for a, b in zip(gradient, more, strict=True)]
        return {**terms, **joined}, gradient

    def log(
        self, loss: Tensor, terms: dict[str, Tensor], batch: Batch, data: Any
    ) -> dict[str, Tensor]:
        """Updates all metrics and returns their results."""
        size = ops.shape(batch.x)[0]
        graph.loss_tracker(self).update_state(loss, sample_weight=size)
        for name, term in terms.items():
            self.trackers[name].update_state(term, sample_weight=size)
        right = self.objective.correct(batch)
        right = right * ops.cast(batch.known, right.dtype)
        self.trackers[self.objective.accuracy_name].update_state(right)
        self._log_verified(batch, right)
        if batch.training:
            for name, value in self.objective.current(batch.clock).items():
                self.trackers[name].update_state(value)
            for name in self.objective.logged_notes:
                self.trackers[name].update_state(batch.notes[name], sample_weight=size)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        logs = self.compute_metrics(x, y, self.objective.predictions(batch), sample_weight)
        unknown = []
        if not batch.training:
            unknown = [*self._schedule_names(), *self.objective.logged_notes]
        if batch.training and self.verified_share == 0:
            unknown = ["verified_accuracy"]
        return {name: value for name, value in logs.items() if name not in unknown}

    def _log_verified(self, batch: Batch, right: Tensor) -> None:
        if "verified_accuracy" not in self.trackers:
            return
        x, y, shift, admitted = batch.x, batch.y, batch.shift, self._admitted(batch)
        if batch.training:
            if self.verified_share == 0:
                return
            assert self.objective.region is not None
            if not self.objective.region.varies(x):  # Else it is made for the whole batch.
                count = self._verified_count(x)
                x, y, right, admitted = (part[:count] for part in (x, y, right, admitted))
                shift = None if shift is None else shift[:count]
        margins = self.objective.margins(self.scores, x, y, shift, batch.allowed)
        hot = ops.one_hot(y, self.classes, dtype="bool")
        least = ops.min(ops.where(hot, ops.full_like(margins, float("inf")), margins), axis=-1)
        verified = ops.logical_and(least > 0, admitted)
        self.trackers["verified_accuracy"].update_state(right * ops.cast(verified, right.dtype))

    def _admitted(self, batch: Batch) -> Tensor:
        """Which samples have a label and an input that the target region can be put around."""
        region = self.objective.region
        if region is None:
            return batch.known
        return ops.logical_and(batch.known, region.admits(ops.cast(batch.x, "float32")))

    def _verified_count(self, x: Tensor) -> Any:
        size = x.shape[0]
        if size is not None:
            return math.ceil(self.verified_share * size)
        # In TensorFlow one program serves batches of all sizes.
        size = ops.cast(ops.shape(x)[0], "float32")
        return ops.cast(ops.ceil(self.verified_share * size), "int32")

    def _schedule_names(self) -> list[str]:
        return list(self.objective.current(Clock()))

    def count_step(self, finite: Tensor) -> None:
        """Goes on to the next step, and notes the first one that was void."""
        first = ops.logical_and(self.void_step < 0, ops.logical_not(finite))
        self.void_step.assign(ops.where(first, self.step + 0, self.void_step + 0))
        self.step.assign(self.step + 1)

    # Saving.

    def export(self, filepath: PathLike, *args: Any, **kwargs: Any) -> None:
        """Exports the model inside as ``keras.Model.export`` does: scores without certificates.

        Use ``tfcert.export_certified`` to serve certificates with the predictions.
        """
        self.model.export(filepath, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a trainer that was loaded, with its optimizer's state to come."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "objective": keras.saving.serialize_keras_object(self.objective),
            "seed": self.seed,
            "verified_share": self.verified_share,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> CertifiedTrainer:
        config = dict(config)
        for name in ("model", "objective"):
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        return cls(**config)
