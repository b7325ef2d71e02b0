"""Reads and checks the arguments of regions."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import names
from tfcert.regions import rounding
from tfcert.types import Tensor

__all__ = [
    "agree",
    "align",
    "as_array",
    "as_clip",
    "as_factor",
    "as_input",
    "as_norm",
    "check_broadcast",
    "check_inside",
    "check_per_sample",
    "check_points",
    "check_scale",
    "combine",
    "concrete",
    "nearest",
    "per_sample",
    "plain",
    "show",
]


def as_input(x: Tensor) -> Tensor:
    """x as a float32 or float64 tensor; integers become Keras's default float."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype in ("float16", "bfloat16"):
        raise ValueError(
            f"x must be float32 or float64. Received: dtype={dtype}. Use x.astype('float32')."
        )
    if not dtype.startswith("float"):
        x = ops.cast(x, keras.config.floatx())
    if len(x.shape) == 0:
        raise ValueError("x must have a batch axis. Received: x of shape ().")
    return x


def check_points(points: Tensor, x: Tensor) -> None:
    """Raises unless points have the shape of x, or one more axis after the batch."""
    shape, expected = tuple(points.shape), tuple(x.shape)
    several = (*expected[:1], None, *expected[1:])
    if not (agree(shape, expected) or agree(shape, several)):
        raise ValueError(
            f"points must have the shape of x, {expected}, or one more axis after the batch. "
            f"Received: points of shape {shape}."
        )


def agree(shape: tuple, expected: tuple) -> bool:
    """Whether two shapes can be the same, as far as they are known."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(a is None or b is None or a == b for a, b in pairs)


def align(value: Tensor, points: Tensor) -> Tensor:
    """Gives ``(batch, ...)`` the axis of several points per input, where ``points`` have it."""
    return value if len(value.shape) == len(points.shape) else ops.expand_dims(value, 1)


def concrete(value: Any) -> np.ndarray | None:
    """The numbers in a tensor, or None where it is symbolic."""
    if isinstance(value, keras.KerasTensor):
        return None
    try:
        return np.asarray(ops.convert_to_numpy(value))
    except (NotImplementedError, TypeError):  # what TensorFlow and JAX raise while tracing
        return None


def as_array(name: str, value: Any) -> np.ndarray:
    """A finite or infinite setting as float64, which holds what the caller wrote exactly."""
    try:
        array = np.array(concrete(value) if ops.is_tensor(value) else value, dtype="float64")
    except (TypeError, ValueError) as error:
        message = f"`{name}` must be a number or an array of numbers. Received: {name}={value!r}."
        raise ValueError(message) from error
    if np.isnan(array).any():
        raise ValueError(f"`{name}` must not be NaN. Received: {name}={show(array)}.")
    array.setflags(write=False)
    return array


def check_broadcast(name: str, shape: tuple, input_shape: tuple) -> None:
    """Raises unless ``shape`` broadcasts against one input without making it larger."""
    pairs = zip(reversed(shape), reversed(input_shape), strict=False)
    if len(shape) > len(input_shape) or any(a != 1 and b is not None and a != b for a, b in pairs):
        raise ValueError(
            f"`{name}` must broadcast against one input (without the batch axis), of shape "
            f"{input_shape}. Received: {name} of shape {shape}."
        )


def as_factor(name: str, value: Any) -> Any:
    """A size: one number as a float, one per sample as an array; tensors stay tensors."""
    if isinstance(value, keras.Variable):  # read anew by every step of a compiled loop
        value = ops.convert_to_tensor(value)
    if not ops.is_tensor(value):
        value = as_array(name, value)
    if len(value.shape) > 1:
        raise ValueError(
            f"`{name}` must be one number, or one per sample. Received: {name} of shape "
            f"{tuple(value.shape)}."
        )
    values = concrete(value)
    if values is not None and not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            f"`{name}` must be finite and at least 0. Received: {name}={show(values)}."
        )
    return float(value) if isinstance(value, np.ndarray) and value.ndim == 0 else value


def combine(first: Any, second: Any) -> Any:
    """The product of two factors (see `as_factor`)."""
    if isinstance(first, float) and first == 1.0:
        return second
    if ops.is_tensor(first) or ops.is_tensor(second):
        dtype = first.dtype if ops.is_tensor(first) else second.dtype
        return ops.cast(first, dtype) * ops.cast(second, dtype)
    return first * second


def per_sample(factor: Any, x: Tensor, outward: bool) -> Tensor:
    """A factor as a tensor that broadcasts against x."""
    if not ops.is_tensor(factor):
        factor = np.asarray(factor, "float64")
    dtype = keras.backend.standardize_dtype(x.dtype)
    factor = rounding.cast_up(factor, dtype) if outward else rounding.cast_down(factor, dtype)
    if len(factor.shape) == 0:
        return factor
    return ops.reshape(factor, (-1,) + (1,) * (len(x.shape) - 1))


def check_per_sample(name: str, factor: Any, shape: tuple) -> None:
    """Raises unless there is one number, or as many as there are inputs."""
    sizes = tuple(getattr(factor, "shape", ()))
    if len(sizes) == 1 and not agree(sizes, shape[:1]):
        raise ValueError(
            f"`{name}` must hold one number per sample. Received: {sizes[0]} numbers for a "
            f"batch of {shape[0]}."
        )


def check_inside(what: str, x: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    """Raises unless x lies between the limits, which are rounded to x's precision."""
    below, above = _outside(x, lower), _outside(-x, -upper)
    outside = int(((below > 0) | (above > 0)).sum())
    if outside:
        bytes_of_pixels = upper.max() == 1.0 and lower.min() == 0.0 and 1.0 < x.max() <= 255.0
        hint = " Pixels from 0 to 255: divide x by 255." if bytes_of_pixels and x.min() >= 0 else ""
        raise ValueError(
            f"x must lie inside {what}. Received: values in [{x.min():.6g}, {x.max():.6g}]; "
            f"{outside} of {x.size} lie outside, by at most "
            f"{max(below.max(), above.max()):.3g}.{hint}"
        )


