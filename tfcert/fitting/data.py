"""The data of ``fit`` and ``evaluate``, checked and cut into batches."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend, checks
from tfcert.fitting.samples import Augmentation, Batches, Shuffled, taken
from tfcert.fitting.watching import EpochBegin, StopOnNaN, joined
from tfcert.objectives.aims import NO_LABELS

__all__ = ["checked", "prepare"]

# Samples of several inputs that are checked together.
_JOINED_AT_ONCE = 1024


def prepare(trainer: Any, x: Any, y: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Checks the data and brings arrays into batches.

    Returns:
        What ``keras.Model.fit`` takes as x, and its other arguments.
    """
    arguments = dict(arguments)
    arguments["validation_data"] = _checked_validation(trainer, arguments.get("validation_data"))
    batch_size = arguments.pop("batch_size", None)
    shuffle = arguments.pop("shuffle", True)
    split = arguments.pop("validation_split", None) or 0.0
    weights = arguments.pop("sample_weight", None)
    augment = _augmentation(arguments)
    if not 0.0 <= split < 1.0:
        raise ValueError(f"`validation_split` must lie in [0, 1). Received: {split!r}.")
    for name, value in (
        ("batch_size", batch_size),
        ("steps_per_epoch", arguments.get("steps_per_epoch")),
        ("validation_batch_size", arguments.get("validation_batch_size")),
    ):
        _check_count(name, value)
    own: list[keras.callbacks.Callback] = [StopOnNaN()]
    if _is_array(trainer, x):
        arrays = check_arrays(trainer, x, y, weights)
        samples = len(arrays[1])
        if split and arguments["validation_data"] is None:
            cut = int(samples * (1.0 - split))
            if not 0 < cut < samples:
                raise ValueError(
                    "`validation_split` must leave samples on both sides. "
                    f"Received: validation_split={split} of {samples} samples."
                )
            arguments["validation_data"] = taken(arrays, slice(cut, None))
            arrays, samples = taken(arrays, slice(cut)), cut
        batch_size = 32 if batch_size is None else int(batch_size)
        length = math.ceil(samples / batch_size)
        if augment is not None:
            augment(taken(arrays[0], slice(1)), np.random.default_rng(0))  # Raises before training.
        length = _shortened(length, arguments.pop("steps_per_epoch", None))
        if length * batch_size > samples:  # The last, smaller batch is used.
            _check_leftover(samples % batch_size, backend.devices_of(trainer.model))
        batches = Shuffled(trainer, arrays, batch_size, bool(shuffle), length, augment)
        data = backend.pipeline(batches)
        own.append(EpochBegin(batches))
        trainer.example = taken(arrays[:2], slice(batch_size))
    else:
        if y is not None or weights is not None or split or augment is not None:
            raise ValueError(
                "`y`, `sample_weight`, `validation_split` and `augment` are for arrays. A data "
                f"set contains its own labels and weights. Received: x of type {type(x).__name__}."
            )
        if batch_size is not None:
            raise ValueError(
                "`batch_size` is for arrays. A data set has its own batches. Received: "
                f"batch_size={batch_size}."
            )
        data, length = x, _length(trainer, x, arguments.get("steps_per_epoch"))
        trainer.example = _first(trainer, x)
    validation = arguments["validation_data"]
    size = arguments.pop("validation_batch_size", None) or batch_size or 32
    if isinstance(validation, tuple):
        arguments["validation_data"] = backend.pipeline(Batches(validation, int(size)))
    arguments["callbacks"] = joined(trainer, own, arguments.get("callbacks"))
    arguments["shuffle"] = False
    _complete_weights(arguments, trainer)
    _check_clock(trainer, length)
    trainer.steps_per_epoch.assign(length)
    _check_length(trainer, arguments["epochs"], arguments.get("initial_epoch", 0), length)
    return data, arguments


def _shortened(length: int, steps_per_epoch: int | None) -> int:
    """The steps of an epoch over arrays that hold `length` batches."""
    if steps_per_epoch is None:
        return length
    if steps_per_epoch > length:
        warnings.warn(
            f"`steps_per_epoch` is {steps_per_epoch}, but `x` has {length} batches: an epoch has "
            f"{length} steps.",
            stacklevel=4,
        )
    return min(length, int(steps_per_epoch))


def _complete_weights(arguments: dict[str, Any], trainer: Any) -> None:
    """Classes that ``class_weight`` leaves out have weight 1: data sets want to be told all."""
    weights, classes = arguments.get("class_weight"), trainer.classes
    if weights is not None and trainer.objective.aim.get_config():
        raise ValueError(
            "`class_weight` goes with labels; with a property use `sample_weight`. "
            f"Received: class_weight={weights!r}."
        )
    if isinstance(weights, dict):
        if not set(weights) <= set(range(classes)):
            raise ValueError(
                f"`class_weight` has a weight for classes of [0, {classes}). "
                f"Received: class_weight={weights}."
            )
        arguments["class_weight"] = {k: weights.get(k, 1.0) for k in range(classes)}


