"""What the margins of a training run are about: the classes of labels, or a property of outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcert import checks, heads
from tfcert.network import checked_model, derived_from
from tfcert.objectives.arguments import as_positive
from tfcert.objectives.batch import Batch
from tfcert.objectives.losses import cross_entropy
from tfcert.properties import OutputProperty
from tfcert.types import Tensor

__all__ = ["NO_LABELS", "Aim", "Asked", "Truth", "aim_of"]

NO_LABELS = (
    "`y` must hold integer labels: pass x and y, or a data set of pairs (x, y). Received: y=None."
)


class Truth(NamedTuple):
    """What is known of the right answers of a batch.

    Attributes:
        y: Integer labels of the scores, ``(batch,)``.
        known: Which inputs have an answer, ``(batch,)``.
        targets: What came with the batch, where a property is asked in place of labels.
        shift: What the targets add to the scores, ``(batch, scores)``; None for nothing.
        allowed: How many scores may reach that of the label.
    """

    y: Tensor
    known: Tensor
    targets: Tensor | None = None
    shift: Tensor | None = None
    allowed: int = 0


class Aim:
    """Labels: the largest score is that of the label."""

    # Layers that ``scored`` puts behind those of the model.
    added_layers = 0
    # Whether scores are logits of classes, whose order decides.
    ranks = True
    # The property in place of labels.
    asked: Any = None

    def allows_some(self, outputs: int) -> bool:
        """Whether some scores may reach that of the label."""
        return False

    def plain(self, model: keras.Model, read: bool = True) -> heads.Scored:
        """The model whose outputs decide."""
        return heads.scored(model, read=read)

    def scored(self, model: keras.Model, read: bool = True) -> keras.Model:
        """The model that is trained, with the variables of the user's: it gives the scores."""
        return self.plain(model, read).model

    def checked(self, y: Any, inputs: int, outputs: int) -> np.ndarray:
        """Labels, or targets, as an array that batches can be drawn from; raises if none can.

        Args:
            y: What ``fit`` was given.
            inputs: The number of inputs.
            outputs: The number of outputs of ``plain``.
        """
        if y is None:
            raise ValueError(NO_LABELS)
        y = checks.integer_labels(np.asarray(ops.convert_to_numpy(y)), outputs)
        checks.check_labels(y, inputs, outputs)
        return y

    def truth(self, x: Tensor, y: Tensor, outputs: int) -> Truth:
        """What the labels of a batch say; labels that do not exist become 0."""
        del x
        if y is None:
            raise ValueError(NO_LABELS)
        y = checks.integer_labels(ops.convert_to_tensor(y), outputs)
        if len(y.shape) != 1:
            raise ValueError(
                f"Labels must be integers of shape (batch,), or one-hot rows of {outputs} classes. "
                f"Received: shape {tuple(y.shape)}."
            )
        y = ops.cast(y, "int32")
        known = ops.logical_and(y >= 0, y < outputs)
        return Truth(ops.where(known, y, ops.zeros_like(y)), known)

    def first_pass(self, batch: Batch) -> Tensor:
        """The scores of the clean inputs, in training mode while training."""
        return batch.model(batch.x, training=batch.training)

    def natural(self, batch: Batch) -> Tensor:
        """The loss of the clean inputs, ``(batch,)``."""
        return cross_entropy(batch.y, batch.logits)

    def predictions(self, batch: Batch) -> Tensor:
        """What metrics of ``compile`` see."""
        return batch.logits

    def correct(self, batch: Batch) -> Tensor:
        """Which inputs the first pass answers rightly, ``(batch,)``."""
        classes = ops.cast(ops.argmax(batch.logits, axis=-1), "int32")
        return ops.equal(classes, batch.y)

    def check_terms(self, names: tuple[str, ...], natural_weight: Any) -> None:
        """Raises where an objective has no part for what was given."""

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this aim."""
        return {}


class Asked(Aim):
    """A property: its margins take the place of those between classes.

    The scores are 0 and ``-margin / scale`` for each margin of the property, and 0 is the label of
    every input. So the margin bounds, the attacks and the losses of an objective are those of the
    property: the cross-entropy of the scores is ``log(1 + sum_i exp(-margin_i / scale))``, a smooth
    measure of its violation.

    Where not all margins are needed, as by ``TopK``, the least ones that may be negative are left
    out: the loss is that of all others, which are positive exactly where enough margins are. See
    ``tfcert.bounds.ranking``.

    Args:
        asked: The property.
        natural_loss: The loss of the model's own outputs against the targets of ``fit``: a name or
            an object of ``keras.losses``. None: the property's loss at the clean input.
        scale: What margins are divided by.
    """

    added_layers = 1

    def __init__(self, asked: OutputProperty, natural_loss: Any, scale: float):
        self.asked, self.natural_loss = asked, natural_loss
        self.scale = as_positive("property_scale", scale)
        self.ranks = asked.ranks
        if asked.is_class():
            raise ValueError(
                "`property` is what labels say: leave it out, and pass labels to fit. "
                f"Received: property={asked!r}."
            )
        if natural_loss is not None:
            keras.losses.get(natural_loss)  # Raises for what is none.

    def plain(self, model: keras.Model, read: bool = True) -> heads.Scored:
        if self.ranks:
            return heads.scored(model, read=read)
        return heads.Scored(checked_model(model))

    def scored(self, model: keras.Model, read: bool = True) -> keras.Model:
        plain = self.plain(model, read).model
        return derived_from(plain).once(self._scored)

    def allows_some(self, outputs: int) -> bool:
        return self._allowed(outputs) > 0

    def _allowed(self, outputs: int) -> int:
        """How many margins may be negative."""
        count = len(self._lines(outputs)[0])
        return count - self.asked.needed(count)

    def checked(self, y: Any, inputs: int, outputs: int) -> np.ndarray:
        if y is None and not self._needs_targets(outputs):
            return np.zeros((inputs,), "int32")
        if y is None:
            raise ValueError(
                "`y` must hold the targets that `property` or `natural_loss` measures outputs by. "
                "Received: y=None."
            )
        y = np.asarray(ops.convert_to_numpy(y))
        if y.dtype.kind not in "fiu" or len(y) != inputs or not np.isfinite(y).all():
            raise ValueError(
                f"`y` must hold finite numbers for each of {inputs} inputs. "
                f"Received: y of shape {y.shape} and type {y.dtype}."
            )
        return y

    def truth(self, x: Tensor, y: Tensor, outputs: int) -> Truth:
        entries = ops.reshape(x, (ops.shape(x)[0], -1))[:, 0]
        label, known = ops.zeros_like(entries, dtype="int32"), ops.ones_like(entries, dtype="bool")
        if y is None and self._needs_targets(outputs):
            raise ValueError("`y` must hold the targets of each batch. Received: y=None.")
        allowed = self._allowed(outputs)
        if y is None:
            return Truth(label, known, allowed=allowed)
        y = ops.convert_to_tensor(y)
        factors = self._lines(outputs)[2]
        if outputs == 1 and len(y.shape) == 1:
            y = y[:, None]
        if factors is None:
            return Truth(label, known, y, allowed=allowed)
        if len(y.shape) != 2 or y.shape[1] != outputs:
            raise ValueError(
                f"Targets must have the shape (batch, {outputs}), that of the model's outputs. "
                f"Received: shape {tuple(y.shape)}."
            )
        y = ops.cast(y, "float32")
        known = ops.all(ops.isfinite(y), axis=1)
        shift = ops.matmul(ops.where(known[:, None], y, ops.zeros_like(y)), -factors.T)
        return Truth(label, known, y, ops.pad(shift, ((0, 0), (1, 0))), allowed)

    def first_pass(self, batch: Batch) -> Tensor:
        assert batch.plain is not None
        outputs = batch.plain(batch.x, training=batch.training)
        batch.notes["outputs"] = outputs
        kernel, bias = self._head(outputs.shape[-1])
        return batch.deciding(ops.matmul(outputs, kernel) + bias)

    def natural(self, batch: Batch) -> Tensor:
        if self.natural_loss is None:
            return super().natural(batch)
        loss = keras.losses.get(self.natural_loss)
        function = loss.call if isinstance(loss, keras.losses.Loss) else loss
        values = function(batch.targets, batch.notes["outputs"])
        return ops.mean(ops.reshape(values, (ops.shape(values)[0], -1)), axis=1)

    def predictions(self, batch: Batch) -> Tensor:
        return batch.notes["outputs"]

    def correct(self, batch: Batch) -> Tensor:
        own = ops.cast(ops.one_hot(batch.y, batch.logits.shape[-1]), "bool")
        rival = ops.max(ops.where(own, -np.inf, batch.logits), axis=-1)
        return ops.sum(ops.where(own, batch.logits, 0.0), axis=-1) > rival

    def check_terms(self, names: tuple[str, ...], natural_weight: Any) -> None:
        if self.natural_loss is None:
            return
        if "natural" not in names or (natural_weight is not None and natural_weight.is_zero):
            raise ValueError(
                "`natural_loss` needs an objective with a natural term whose weight is above 0, "
                "such as IBP, or natural_weight=0.5. "
                f"Received: natural_loss={self.natural_loss!r} for an objective without."
            )

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "property": serialize(self.asked),
            "natural_loss": serialize(self.natural_loss),
            "property_scale": self.scale,
        }

    def _needs_targets(self, outputs: int) -> bool:
        return self.natural_loss is not None or self._lines(outputs)[2] is not None

    def _lines(self, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows, offsets and factors of the targets, in the units of the scores."""
        parts = self.asked.fixed_margins(outputs)
        rows, offsets, factors = (
            None if part is None else (part / self.scale).astype("float32") for part in parts
        )
        assert rows is not None and offsets is not None
        return rows, offsets, factors

    def _head(self, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias that make the scores from the outputs."""
        rows, offsets, _ = self._lines(outputs)
        return np.pad(-rows.T, ((0, 0), (1, 0))), np.pad(-offsets, (1, 0))

    def _scored(self, plain: keras.Model) -> keras.Model:
        kernel, bias = self._head(plain.output_shape[-1])
        layer = keras.layers.Dense(len(bias), trainable=False)
        inputs = plain.inputs[0] if len(plain.inputs) == 1 else plain.inputs
        scores = keras.Model(inputs, layer(plain.outputs[0]), name=plain.name)
        layer.set_weights([kernel, bias])
        return scores


class Ranked(Asked):
    """A property of the scores whose class comes with each batch, as ``TopK(None, k)``.

    The scores are those of the model, divided by ``scale``, and the labels are those of the batch.
    """

    def checked(self, y: Any, inputs: int, outputs: int) -> np.ndarray:
        return Aim.checked(self, y, inputs, outputs)

    def truth(self, x: Tensor, y: Tensor, outputs: int) -> Truth:
        found = Aim.truth(self, x, y, outputs)
        return found._replace(targets=found.y, allowed=self._allowed(outputs))

    def _allowed(self, outputs: int) -> int:
        return outputs - 1 - self.asked.needed(outputs - 1)

    def _head(self, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        self._allowed(outputs)  # Raises where the property does not fit the model.
        return np.eye(outputs, dtype="float32") / self.scale, np.zeros(outputs, "float32")


def aim_of(asked: Any, natural_loss: Any, scale: float) -> Aim:
    """The aim of an objective with these arguments; labels without a property."""
    if asked is None:
        if natural_loss is not None or scale != 1.0:
            raise ValueError(
                "`natural_loss` and `property_scale` go with `property`: with labels the loss is "
                f"the cross-entropy. Received: natural_loss={natural_loss!r}, "
                f"property_scale={scale!r}, property=None."
            )
        return Aim()
    if not isinstance(asked, OutputProperty):
        raise ValueError(
            f"`property` must be an object of tfcert.properties. Received: property={asked!r}."
        )
    kind = Ranked if asked.takes_labels else Asked
    return kind(asked, natural_loss, scale)