def nearest(limits: Any, dtype: str) -> tuple[Tensor, Tensor]:
    """Limits as the floats that are nearest to them, as `check_inside` compares with."""
    low, high = (ops.convert_to_tensor(limit) for limit in limits)
    return ops.cast(low, dtype), ops.cast(high, dtype)


def _outside(x: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """How far x lies below a limit; not at all if the limit's nearest float reaches x."""
    return np.where(x < np.asarray(lower, x.dtype), np.asarray(lower, "float64") - x, 0.0)


def show(value: Any) -> str:
    """A short text for messages, also for large arrays."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"({', '.join(show(entry) for entry in value)})"
    if isinstance(value, np.ndarray) and value.size <= 8:
        return str(value.tolist())
    if isinstance(value, np.ndarray):
        return f"<array of shape {value.shape} in [{value.min():.6g}, {value.max():.6g}]>"
    if ops.is_tensor(value):
        return f"<tensor of shape {tuple(value.shape)}>"
    return repr(value)


def plain(value: Any) -> Any:
    """Arrays as lists and numbers, which a configuration can hold."""
    if ops.is_tensor(value):
        raise ValueError(
            "A region whose size or limits are tensors cannot be serialised. Received: "
            f"{show(value)}. Serialise the original region."
        )
    return value.tolist() if isinstance(value, np.ndarray) else value


def as_norm(norm: Any) -> float:
    """p of an l_p norm: a number from 1 on, or "inf"; "linf" and "l2" are understood."""
    try:
        value = float(names.norm_text(norm) if isinstance(norm, str) else norm)
    except (TypeError, ValueError):
        value = math.nan
    if not value >= 1:
        raise ValueError(f'`norm` must be "inf" or a number from 1 on. Received: norm={norm!r}.')
    return value


def as_clip(clip: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The limits (low, high) of valid inputs as arrays, or None."""
    if clip is None:
        return None
    try:
        low, high = clip
    except (TypeError, ValueError):
        raise ValueError(f"`clip` must be a pair (low, high). Received: clip={clip!r}.") from None
    low, high = as_array("clip", low), as_array("clip", high)
    try:
        crossed = (low > high).any()
    except ValueError:
        raise ValueError(
            "The limits in `clip` must have shapes that broadcast against each other. "
            f"Received: low of shape {low.shape}, high of shape {high.shape}."
        ) from None
    if crossed:
        raise ValueError(
            "`clip` must be (low, high) with low <= high. "
            f"Received: clip=({show(low)}, {show(high)})."
        )
    return low, high


def check_scale(eps: np.ndarray, clip: tuple[np.ndarray, np.ndarray]) -> None:
    """Refuses an eps that is larger than the range of valid inputs everywhere: of another unit.

    Above half of the range, one point is within eps of all inputs, and nothing can be certified.
    """
    width = clip[1] - clip[0]
    if eps.size == 0 or width.size == 0 or not (eps > width / 2).all():
        return
    received = f"Received: eps={show(eps)}, clip=({show(clip[0])}, {show(clip[1])})."
    if not (eps > width).all():
        warnings.warn(
            "`eps` is more than half of the range of valid inputs: one point is within eps of "
            f"every input. {received}",
            stacklevel=4,
        )
        return
    largest, meant = float(eps.max()), ""
    if largest <= 255 and width.max() == width.min():
        unit = "" if width.max() == 1 else f"{width.max():g} * "
        meant = f" Did you mean {unit}{largest:g}/255?"
    raise ValueError(f"`eps` must not be larger than the range of `clip`. {received}{meant}")
