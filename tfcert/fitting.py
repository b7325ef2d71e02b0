"""What ``CertifiedTrainer.fit`` adds to Keras's: checks, the order of samples, callbacks."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.bounds import methods, propagation
from tfcert.network import network_of
from tfcert.schedules import Clock
from tfcert.types import Tensor

__all__ = ["Latest", "Shuffled", "StopOnNaN", "check_model", "labels", "prepare"]


# The model.


def check_model(model: keras.Model, bounded: bool) -> None:
    """Raises unless an objective can train the model.

    Args:
        model: The model.
        bounded: Whether the objective computes bounds. Without them any layer and mixed precision
            will do.
    """
    if bounded:
        dtype = network_of(model).dtype
        if dtype != "float32":
            raise ValueError(
                f"Certified training is in float32. Received: model {model.name!r} of type {dtype}."
            )
    else:
        _check_graph(model)
    output = model.output_shape
    if not isinstance(output, tuple) or len(output) != 2:
        raise ValueError(
            "Training needs a model with one output of shape (batch, classes). "
            f"Received: output shape {model.output_shape}."
        )
    if output[1] == 1:
        raise ValueError(
            f"Model {model.name!r} has a single score. Train two classes with two logits: replace "
            "the last layer by keras.layers.Dense(2) without activation, and use labels 0 and 1."
        )
    for layer in model._flatten_layers(include_self=False):
        if type(layer).__module__.startswith("keras.") and _augments(layer):
            raise ValueError(
                f"Layer {layer.name!r} ({type(layer).__name__}) changes inputs at random while "
                "training. The clean pass and the bounds would see different inputs: augment in "
                "the data pipeline instead, dataset.map(lambda x, y: (augment(x), y))."
            )
    last = _last_operation(model)
    activation = getattr(last, "activation", None)
    name = getattr(activation, "__name__", "")
    softmax = isinstance(last, keras.layers.Softmax) or name in ("softmax", "log_softmax")
    if softmax or name == "sigmoid":
        kind = "softmax" if softmax else name
        raise ValueError(
            f"Model {model.name!r} ends in {kind} (layer {last.name!r}). Objectives train logits: "
            "leave that activation out (the class with the largest score stays the same), and add "
            "it behind the trained model where probabilities are wanted."
        )


def _check_graph(model: Any) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        raise ValueError(
            "`model` must be a built Sequential or functional Keras model; wrap others: "
            f"keras.Model(inputs, model(inputs)). Received: {model!r}."
        )
    if len(model.inputs) != 1:
        raise NotImplementedError(
            f"Model {model.name!r} has {len(model.inputs)} inputs. Training is for models with one "
            "input; concatenate them to one and split it inside the model."
        )


def _augments(layer: keras.layers.Layer) -> bool:
    name = type(layer).__name__
    return name.startswith("Random") or name in (
        "AugMix",
        "AutoContrast",
        "CutMix",
        "MixUp",
        "Solarization",
    )


def _last_operation(model: keras.Model) -> Any:
    operation = model.outputs[0]._keras_history.operation
    while isinstance(operation, keras.Model):  # Nested.
        operation = operation.outputs[0]._keras_history.operation
    return operation


# The data.


class Shuffled(keras.utils.PyDataset):
    """Arrays in batches whose order follows from the seed and the trainer's step counter.

    A run that is resumed in the middle of an epoch goes on with the next batch of that epoch.
    """

    def __init__(
        self,
        trainer: Any,
        arrays: tuple,
        batch_size: int,
        shuffle: bool,
        length: int,
        augment: Augmentation | None = None,
    ):
        super().__init__()
        self.trainer, self.arrays, self.augment = trainer, arrays, augment
        self.batch_size, self.shuffle, self.length = batch_size, shuffle, length
        self.samples = len(arrays[0])
        self.start = 0
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def on_epoch_begin(self) -> None:
        self.start = int(ops.convert_to_numpy(self.trainer.step))

    def __getitem__(self, index: int) -> tuple:
        epoch, place = divmod(self.start + index, self.length)
        order = self._order(epoch)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        x, *rest = (array[chosen] for array in self.arrays)
        if self.augment is not None:
            generator = np.random.default_rng((self.trainer.seed, self.start + index, 1))
            x = self.augment(x, generator)
        return (x, *rest)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            order = np.arange(self.samples)
            if self.shuffle:
                np.random.default_rng((self.trainer.seed, epoch)).shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Images shifted at random, and mirrored.

    Args:
        name: "crop" or "crop_flip".
        pixels: Shifts go up to so many.
        fill: What is seen beyond the border: "black" or "edge", the nearest pixel of the image.
    """

    name: str
    pixels: int
    fill: str

    def __post_init__(self) -> None:
        if self.name not in ("crop", "crop_flip"):
            raise ValueError(
                f'`augment` must be "none", "crop" or "crop_flip". Received: augment={self.name!r}.'
            )
        if self.fill not in ("black", "edge"):
            raise ValueError(
                f'`crop_fill` must be "black" or "edge". Received: crop_fill={self.fill!r}.'
            )
        if int(self.pixels) != self.pixels or self.pixels < 1:
            raise ValueError(
                f"`crop_pixels` must be a positive integer. Received: crop_pixels={self.pixels}."
            )

    def __call__(self, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count, height, width = x.shape[:3]
        around = [(0, 0), (self.pixels, self.pixels), (self.pixels, self.pixels), (0, 0)]
        padded = np.pad(x, around, mode="constant" if self.fill == "black" else "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
        top, left = generator.integers(0, 2 * self.pixels + 1, size=(2, count))
        x = np.moveaxis(windows[np.arange(count), top, left], 1, -1)
        if self.name == "crop_flip":
            mirrored = generator.random((count, 1, 1, 1)) < 0.5
            x = np.where(mirrored, x[:, :, ::-1], x)
        return np.ascontiguousarray(x)


def prepare(trainer: Any, x: Any, y: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Checks the data and brings arrays into batches.

    Returns:
        What ``keras.Model.fit`` takes as x, and its other arguments.
    """
    arguments = dict(arguments)
    arguments["validation_data"] = _checked_validation(trainer, arguments.get("validation_data"))
    batch_size = arguments.pop("batch_size", None)
    shuffle = arguments.pop("shuffle", True)
    split = arguments.pop("validation_split", 0.0)
    weights = arguments.pop("sample_weight", None)
    augment = _augmentation(arguments)
    if _is_array(x):
        arrays = check_arrays(trainer, x, y, weights)
        if split and arguments["validation_data"] is None:
            cut = int(len(arrays[0]) * (1.0 - split))
            arguments["validation_data"] = tuple(array[cut:] for array in arrays)
            arrays = tuple(array[:cut] for array in arrays)
        batch_size = 32 if batch_size is None else int(batch_size)
        length = math.ceil(len(arrays[0]) / batch_size)
        if arguments.get("steps_per_epoch") is not None:
            length = min(length, int(arguments.pop("steps_per_epoch")))
        arguments.pop("steps_per_epoch", None)
        arguments.setdefault("validation_batch_size", batch_size)
        data = Shuffled(trainer, arrays, batch_size, bool(shuffle), length, augment)
        trainer.example = tuple(array[:batch_size] for array in arrays[:2])
    else:
        if y is not None or weights is not None or split or augment is not None:
            raise ValueError(
                "`y`, `sample_weight`, `validation_split` and `augment` go with arrays; a data set "
                f"brings its own labels and weights. Received: x of type {type(x).__name__}."
            )
        if batch_size is not None:
            raise ValueError(
                "`batch_size` goes with arrays; a data set has its own batches. "
                f"Received: batch_size={batch_size}."
            )
        data, length = x, _length(trainer, x, arguments.get("steps_per_epoch"))
        trainer.example = _first(trainer, x)
    arguments["shuffle"] = False
    trainer.steps_per_epoch.assign(length)
    _check_length(trainer, arguments.get("epochs", 1), length)
    return data, arguments


def _augmentation(arguments: dict[str, Any]) -> Augmentation | None:
    name = arguments.pop("augment", "none")
    pixels, fill = arguments.pop("crop_pixels", 4), arguments.pop("crop_fill", "black")
    return None if name == "none" else Augmentation(name, pixels, fill)


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or ops.is_tensor(x) or isinstance(x, list)


def check_arrays(trainer: Any, x: Any, y: Any, sample_weight: Any = None) -> tuple:
    """Inputs and labels as NumPy arrays that the model and the objective can be trained on."""
    x = np.asarray(ops.convert_to_numpy(x))
    if not np.issubdtype(x.dtype, np.floating):
        x = x.astype(keras.config.floatx())
    expected = tuple(trainer.model.input_shape[1:])
    if x.ndim != len(expected) + 1 or x.shape[1:] != expected:
        raise ValueError(
            f"`x` must have the shape (samples, {', '.join(map(str, expected))}). "
            f"Received: x of shape {x.shape}."
        )
    if len(x) == 0:
        raise ValueError(f"`x` is empty. Received: x of shape {x.shape}.")
    if y is None:
        raise ValueError("`y` must hold integer labels. Received: y=None.")
    y = np.asarray(ops.convert_to_numpy(y))
    classes = trainer.classes
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not (np.issubdtype(y.dtype, np.integer)):
        hint = " One-hot labels: pass y.argmax(-1)." if y.ndim == 2 else ""
        raise ValueError(
            f"`y` must hold one integer label per sample, shape ({len(x)},). "
            f"Received: y of shape {y.shape} and type {y.dtype}.{hint}"
        )
    if len(y) != len(x):
        raise ValueError(
            f"`x` and `y` must have the same length. Received: {len(x)} and {len(y)} samples."
        )
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"`y` must lie in [0, {classes}), the model's classes. "
            f"Received: labels from {y.min()} to {y.max()}."
        )
    trainer.objective.check_inputs(x)
    if sample_weight is None:
        return x, y
    sample_weight = np.asarray(ops.convert_to_numpy(sample_weight))
    if sample_weight.shape != (len(x),):
        raise ValueError(
            f"`sample_weight` must have the shape ({len(x)},). "
            f"Received: shape {sample_weight.shape}."
        )
    return x, y, sample_weight


def _checked_validation(trainer: Any, data: Any) -> Any:
    if isinstance(data, (tuple, list)):
        return check_arrays(trainer, *data)
    return data


def _length(trainer: Any, data: Any, steps_per_epoch: int | None) -> int:
    if steps_per_epoch is not None:
        return int(steps_per_epoch)
    try:
        length = len(data)
    except TypeError:
        length = -1
    if length > 0:
        return length
    timed = [
        name
        for name, schedule in trainer.objective.schedules().items()
        if schedule.unit == "epochs" and schedule.end > 0
    ]
    if timed:
        raise ValueError(
            f"The length of an epoch is unknown, and {', '.join(timed)} changes over epochs. "
            "Pass steps_per_epoch to fit, or use schedules with unit='steps'."
        )
    return 1


def _first(trainer: Any, data: Any) -> tuple | None:
    """The first batch of a data set, checked."""
    if isinstance(data, keras.utils.PyDataset):
        batch = data[0]
    elif hasattr(data, "take"):  # A tf.data.Dataset: iterating starts it anew.
        batch = next(iter(data.take(1)), None)
    else:  # A generator could be read only once.
        return None
    if batch is None:
        raise ValueError("The data set is empty.")
    return check_arrays(trainer, *batch)[:2]


def _check_length(trainer: Any, epochs: int, steps_per_epoch: int) -> None:
    for name, schedule in trainer.objective.schedules().items():
        end = schedule.end if schedule.unit == "epochs" else schedule.end / steps_per_epoch
        if end > epochs:
            warnings.warn(
                f"The schedule of {name} ends after epoch {end:g}, but training ends after "
                f"{epochs}: its last value {schedule.last:g} is never reached.",
                stacklevel=4,
            )


def labels(y: Tensor) -> Tensor:
    """Integer labels, ``(batch,)``, also from a column of them."""
    y = ops.convert_to_tensor(y)
    if len(y.shape) == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if len(y.shape) != 1:
        raise ValueError(
            "Labels must be integers of shape (batch,). "
            f"Received: shape {tuple(y.shape)}. One-hot labels: map them with argmax(-1)."
        )
    return ops.cast(y, "int32")


# While training.


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

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(float(loss)):
            return
        trainer = self.model
        if hasattr(trainer, "jax_state_sync"):
            trainer.jax_state_sync()
        step = int(ops.convert_to_numpy(trainer.step)) - 1
        clock = Clock(step, int(ops.convert_to_numpy(trainer.steps_per_epoch)))
        values = {
            name: f"{float(ops.convert_to_numpy(value)):.6g}"
            for name, value in trainer.objective.current(clock).items()
        }
        state = ", ".join(f"{name}={value}" for name, value in values.items())
        raise FloatingPointError(
            f"The loss became {float(loss)} at step {step} (epoch "
            f"{step // clock.steps_per_epoch}), {state}. {_cause(trainer, clock)} "
            "A smaller learning rate, gradient clipping (clipnorm of the optimizer) or a slower "
            "ramp usually helps."
        )


def _cause(trainer: Any, clock: Clock) -> str:
    for layer in trainer.model._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model):
            continue
        for weight in layer.weights:
            if not np.isfinite(ops.convert_to_numpy(weight)).all():
                return f"Weight {weight.name!r} of layer {layer.name!r} is NaN or infinite."
    region = getattr(trainer.objective, "region_at", lambda clock: None)(clock)
    if region is None or trainer.example is None:
        return "All weights are finite."
    network = network_of(trainer.model)
    x = ops.cast(trainer.example[0], network.dtype)
    with backend.eagerly():
        evaluation = propagation.evaluate(network, region, region.bind(x), methods.IBP())
    widths = []
    for node in network.nodes:
        width = float(np.max(ops.convert_to_numpy(evaluation.intervals[node].radius)))
        if not math.isfinite(width):
            return f"The bounds of layer {node.name!r} are not finite."
        widths.append((width, node.name))
    width, name = max(widths)
    return f"All weights are finite; the widest bounds are those of layer {name!r}, {width:.3g}."
