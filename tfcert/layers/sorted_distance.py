"""The dense layer of sorted distances."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfcert.layers import point_kernels, sorted_kernels
from tfcert.layers.distance import LInfDistance, positive_integer
from tfcert.types import Initializer, Seed, Tensor

__all__ = ["SortedDistance"]


@keras.saving.register_keras_serializable(package="tfcert")
class SortedDistance(LInfDistance):
    """A dense layer that weighs the largest differences: ``y_j = sum_k c_k d_k``.

    ``d_k`` is the k-th largest of ``|x_i - w_ij|`` over the inputs i. The weights ``c_k`` fall by
    the factor ``1 - keep``, and their sum is 1. So no input that moves by at most eps in each entry
    moves an output by more than eps, as in ``LInfDistance``, which is the case ``keep=1``.

    A step of training needs no sorting: each input is kept with probability ``keep``, and the
    output is ``||x - w_j||_p`` over the inputs that are kept. At p = inf the mean of this over the
    draws is the sorted sum. One draw serves all inputs of a batch. Outside of training the layer
    sorts, whatever p is.

    Args:
        units: Number of outputs.
        keep: The probability with which training keeps an input, above 0 and at most 1.
        terms: How many of the largest differences count outside of training.
        p: As for ``LInfDistance``; it acts in training alone.
        use_bias: Whether to add a bias.
        kernel_initializer: Of ``layer.kernel``, shape (inputs, units). Default: standard normal.
            The far weights of ``IdentityNormal`` suit a wide layer with long training only: a unit
            whose far input is not kept moves by far.
        bias_initializer: Of ``layer.bias``.
        seed: Decides the draws; default: drawn anew.
        **kwargs: Of ``keras.layers.Layer``.

    Inputs of shape (batch, inputs); outputs of shape (batch, units).

    Example:

    >>> import numpy as np
    >>> layer = tfcert.layers.SortedDistance(1, keep=0.5, terms=2)
    >>> layer.build((None, 3))
    >>> layer.kernel.assign(np.zeros((3, 1)))
    >>> np.asarray(layer(np.array([[1.0, -3.0, 0.5]], "float32"))).round(4).tolist()
    [[2.3333]]

    The largest differences 3 and 1 have the weights 2/3 and 1/3.

    Reference: Zhang et al., 2022, https://arxiv.org/abs/2210.01787
    """

    def __init__(
        self,
        units: int,
        keep: float = 0.75,
        terms: int = 10,
        p: float = math.inf,
        use_bias: bool = False,
        kernel_initializer: Initializer | None = None,
        bias_initializer: Initializer = "zeros",
        seed: Seed | None = None,
        **kwargs: Any,
    ):
        start = kernel_initializer or keras.initializers.RandomNormal(stddev=1.0)
        super().__init__(units, p, use_bias, start, bias_initializer, **kwargs)
        if not 0.0 < keep <= 1.0:
            raise ValueError(f"`keep` must lie above 0 and up to 1. Received: keep={keep}.")
        self.keep, self.terms = float(keep), positive_integer("terms", terms)
        self.seed = seed
        self.draws = keras.random.SeedGenerator(seed)

    @property
    def shares(self) -> list[float]:
        """The weights of the largest differences."""
        return sorted_kernels.shares(self.keep, min(self.terms, self.kernel.shape[0]))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            found = sorted_kernels.sorted_sum(inputs, self.kernel, self.shares)
            return self.with_bias(found)
        size = (self.kernel.shape[0],)
        kept = ops.cast(keras.random.uniform(size, seed=self.draws) < self.keep, inputs.dtype)
        # Where both sides are 0, so is the difference.
        kernel = ops.convert_to_tensor(self.kernel) * kept[:, None]
        return self.with_bias(point_kernels.distances(inputs * kept, kernel, self.p))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "keep": self.keep,
            "terms": self.terms,
            "seed": self.seed,
        }
