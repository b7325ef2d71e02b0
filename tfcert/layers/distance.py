"""The dense distance layer, and the base class of distance layers."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import graph
from tfcert.layers import point_kernels
from tfcert.types import Initializer, Seed, Tensor

__all__ = [
    "IdentityNormal",
    "LInfDistance",
    "distance_layers",
    "positive_integer",
    "set_exponent",
]


@keras.saving.register_keras_serializable(package="tfcert")
class IdentityNormal(keras.initializers.RandomNormal):
    """Standard normal initial weights with which a distance layer starts as a copy of its inputs.

    Unit j has the weight ``value`` at input ``j mod inputs``, far from all other weights. So this
    input decides the distance, which is the input minus ``value``. If a layer has more inputs than
    units, all weights are normal, because some inputs would be lost otherwise.

    Args:
        value: The far weight.
        stddev: The standard deviation of the normal weights.
        seed: The seed of the weights. Default: random.

    Reference: Zhang et al., 2022, https://arxiv.org/abs/2110.06850, appendix
    """

    def __init__(self, value: float = -10.0, stddev: float = 1.0, seed: Seed | None = None):
        super().__init__(mean=0.0, stddev=stddev, seed=seed)
        self.value = float(value)

    def __call__(self, shape: tuple, dtype: Any = None) -> Tensor:
        weights = super().__call__(shape, dtype=dtype)
        inputs, units = math.prod(shape[:-1]), shape[-1]
        if inputs > units:
            return weights
        chosen = np.arange(units) % inputs == np.arange(inputs)[:, None]
        chosen = ops.convert_to_tensor(chosen.reshape(shape))
        return ops.where(chosen, ops.full_like(weights, self.value), weights)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {"value": self.value, "stddev": config["stddev"], "seed": config["seed"]}


class Distance(keras.layers.Layer):
    """The base class of distance layers, with the exponent, the weights and their arguments."""

    def __init__(
        self,
        p: float = math.inf,
        use_bias: bool = False,
        kernel_initializer: Initializer | None = None,
        bias_initializer: Initializer = "zeros",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.first_p = exponent(p)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer or IdentityNormal())
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def add_weights(self, shape: tuple[int, ...]) -> None:
        """Makes ``kernel``, whose last size is that of the outputs, ``bias`` and ``p``."""
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=shape[-1:], initializer=self.bias_initializer
            )
        self.p = self.add_weight(
            name="p",
            shape=(),
            initializer=keras.initializers.Constant(self.first_p),
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    def with_bias(self, distances: Tensor) -> Tensor:
        """The distances plus the bias, where there is one."""
        return distances if self.bias is None else distances + self.bias

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "p": self.first_p,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package="tfcert")
class LInfDistance(Distance):
    """A dense layer of distances ``y_j = ||x - w_j||_p (+ b_j)``, by default with infinite p.

    At p = inf, ``y_j = max_i |x_i - w_ij|``: if each entry of the input moves by at most eps, no
    output moves by more than eps. At finite p the factor is ``inputs^(1/p)``. Training starts at a
    finite p, which has better gradients, and moves p to infinity.

    The layer never creates the (batch, inputs, units) tensor of differences. XLA compiles a loop
    over blocks of inputs, also if you call the layer eagerly.

    Args:
        units: Number of outputs.
        p: The first value of the exponent, from 1 to 1000, or inf. The variable ``layer.p`` holds
            the exponent; you may assign it at any time without compiling again.
        use_bias: Whether to add a bias to the distances.
        kernel_initializer: The initializer of ``layer.kernel``, with the shape (inputs, units).
            Default: ``IdentityNormal()``.
        bias_initializer: The initializer of ``layer.bias``, with the shape (units,).
        **kwargs: Arguments of ``keras.layers.Layer``, such as ``name``.

    Inputs have the shape (batch, inputs). Outputs have the shape (batch, units), and are at least 0
    without bias. The right class has the least distance, so put ``keras.layers.Rescaling(-1.0)``
    after the last layer, as in ``tfcert.models.get("linf_mlp_5x5120", ...)``.

    Example:

    >>> import numpy as np
    >>> layer = tfcert.layers.LInfDistance(2)
    >>> layer.build((None, 3))
    >>> layer.kernel.assign(np.array([[0, 1], [0, 1], [0, 1]]))
    >>> np.asarray(layer(np.array([[1.0, -2.0, 0.5]], "float32"))).tolist()
    [[2.0, 3.0]]

    Reference: Zhang et al., 2021, https://arxiv.org/abs/2102.05363, equation 3
    """

    def __init__(
        self,
        units: int,
        p: float = math.inf,
        use_bias: bool = False,
        kernel_initializer: Initializer | None = None,
        bias_initializer: Initializer = "zeros",
        **kwargs: Any,
    ):
        super().__init__(p, use_bias, kernel_initializer, bias_initializer, **kwargs)
        self.units = positive_integer("units", units)

    def build(self, input_shape: tuple) -> None:
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(
                "LInfDistance needs inputs of shape (batch, features) with a known size. Received: "
                f"input_shape={tuple(input_shape)}. Put keras.layers.Flatten() before it."
            )
        self.add_weights((input_shape[-1], self.units))
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs: Tensor) -> Tensor:
        return self.with_bias(point_kernels.distances(inputs, self.kernel, self.p))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def distance_layers(model: keras.Model) -> list[Distance]:
    """Returns the distance layers of a model, including layers of nested models."""
    return [layer for layer in graph.layers_of(model) if isinstance(layer, Distance)]


def set_exponent(model: keras.Model, p: float | Tensor) -> None:
    """Sets the exponent of all distance layers of a model.

    Args:
        model: A built model.
        p: A number from 1 to 1000, inf, or a scalar tensor from a schedule.
    """
    if not ops.is_tensor(p):
        p = exponent(p)
    for layer in distance_layers(model):
        layer.p.assign(ops.cast(p, layer.p.dtype))


def exponent(p: Any) -> float:
    """The exponent of a norm, as the layers take it."""
    number = float(p)
    if not (1.0 <= number <= point_kernels.LARGEST or number == math.inf):
        raise ValueError(
            f"`p` must lie in [1, {point_kernels.LARGEST:g}] or be inf. Received: p={p}."
        )
    return number


def positive_integer(name: str, value: Any) -> int:
    """An argument that must be a whole number above 0."""
    if isinstance(value, bool) or int(value) != value or value <= 0:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}.")
    return int(value)
