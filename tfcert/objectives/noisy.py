"""The base class of objectives for randomized smoothing, with noisy copies of each input."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcert.objectives.arguments import as_count
from tfcert.objectives.batch import Batch
from tfcert.objectives.losses import cross_entropy
from tfcert.objectives.objective import Objective
from tfcert.schedules import Constant, Schedule
from tfcert.smoothing import drawing
from tfcert.smoothing.noise import Gaussian, resolve
from tfcert.types import Tensor

__all__ = ["NoisyObjective"]


class NoisyObjective(Objective):
    """The base class of objectives with several noisy copies of each input.

    Noise is added to the inputs as they come, so that normalisation belongs into the model, and is
    not clipped. It is fresh in every step, and follows from the trainer's seed and the step. The
    logged accuracy is that of single noisy copies.

    Args:
        sigma: Standard deviation of the noise, in the units of the input.
        copies: m: noisy copies of each input. The papers cut a batch of 256 into m chunks of
            256 / m, each a step of its own: pass ``batch_size=256 // m`` to ``fit``.
        noise: Instead of sigma (then None): another noise that ``SmoothedClassifier`` certifies.
    """

    accuracy_name = "noisy_accuracy"

    def __init__(self, sigma: float | None, copies: int = 1, noise: Any = None):
        super().__init__()
        self.noise = resolve(sigma, noise)
        self.copies = as_count("copies", copies)

    def build(self, trainer: Any) -> None:
        super().build(trainer)
        if trainer.door is not None:
            raise NotImplementedError(
                f"Model {trainer.model.name!r} has {len(trainer.door.names)} inputs, and smoothing "
                "is for models with one: a radius holds for the noise that all of it gets. "
                "Concatenate the inputs that noise is for, and split them inside the model."
            )

    def weight_of(self, name: str, batch: Batch) -> Tensor:
        """A weight at this step, in the type of the scores."""
        return ops.cast(self.weight(name, batch.clock), batch.logits.dtype)

    def first_pass(self, batch: Batch) -> Tensor:
        """Scores of all copies, ``(batch, copies, classes)``."""
        return self._scores(batch, self.inputs(batch), batch.training)

    def inputs(self, batch: Batch) -> Tensor:
        """Returns the inputs to which noise is added."""
        return batch.x

    def _noise(self, batch: Batch) -> Tensor:
        """``(batch, copies, *input_shape)``."""
        shape = (self.copies, *batch.x.shape[1:])
        size = batch.x.shape[0] or ops.shape(batch.x)[0]
        dtype = keras.backend.standardize_dtype(batch.x.dtype)
        return drawing.draw(self.noise, batch.seed[None], (size, *shape), dtype)[0]

    def _scores(
        self, batch: Batch, x: Tensor, training: bool, noise: Tensor | None = None
    ) -> Tensor:
        noise = self._noise(batch) if noise is None else noise
        noisy = ops.reshape(x[:, None] + noise, (-1, *batch.x.shape[1:]))
        scores = batch.model(noisy, training=training)
        return ops.reshape(scores, (-1, self.copies, scores.shape[-1]))

    def predictions(self, batch: Batch) -> Tensor:
        """The mean softmax of the copies, ``(batch, classes)``."""
        return ops.mean(ops.softmax(batch.logits), axis=1)

    def correct(self, batch: Batch) -> Tensor:
        """The share of copies that are classified correctly, ``(batch,)``."""
        classes = ops.cast(ops.argmax(batch.logits, axis=-1), "int32")
        return ops.mean(ops.cast(classes == batch.y[:, None], "float32"), axis=1)

    def noisy_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of every copy, averaged over them."""
        shape = ops.shape(batch.logits)
        labels = ops.broadcast_to(batch.y[:, None], shape[:2])
        return ops.mean(cross_entropy(labels, batch.logits), axis=1)

    def schedules(self) -> dict[str, Schedule]:
        known = self.settings.weight_schedules()
        return {k: v for k, v in known.items() if not isinstance(v, Constant)}

    def get_config(self) -> dict[str, Any]:
        gaussian = isinstance(self.noise, Gaussian)
        noise = {} if gaussian else {"noise": keras.saving.serialize_keras_object(self.noise)}
        return {
            "sigma": self.noise.scale if gaussian else None,
            "copies": self.copies,
            **noise,
            **self.settings.weights_config(),
        }
