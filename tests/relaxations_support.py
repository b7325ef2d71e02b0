"""Curves, intervals and samples for the tests of relaxations."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from absl.testing import parameterized
from keras import ops
from scipy import special

from tfcert import relaxations

INTERVALS = 200
INF = np.inf


class Case(NamedTuple):
    curve: relaxations.Curve
    reference: Callable[[np.ndarray], np.ndarray]
    within: tuple[float, float] = (-INF, INF)  # Where intervals are drawn.
    scale: float = 1e3  # The widest ones.
    exact: bool = True  # Whether the lines are the envelopes' (not where little is known of f).
    rounded: bool = False  # Whether f has constants that float32 rounds.


def piecewise(breaks, *pieces):
    def reference(x):
        conditions = [x < breaks[0]]
        conditions += [(x >= a) & (x < b) for a, b in zip(breaks, breaks[1:], strict=False)]
        return np.piecewise(x, [*conditions, x >= breaks[-1]], pieces)

    return reference


def keras_relu(negative_slope=0.0, max_value=INF, threshold=0.0):
    # As the docstring of keras.layers.ReLU has it.
    def reference(x):
        low = negative_slope * (x - threshold)
        return np.where(x > threshold, np.minimum(x, max_value), low)

    return reference


def exponential_unit(left, width, right):
    return lambda x: np.where(x > 0, right * x, left * width * np.expm1(np.minimum(x, 0) / width))


def gelu_tanh(x):
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    # (1 + tanh(z)) / 2 is the logistic function of 2z.
    return x * special.expit(2 * inner)


def tanh_shrink(x):
    # The series where the difference cancels.
    near = x**3 * (1 / 3 - x**2 * (2 / 15 - x**2 * (17 / 315 - x**2 * 62 / 2835)))
    return np.where(np.abs(x) < 0.05, near, x - np.tanh(x))


def hard_silu(x):
    return x * np.clip(x + 3, 0, 6) / 6


def soft_log(x):
    return np.logaddexp(0, x)


# PReLU: one slope per channel, on the last axis.
ALPHA = np.array([0.0, 0.25, 1.0, 1.5, -0.5, -2.0])
POSITIVE = (1e-6, INF)


SELU = (1.0507009873554805 * 1.6732632423543772, 1.0, 1.0507009873554805)


# Every curve of the table, by its name there.
TABLE = {
    "relu": Case(relaxations.CURVES["relu"], lambda x: np.maximum(x, 0)),
    "leaky_relu": Case(
        relaxations.CURVES["leaky_relu"], lambda x: np.where(x > 0, x, 0.2 * x), rounded=True
    ),
    "abs": Case(relaxations.CURVES["abs"], np.abs),
    "relu6": Case(relaxations.CURVES["relu6"], lambda x: np.clip(x, 0, 6)),
    "hard_tanh": Case(relaxations.CURVES["hard_tanh"], lambda x: np.clip(x, -1, 1)),
    "hard_sigmoid": Case(relaxations.CURVES["hard_sigmoid"], lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "sparse_sigmoid": Case(
        relaxations.CURVES["sparse_sigmoid"], lambda x: np.clip(x / 2 + 0.5, 0, 1)
    ),
    "soft_shrink": Case(
        relaxations.CURVES["soft_shrink"],
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    ),
    "hard_shrink": Case(
        relaxations.CURVES["hard_shrink"], lambda x: np.where(np.abs(x) > 0.5, x, 0)
    ),
    "elu": Case(relaxations.CURVES["elu"], exponential_unit(1.0, 1.0, 1.0)),
    "celu": Case(relaxations.CURVES["celu"], exponential_unit(1.0, 1.0, 1.0)),
    "selu": Case(relaxations.CURVES["selu"], exponential_unit(*SELU)),
    "gelu": Case(relaxations.CURVES["gelu"], lambda x: x * special.ndtr(x)),
    "silu": Case(relaxations.CURVES["silu"], lambda x: x * special.expit(x)),
    "hard_silu": Case(relaxations.CURVES["hard_silu"], hard_silu),
    "mish": Case(relaxations.CURVES["mish"], lambda x: x * np.tanh(soft_log(x))),
    "sigmoid": Case(relaxations.CURVES["sigmoid"], special.expit),
    "tanh": Case(relaxations.CURVES["tanh"], np.tanh),
    "erf": Case(relaxations.CURVES["erf"], special.erf),
    "arctan": Case(relaxations.CURVES["arctan"], np.arctan),
    "softsign": Case(relaxations.CURVES["softsign"], lambda x: x / (1 + np.abs(x))),
    "tanh_shrink": Case(relaxations.CURVES["tanh_shrink"], tanh_shrink),
    "softplus": Case(relaxations.CURVES["softplus"], soft_log),
    "log_sigmoid": Case(relaxations.CURVES["log_sigmoid"], special.log_expit),
    "sparse_plus": Case(
        relaxations.CURVES["sparse_plus"],
        piecewise((-1, 1), lambda x: 0 * x, lambda x: (x + 1) ** 2 / 4, lambda x: x),
    ),
    "squareplus": Case(
        relaxations.CURVES["squareplus"],
        lambda x: np.where(x > 0, (x + np.hypot(x, 2)) / 2, 2 / (np.hypot(x, 2) - x)),
    ),
    "exponential": Case(relaxations.CURVES["exponential"], np.exp, (-60, 60), 30.0),
    "expm1": Case(relaxations.CURVES["expm1"], np.expm1, (-60, 60), 30.0),
    "square": Case(relaxations.CURVES["square"], np.square),
    "log": Case(relaxations.CURVES["log"], np.log, POSITIVE),
    "log1p": Case(relaxations.CURVES["log1p"], np.log1p, (-1 + 1e-5, INF)),
    "sqrt": Case(relaxations.CURVES["sqrt"], np.sqrt, (0, INF)),
    "rsqrt": Case(relaxations.CURVES["rsqrt"], lambda x: 1 / np.sqrt(x), POSITIVE),
    "reciprocal": Case(relaxations.CURVES["reciprocal"], lambda x: 1 / x, POSITIVE),
}


FACTORIES = {
    "reciprocal_left": Case(relaxations.CURVES["reciprocal"], lambda x: 1 / x, (-INF, -1e-6)),
    "relu_all": Case(relaxations.relu(0.25, 4.0, 0.5), keras_relu(0.25, 4.0, 0.5)),
    "relu_jump": Case(relaxations.relu(threshold=1.0), keras_relu(threshold=1.0)),
    "relu_steep": Case(relaxations.relu(2.0, 3.0), keras_relu(2.0, 3.0)),
    "relu_step": Case(relaxations.relu(0.5, 1.0, 2.0), keras_relu(0.5, 1.0, 2.0)),
    "leaky_relu_steep": Case(relaxations.leaky_relu(3.0), lambda x: np.where(x > 0, x, 3 * x)),
    "prelu": Case(
        relaxations.prelu(ALPHA),
        lambda x: np.where(
            x > 0,
            x,
            np.swapaxes(np.swapaxes(x, -1, -2) * ALPHA, -1, -2) if x.ndim > 1 else x * ALPHA,
        ),
    ),
    "clip": Case(relaxations.clip(-2.0, 0.5), lambda x: np.clip(x, -2, 0.5)),
    "threshold": Case(relaxations.threshold(0.5, -1.0), lambda x: np.where(x > 0.5, x, -1.0)),
    "threshold_down": Case(relaxations.threshold(-1.0, 2.0), lambda x: np.where(x > -1.0, x, 2.0)),
    "sawtooth": Case(
        relaxations.PiecewiseLinear(
            "sawtooth", lambda x: ops.where(x < 1.0, x, x - 1.0), (1.0,), (1.0, 1.0), (0.0, -1.0)
        ),
        lambda x: np.where(x < 1, x, x - 1),
    ),
    "soft_shrink_2": Case(
        relaxations.soft_shrink(2.0), lambda x: np.sign(x) * np.maximum(np.abs(x) - 2, 0)
    ),
    "hard_shrink_1": Case(relaxations.hard_shrink(1.0), lambda x: np.where(np.abs(x) > 1, x, 0)),
    "elu_flat": Case(relaxations.elu(0.5), exponential_unit(0.5, 1.0, 1.0)),
    "elu_steep": Case(relaxations.elu(1.5), exponential_unit(1.5, 1.0, 1.0)),
    "celu_2": Case(relaxations.celu(2.0), exponential_unit(1.0, 2.0, 1.0)),
    "gelu_tanh": Case(relaxations.gelu(approximate=True), gelu_tanh),
    "power_2": Case(relaxations.power(2), lambda x: x**2),
    "power_3": Case(relaxations.power(3), lambda x: x**3),
    "power_4": Case(relaxations.power(4), lambda x: x**4),
    "squareplus_1": Case(
        relaxations.squareplus(1),
        lambda x: np.where(x > 0, (x + np.hypot(x, 1)) / 2, 0.5 / (np.hypot(x, 1) - x)),
    ),
    "step": Case(
        relaxations.monotone_only("step", lambda x: ops.where(x < 0.0, x - 1.0, x + 1.0)),
        lambda x: np.where(x < 0, x - 1, x + 1),
        exact=False,
    ),
    "falling": Case(
        relaxations.monotone_only("falling", lambda x: -ops.sigmoid(x), decreasing=True),
        lambda x: -special.expit(x),
        exact=False,
    ),
    "declared": Case(
        relaxations.Curve(
            "two bends",
            lambda x: ops.where(x < 0.0, ops.exp(ops.minimum(x, 0.0)), 1.0 + x - x * x * x),
            lambda x: ops.where(x < 0.0, ops.exp(ops.minimum(x, 0.0)), 1.0 - 3.0 * x * x),
            breaks=(0.0,),
            curvature=("convex", "concave"),
            turning=(1 / np.sqrt(3),),
            limits=(0.0, -INF),
            noise=4.0,
        ),
        lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)), 1 + x - x**3),
    ),
}


CASES = TABLE | FACTORIES


# JAX compiles every loop of every curve anew, also in eager mode: one curve of each kind there.
KINDS = ("relu", "prelu", "relu_all", "relu_jump", "tanh", "selu", "softplus", "log", "step")
looped_case = parameterized.named_parameters(
    (name, case)
    for name, case in CASES.items()
    if keras.backend.backend() != "jax" or name in KINDS
)


def draw_intervals(case, dtype, seed, count=INTERVALS):
    """Intervals of shape (count, 6): of all widths, 0 among them, around breaks and anywhere."""
    rng = np.random.default_rng(seed)
    shape = (count, 6)
    width = 10 ** rng.uniform(-3, np.log10(case.scale), shape) * (rng.random(shape) < 0.95)
    near = rng.choice([*case.curve.breaks, *case.curve.turning, 0.0, 1.0], shape)
    far = rng.normal(size=shape) * 10 ** rng.uniform(-2, np.log10(case.scale), shape)
    left = np.where(rng.random(shape) < 0.6, near, far) - width * rng.random(shape)
    right = left + width
    # Ends exactly at a break now and then.
    left = np.where(rng.random(shape) < 0.05, np.minimum(near, right), left)
    low, high = case.within
    if np.isfinite(low) and np.isinf(high):
        left, right = low + np.abs(left - low), low + np.abs(right - low)
    elif np.isinf(low) and np.isfinite(high):
        left, right = high - np.abs(left - high), high - np.abs(right - high)
    left, right = (np.clip(end, low, high).astype(dtype) for end in (left, right))
    return np.minimum(left, right), np.maximum(left, right)


def samples(case, lower, upper, dense=15, even=41):
    """Points of the intervals on a new last axis: evenly spaced, near breaks, both ends."""
    lower, upper = lower.astype("float64")[..., None], upper.astype("float64")[..., None]
    steps = np.concatenate([[-1e-9, 0, 1e-9], np.geomspace(1e-4, 1e3, dense)])
    fixed = [t + s * steps for t in {*case.curve.breaks, 0.0} for s in (-1, 1)]
    fixed = np.broadcast_to(np.concatenate(fixed), (*lower.shape[:-1], np.size(fixed)))
    even = lower + (upper - lower) * np.linspace(0, 1, even)
    return np.clip(np.concatenate([even, fixed], -1), lower, upper)


def numpy(tensors):
    return [ops.convert_to_numpy(tensor) for tensor in tensors]
