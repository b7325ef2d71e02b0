"""Callbacks for ``fit``, which act between epochs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.bounds.statistics import batch_moments, normalizing_nodes
from tfcert.entering import Inputs, joined
from tfcert.fitting import taken
from tfcert.network import network_of
from tfcert.trainer import CertifiedTrainer

__all__ = ["PopulationStatistics"]


class PopulationStatistics(keras.callbacks.Callback):
    """Computes the statistics of batch normalisation over the training set after every epoch.

    Certificates use moving averages, which lag behind the weights. This callback gives each layer
    the mean and the variance of its inputs over all samples; earlier layers normalise by the batch,
    as in a training step. The callback takes one pass over the samples for each epoch. Validation
    of the epoch uses the new statistics. If the optimizer averages weights (``use_ema``), the
    statistics are computed once more for the averages. Frozen layers keep their statistics;
    ``MeanShift`` receives the mean.

    Args:
        x: The training inputs, an array; of several inputs a dictionary or a tuple of arrays. They
            are not augmented.
        batch_size: Samples in a pass; that of training, since the layers before one normalise by
            the batch.

    Example:

    >>> statistics = tfcert.callbacks.PopulationStatistics(x, batch_size=256)
    >>> trainer.fit(x, y, batch_size=256, epochs=20, callbacks=[statistics])

    Reference: Wu and Johnson, 2021, https://arxiv.org/abs/2105.07576, section 3.
    """

    def __init__(self, x: Inputs, batch_size: int = 256):
        super().__init__()
        several = isinstance(x, (dict, tuple))
        self.x = keras.tree.map_structure(np.asarray, x) if several else np.asarray(x)
        self.samples = len(keras.tree.flatten(self.x)[0])
        if not (isinstance(batch_size, (int, np.integer)) and batch_size >= 1):
            raise ValueError(
                f"`batch_size` must be a positive integer. Received: batch_size={batch_size!r}."
            )
        if not self.samples:
            raise ValueError("`x` must hold the training inputs. Received: x without samples.")
        self.batch_size, self._due = int(batch_size), False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._due = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._refresh()  # Validation comes before the end of the epoch.

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._refresh()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._due = bool(getattr(self.model.optimizer, "use_ema", False))
        self._refresh()

    def _refresh(self) -> None:
        if self._due:
            trainer = self.model
            self.apply(trainer.model if isinstance(trainer, CertifiedTrainer) else trainer)
        self._due = False

    def apply(self, model: keras.Model) -> None:
        """Sets the moving statistics of a model to those of the samples."""
        door = joined(model)
        network = network_of(model if door is None else door.model)
        nodes = normalizing_nodes(network)
        if not nodes:
            return
        moments = backend.compile_function(lambda x: batch_moments(network, x), model)
        sums: list[Any] = [0.0] * len(nodes)
        for start in range(0, self.samples, self.batch_size):
            batch = taken(self.x, slice(start, start + self.batch_size))
            vectors = batch if door is None else door.vector(batch)
            found = moments(ops.convert_to_tensor(vectors, dtype=network.dtype))
            for index, pair in enumerate(found):
                mean, variance = (ops.convert_to_numpy(t).astype("float64") for t in pair)
                # Sums of x and of its square, which add up over batches of any size.
                sums[index] += len(vectors) * np.stack([mean, variance + mean**2])
        for node, total in zip(nodes, sums, strict=True):
            mean, square = total / self.samples
            node.primitive.keep(mean, np.maximum(square - mean**2, 0.0))  # type: ignore[attr-defined]
