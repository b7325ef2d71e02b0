"""Callbacks that watch a training run."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, graph
from tfcert.bounds import methods, propagation
from tfcert.fitting.samples import Shuffled
from tfcert.network import network_of
from tfcert.schedules import Clock

__all__ = ["EpochBegin", "Latest", "StopOnNaN", "joined"]


@keras.saving.register_keras_serializable(package="tfcert")
class Latest(keras.metrics.Mean):
    """The value of the last step, for numbers that a schedule sets."""

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        del sample_weight
        self.total.assign(ops.cast(values, self.dtype))
        self.count.assign(ops.ones((), self.dtype))


class StopOnNaN(keras.callbacks.Callback):
    """Ends training where the loss is NaN or infinite, and says where that comes from.

    Such a step changes no weights (see ``backend.TrainStep``), so the cause can still be found.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.void_step.assign(-1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(float(loss)):
            return
        trainer = self.model
        if hasattr(trainer, "jax_state_sync"):
            trainer.jax_state_sync()
        # Of several steps in one execution it need not be the last.
        step = int(ops.convert_to_numpy(trainer.void_step))
        if step < 0:
            step = int(ops.convert_to_numpy(trainer.step)) - 1
        clock = Clock(step, int(ops.convert_to_numpy(trainer.steps_per_epoch)))
        values = {
            name: f"{float(ops.convert_to_numpy(value)):.6g}"
            for name, value in trainer.objective.current(clock).items()
        }
        state = "".join(f", {name}={value}" for name, value in values.items())
        raise FloatingPointError(
            f"The loss became {float(loss)} at step {step} (epoch "
            f"{step // clock.steps_per_epoch}){state}. {_cause(trainer, clock)} "
            "A smaller learning rate, gradient clipping (clipnorm of the optimizer) or a slower "
            "ramp usually helps."
        )


class EpochBegin(keras.callbacks.Callback):
    """Tells batches that an epoch begins, before anything of it runs.

    Asked for later, from the pipeline, the step counter may have moved already.
    """

    def __init__(self, batches: Shuffled):
        super().__init__()
        self.batches, self.first = batches, True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        before = self.batches.start
        self.batches.on_epoch_begin()
        if self.first:
            _check_restored(before, self.batches.start, len(self.batches), epoch)
        self.first = False


def _check_restored(before: int, step: int, length: int, epoch: int) -> None:
    """Warns where a callback brought back the weights of the middle of an epoch."""
    done = step % length
    if step != before and done:
        warnings.warn(
            f"A backup of step {step} was restored, {done} steps into an epoch of {length}. "
            f"Samples and schedules continue there, but Keras repeats all of epoch {epoch}: this "
            f"run will take {done} steps more than an unbroken run. For equal weights back up "
            "after whole epochs: save_freq='epoch'.",
            stacklevel=2,
        )


def joined(trainer: Any, own: list[keras.callbacks.Callback], callbacks: Any) -> Any:
    """Callbacks as ``fit`` takes them, with those of this package among them."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        kept = [known for known in callbacks.callbacks if not isinstance(known, _OWN)]
        for callback in own:
            callback.set_model(trainer)
        callbacks.callbacks[:] = [*own, *kept]
        return callbacks
    several = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    given = [known for known in several if known is not None]
    for callback in given:
        _tell_direction(trainer, callback)
    return [*own, *given]


def _tell_direction(trainer: Any, callback: keras.callbacks.Callback) -> None:
    """Keras guesses whether more is better, mode="auto", for metrics of ``compile`` alone."""
    if getattr(callback, "mode", None) != "auto":
        return
    name = str(getattr(callback, "monitor", None)).removeprefix("val_")
    if name in ("verified_accuracy", trainer.objective.accuracy_name):
        callback.mode = "max"
    elif name in (*trainer.objective.term_names, "regularization"):
        callback.mode = "min"


_OWN = (StopOnNaN, EpochBegin)


def _cause(trainer: Any, clock: Clock) -> str:
    for layer in graph.layers_of(trainer.model):
        if isinstance(layer, keras.Model):
            continue
        for weight in layer.weights:
            if not np.isfinite(ops.convert_to_numpy(weight)).all():
                return f"Weight {weight.name!r} of layer {layer.name!r} is NaN or infinite."
    if trainer.objective.region is None or trainer.example is None:
        return (
            "All weights are finite: some of the inputs may not be, or a label lies outside of "
            f"[0, {trainer.classes}); of a data set, fit checks the first batch alone."
        )
    region = trainer.objective.region_at(clock)
    network = network_of(trainer.scores)
    x = trainer.inputs_of(trainer.example[0])
    with backend.eagerly():
        evaluation = propagation.evaluate(network, region, region.bind(x), methods.IBP())
    widths = []
    for node in network.nodes:
        width = float(np.max(ops.convert_to_numpy(evaluation.intervals[node].radius)))
        if not math.isfinite(width):
            return f"The bounds of layer {node.name!r} are not finite."
        widths.append((width, node.name))
    width, name = max(widths)
    return (
        f"All weights are finite; the widest bounds are those of layer {name!r}, {width:.3g}. "
        f"A batch with labels outside of [0, {trainer.classes}), or with inputs that the region "
        "does not admit, such as those outside of its clip limits, has a loss of NaN too: of a "
        "data set, fit checks the first batch alone."
    )
