"""Noise distributions with a proven radius.

Each coordinate of the noise is drawn independently, with location zero. Where the base classifier
returns class A with a probability of at least p > 1/2 under the noise around x, the class that it
returns most often is A at every point closer to x than ``radius(p)``, in the noise's norm. All
other classes together have at most 1 - p, which is the bound of the runner-up that is used here.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any, ClassVar, Protocol

import keras
import numpy as np

from tfcert.smoothing import drawing
from tfcert.types import ArrayLike, Tensor

__all__ = ["NOISES", "Distribution", "Gaussian", "Laplace", "Noise", "Uniform", "resolve"]

_NORMAL = statistics.NormalDist()


class Distribution(Protocol):
    """A distribution of TensorFlow Probability; `resolve` says which of them are noise."""

    def sample(self, sample_shape: Any = (), seed: Any = None) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class Noise:
    """Base class of noise distributions, with a scale, a norm and a radius.

    Attributes:
        scale: The size of the noise, in the units of the model's input.
        norm: The norm of the radius, 1 or 2.
    """

    scale: float
    norm: ClassVar[int]

    def __post_init__(self) -> None:
        wrong = isinstance(self.scale, bool) or not isinstance(self.scale, (int, float, np.number))
        if wrong or not 0.0 < self.scale < math.inf:
            raise ValueError(
                f"`scale` of {type(self).__name__} noise must be a positive finite number. "
                f"Received: scale={self.scale!r}."
            )
        object.__setattr__(self, "scale", float(self.scale))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, for Keras's serialisation."""
        return {"scale": self.scale}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Noise:
        """Returns the noise with these arguments."""
        return cls(**config)

    def radius(self, p_lower: ArrayLike) -> np.ndarray:
        """Returns the certified radius if the class has at least the probability ``p_lower``.

        Args:
            p_lower: A lower bound of the class's probability under noise; a number or an array.

        Returns:
            float64, with the shape of ``p_lower``; 0 if ``p_lower`` is at most 1/2.
        """
        p = np.asarray(p_lower, "float64")
        if not ((p >= 0.0) & (p <= 1.0)).all():
            raise ValueError(f"`p_lower` must lie in [0, 1]. Received: p_lower={p_lower!r}.")
        result = np.zeros(p.shape)
        above = p > 0.5
        result[above] = self.scale * self._unit_radius(p[above])
        return result

    def _unit_radius(self, p: np.ndarray) -> np.ndarray:
        """The radius at scale 1 for probabilities above 1/2."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="tfcert")
class Gaussian(Noise):
    """Normal noise, with radii in the l2 norm.

    Density ``exp(-z^2 / (2 sigma^2)) / (sigma sqrt(2 pi))``, radius ``sigma * Phi^-1(p)`` with the
    quantile function ``Phi^-1`` of the standard normal distribution. No larger radius is possible:
    some base classifier with this p changes its class just beyond it.

    Args:
        scale: The standard deviation sigma.

    Example:

    >>> Gaussian(0.25).radius([0.4, 0.9, 0.999]).round(4)
    array([0.    , 0.3204, 0.7726])

    Reference: Cohen et al., 2019, https://arxiv.org/abs/1902.02918, Theorem 1 with the runner-up's
    probability bounded by 1 - p (their section 3.2.2).
    """

    norm: ClassVar[int] = 2

    def _unit_radius(self, p: np.ndarray) -> np.ndarray:
        values = [_NORMAL.inv_cdf(value) if value < 1.0 else math.inf for value in p.ravel()]
        return np.asarray(values, "float64").reshape(p.shape)


@keras.saving.register_keras_serializable(package="tfcert")
class Laplace(Noise):
    """Laplace noise, with radii in the l1 norm.

    Density ``exp(-|z| / b) / (2 b)``, radius ``-b * log(2 (1 - p))``. No larger radius is possible
    along a coordinate axis. The radius ``b / 2 * log(p / (1 - p))`` of Lecuyer et al., 2019,
    https://arxiv.org/abs/1802.03471, is never larger.

    Args:
        scale: The parameter b; the standard deviation is ``b * sqrt(2)``.

    Example:

    >>> Laplace(0.25).radius([0.4, 0.9, 0.999]).round(4)
    array([0.    , 0.4024, 1.5537])

    Reference: Teng et al., "l1 adversarial robustness certificates: a randomized smoothing
    approach", 2020; also Yang et al., 2020, https://arxiv.org/abs/2002.08118, Table 1.
    """

    norm: ClassVar[int] = 1

    def _unit_radius(self, p: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):  # p = 1: every distance.
            return -np.log(2.0 * (1.0 - p))


@keras.saving.register_keras_serializable(package="tfcert")
class Uniform(Noise):
    """Uniform noise on a cube, with radii in the l1 norm.

    Density ``1 / (2 w)`` on ``[-w, w]``, radius ``2 w (p - 1/2)``: a shift by d keeps
    ``prod(1 - |d_i| / 2w) >= 1 - |d|_1 / 2w`` of the cube's volume in place, and the rest may count
    against the class.

    Args:
        scale: The half width w of the cube.

    Example:

    >>> Uniform(0.25).radius([0.4, 0.9, 0.999]).round(4)
    array([0.    , 0.2   , 0.2495])

    Reference: Yang et al., 2020, https://arxiv.org/abs/2002.08118, Table 1.
    """

    norm: ClassVar[int] = 1

    def _unit_radius(self, p: np.ndarray) -> np.ndarray:
        return 2.0 * (p - 0.5)


# By the names that flags and logs call them.
NOISES: dict[str, type[Noise]] = {"gaussian": Gaussian, "laplace": Laplace, "uniform": Uniform}
_FAMILIES = {"Normal": Gaussian, "Laplace": Laplace, "Uniform": Uniform}


def resolve(sigma: Any, noise: Any) -> Noise:
    """The noise that ``sigma=`` or ``noise=`` means; exactly one of them is given.

    A distribution of TensorFlow Probability is accepted where its exact class is Normal, Laplace
    or Uniform (a subclass may have another density), its location is zero and its parameters are
    numbers, so that the coordinates are independent and alike.
    """
    if (sigma is None) == (noise is None):
        raise ValueError(
            "Exactly one of `sigma` (of Gaussian noise) and `noise` must be given. "
            f"Received: sigma={sigma!r}, noise={noise!r}."
        )
    if noise is None:
        wrong = isinstance(sigma, bool) or not isinstance(sigma, (int, float, np.number))
        if wrong or not 0.0 < sigma < math.inf:
            raise ValueError(
                f"`sigma` must be a positive finite number. Received: sigma={sigma!r}."
            )
        return Gaussian(sigma)
    if type(noise) in NOISES.values():
        return noise
    family, parameters = drawing.describe(noise)
    for name, value in parameters.items():
        if value.shape != ():
            raise NotImplementedError(
                "`noise` must be the distribution of one coordinate, the same for all: parameters "
                f"without a shape. Received: {family} with {name} of shape {value.shape}."
            )
    if family == "Uniform":
        location = 0.5 * (parameters["low"] + parameters["high"])
        scale = parameters["high"]
    else:
        location, scale = parameters["loc"], parameters["scale"]
    if location != 0.0:
        raise ValueError(
            "`noise` must have location zero: radii are proven for noise around the input. "
            f"Received: {family} around {float(location):g}."
        )
    return _FAMILIES[family](float(scale))
