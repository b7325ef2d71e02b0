"""Training steps and their data in TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfcert.backend import shared
from tfcert.backend.tensorflow_devices import replicas
from tfcert.types import Tensor

__all__ = ["TrainStep", "pipeline"]


def pipeline(batches: keras.utils.PyDataset) -> Any:
    """Batches as ``fit`` and ``evaluate`` take them: a data set of TensorFlow, not tuned by it.

    The thread that tunes a data set sleeps for 10 ms, then 20 ms, twice as long every time, and in
    TensorFlow 2.21 the end of an epoch often waits until it wakes: an epoch of 10.3 s took 20.5 s,
    whatever pipeline Keras makes of arrays. There is nothing to tune here.
    """

    def generate() -> Iterator[tuple]:
        for index in range(len(batches)):
            yield batches[index]

    specs = keras.tree.map_structure(
        lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype), batches[0]
    )
    data = tf.data.Dataset.from_generator(generate, output_signature=specs)
    data = data.apply(tf.data.experimental.assert_cardinality(len(batches)))
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.prefetch(2).with_options(options)


class TrainStep:
    """The step of a trainer: gradients of its losses, joined, applied and logged.

    A mixin before ``keras.Model``; the trainer gives ``batch_of``, ``losses_of``, ``combine`` and
    ``log``. A step whose loss or gradient is NaN or infinite is void: it changes neither weights
    nor statistics nor the optimizer.
    """

    def train_step(self: Any, data: Any) -> dict[str, Any]:
        """One step of training, for Keras\'s fit."""
        count = replicas()
        kept = shared.changed_by_layers(self.model)
        if tf.distribute.has_strategy():  # The optimizer cannot leave out a step, see below.
            kept = [*kept, *self.trainable_variables, *self.optimizer.variables]
        before = [tf.identity(variable.value) for variable in kept]
        tape: Any = contextlib.nullcontext()
        if tf.executing_eagerly():  # ``run_eagerly``, for debugging.
            tape = tf.GradientTape(persistent=self.objective.separate)
        with tape:
            batch = self.batch_of(data, True)
            losses, terms = self.losses_of(batch)
            # The optimizer adds up the gradients of all replicas.
            scaled = [self.optimizer.scale_loss(loss / count) for loss in losses]
        variables = self.trainable_variables
        # TensorFlow's own variables: zeros for an unconnected one are made of its type.
        values = [variable.value for variable in variables]
        # A tape traces conditions anew for gradients of gradients, and a persistent one keeps all
        # of a loop, such as an attack, which XLA then refuses.
        derive = tape.gradient if tf.executing_eagerly() else tf.gradients
        gradients = [derive(loss, values, unconnected_gradients="zero") for loss in scaled]
        del tape
        spread = count > 1 and self.objective.separate
        if spread:  # How they are joined depends on the whole batch.
            context = tf.distribute.get_replica_context()
            terms, batch.notes = context.all_reduce("MEAN", (terms, batch.notes))
            gradients = context.all_reduce("SUM", gradients)
        terms, gradient = self.combine(terms, gradients, batch)
        if spread:  # All replicas have the whole gradient.
            gradient = [part / count for part in gradient]
        loss = sum(terms.values())
        finite = shared.is_finite(loss, gradient, self.optimizer)
        if count > 1:  # Of all of them: none goes on alone.
            context = tf.distribute.get_replica_context()
            finite = context.all_reduce("SUM", tf.cast(finite, "float32")) > count - 0.5
        logged, kept_finite = shared.only_finite(finite, loss, gradient)
        logs = self.log(logged, terms, batch, data)
        if variables:  # A frozen model has none.
            self._update(finite, gradient, kept_finite, variables)
        for variable, value in zip(kept, before, strict=True):
            variable.assign(tf.where(finite, variable.value, value))
        self.count_step(finite)
        return logs

    def _update(
        self: Any,
        finite: Tensor,
        gradient: list[Tensor],
        kept_finite: list[Tensor],
        variables: list[Any],
    ) -> None:
        """Applies gradients, unless the step is void.

        Args:
            finite: Whether it is not.
            gradient: The gradient.
            kept_finite: The same, 0 where the step is void.
            variables: What is trained.
        """
        if tf.distribute.has_strategy():  # None applies gradients inside of a condition.
            self._apply(kept_finite, variables)
            return
        if not self.optimizer.built:  # No variables are made inside of a condition.
            self.optimizer.build(variables)
        tf.cond(finite, lambda: self._apply(gradient, variables), lambda: None)

    def _apply(self: Any, gradient: list[Tensor], variables: list[Any]) -> None:
        self.optimizer.apply_gradients(zip(gradient, variables, strict=True))

    def test_step(self: Any, data: Any) -> dict[str, Any]:
        """One step of evaluation, for Keras\'s evaluate and for validation."""
        batch = self.batch_of(data, False)
        _, terms = self.losses_of(batch)
        return self.log(sum(terms.values()), terms, batch, data)