def _check_clock(trainer: Any, length: int) -> None:
    """Warns where the steps so far are no whole epochs of the new length."""
    step = int(ops.convert_to_numpy(trainer.step))
    before = int(ops.convert_to_numpy(trainer.steps_per_epoch))
    if step == 0 or (before == length and step % length == 0):
        return
    changed = f" in place of {before}" if before != length else ""
    warnings.warn(
        f"The trainer has taken {step} steps. An epoch has {length} from now on{changed}. "
        f"Schedules in epochs and the order of the samples continue at epoch {step / length:.4g}. "
        f"To continue elsewhere, call trainer.step.assign(epochs * {length}) before fit.",
        stacklevel=4,
    )


def _check_leftover(left: int, devices: int) -> None:
    if 0 < left < devices:
        raise ValueError(
            f"The last batch of an epoch has a size of {left} for {devices} devices, and some "
            "layers cannot train on an empty batch. Choose another `batch_size` or "
            "`steps_per_epoch`."
        )


def _check_count(name: str, value: Any) -> None:
    if value is not None and (int(value) != value or value < 1):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")


def _augmentation(arguments: dict[str, Any]) -> Augmentation | None:
    name = arguments.pop("augment", "none")
    pixels, fill = arguments.pop("crop_pixels", 4), arguments.pop("crop_fill", "black")
    return None if name == "none" else Augmentation(name, pixels, fill)


def _is_array(trainer: Any, x: Any) -> bool:
    """Whether these are all inputs at hand, and no source of batches."""
    if trainer.door is not None and isinstance(x, (dict, tuple)):
        return True
    return isinstance(x, np.ndarray) or ops.is_tensor(x) or isinstance(x, list)


def check_arrays(trainer: Any, x: Any, y: Any, sample_weight: Any = None) -> tuple:
    """Inputs and labels as NumPy arrays that the model and the objective can be trained on."""
    if trainer.door is not None:
        x = trainer.door.arrays(x)
        samples = len(keras.tree.flatten(x)[0])
    else:
        x = np.asarray(ops.convert_to_numpy(x))
        x = x.astype(keras.config.floatx(), copy=False)
        checks.check_inputs(x, tuple(trainer.scores.input_shape[1:]), trainer.model.name)
        samples = len(x)
    y = trainer.objective.aim.checked(y, samples, trainer.plain.output_shape[1])
    _check_values(trainer, x, samples)
    if sample_weight is None:
        return x, y
    sample_weight = np.asarray(ops.convert_to_numpy(sample_weight))
    if sample_weight.shape != (samples,):
        raise ValueError(
            f"`sample_weight` must have the shape ({samples},). "
            f"Received: shape {sample_weight.shape}."
        )
    return x, y, sample_weight


def _check_values(trainer: Any, x: Any, samples: int) -> None:
    """Raises where inputs cannot be trained on; several inputs are joined a part at a time."""
    if trainer.door is None:
        trainer.objective.check_inputs(x)
        return
    for start in range(0, samples, _JOINED_AT_ONCE):
        some = taken(x, slice(start, start + _JOINED_AT_ONCE))
        trainer.objective.check_inputs(ops.convert_to_numpy(trainer.inputs_of(some)))


def checked(trainer: Any, x: Any, y: Any, sample_weight: Any, batch_size: int | None) -> tuple:
    """``(x, y, sample_weight, batch_size)`` as ``keras.Model.evaluate`` takes them.

    Arrays are checked as a whole and brought into batches, of a data set the first batch is.
    """
    if _is_array(trainer, x):
        arrays = check_arrays(trainer, x, y, sample_weight)
        _check_count("batch_size", batch_size)
        size = 32 if batch_size is None else int(batch_size)
        return backend.pipeline(Batches(arrays, size)), None, None, None
    _first(trainer, x)
    return x, y, sample_weight, batch_size


def _checked_validation(trainer: Any, data: Any) -> Any:
    if isinstance(data, (tuple, list)):
        return check_arrays(trainer, *_parts(data))
    if _is_array(trainer, data):
        raise ValueError(
            "`validation_data` must be a pair (x, y), three with weights, or a data set. "
            f"Received: {type(data).__name__}."
        )
    if data is not None:
        _first(trainer, data)
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
    return check_arrays(trainer, *_parts(batch))[:2]


def _parts(batch: Any) -> tuple:
    """``(x, y)`` or ``(x, y, sample_weight)``."""
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if len(parts) < 2:
        raise ValueError(NO_LABELS)
    if len(parts) > 3:
        raise ValueError(
            f"A batch is (x, y) or (x, y, sample_weight). Received: {len(parts)} parts."
        )
    return parts


def _check_length(trainer: Any, epochs: int, first: int, steps_per_epoch: int) -> None:
    """Warns of schedules that training will not see the end of, going on from the step it is at."""
    done = int(ops.convert_to_numpy(trainer.step)) / steps_per_epoch
    last = done + epochs - first
    for name, schedule in trainer.objective.schedules().items():
        end = schedule.end if schedule.unit == "epochs" else schedule.end / steps_per_epoch
        if end > last:
            warnings.warn(
                f"The schedule of {name} ends after epoch {end:g}, but training ends after "
                f"{last:g}: its last value {schedule.last:g} is never reached.",
                stacklevel=4,
            )
