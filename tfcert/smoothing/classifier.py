"""Randomized smoothing: certificates of a network's most frequent class under noise."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcert import backend, checks
from tfcert.smoothing import confidence, sequential
from tfcert.smoothing.counting import BLOCK, VoteCounter
from tfcert.smoothing.noise import Distribution, Noise, resolve
from tfcert.types import ArrayLike, PathLike

__all__ = ["SmoothedCertificates", "SmoothedClassifier", "checked_adaptive", "checked_places"]

# Independent noise for each purpose: the class that is certified must not be chosen by the samples
# that certify it.
_SELECTION, _ESTIMATION, _PREDICTION = range(3)

# Exports hold tables over all numbers of votes.
_MOST_EXPORTED = 10_000_000


class SmoothedCertificates(NamedTuple):
    """Certificates of `SmoothedClassifier.certify`, one entry per input.

    Attributes:
        prediction: The certified class; -1 if the classifier abstains. int64.
        radius: The certified radius, in the norm and the units of the noise: every closer input
            gets the same class. 0 if the classifier abstains. float64.
        p_lower: Lower bound of the class's probability under noise. float64.
        samples: Number of draws behind ``p_lower``, without the n0 draws of the selection. int64.
    """

    prediction: np.ndarray
    radius: np.ndarray
    p_lower: np.ndarray
    samples: np.ndarray


class SmoothedClassifier:
    """The classifier that returns a network's most probable class under noise.

    ``g(x) = argmax_c P(argmax f(x + noise) = c)``. `certify` returns a radius around x within which
    g does not change. The radius is right with probability 1 - alpha over the drawn noise. The
    network f may be any network, but it classifies noisy inputs well only after training with
    noise. The noise is added to the model's input, so put normalisation into the model.

    Args:
        model: A Keras model with one input of floats and scores of shape ``(batch, classes)``. The
            scores may be logits or probabilities, because only their order counts.
        sigma: The standard deviation of Gaussian noise (radii in the l2 norm), in the units of the
            input.
        noise: Another noise, in place of sigma: ``tfcert.smoothing.Gaussian``, ``Laplace`` or
            ``Uniform`` (the last two give radii in the l1 norm), or ``tfp.distributions.Normal``,
            ``Laplace`` or ``Uniform`` of one coordinate.
        batch_size: Number of noisy samples per call of the network, in steps of 100. Default:
            chosen for the device. The batch size changes speed and memory, not the noise.

    Example:

    >>> smoothed = tfcert.smoothing.SmoothedClassifier(model, sigma=0.25)
    >>> found = smoothed.certify(x_test[:10], n=10_000)
    >>> certified = (found.prediction == y_test[:10]) & (found.radius > 0.5)

    Reference: Cohen et al., 2019, https://arxiv.org/abs/1902.02918, section 3.2.
    """

    def __init__(
        self,
        model: keras.Model,
        sigma: float | None = None,
        noise: Noise | Distribution | None = None,
        batch_size: int | None = None,
    ):
        self.model = _checked_model(model)
        self.noise: Noise = resolve(sigma, noise)
        if batch_size is not None:
            _check_count("batch_size", batch_size, BLOCK)
        self.batch_size = batch_size
        self._counter = VoteCounter(model, self.noise, batch_size)

    def __repr__(self) -> str:
        size = "" if self.batch_size is None else f", batch_size={self.batch_size}"
        return f"{type(self).__name__}({self.model!r}, noise={self.noise!r}{size})"

    def certify(
        self,
        x: ArrayLike,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        seed: int = 0,
        index: ArrayLike = 0,
        adaptive: bool | sequential.Adaptive = False,
    ) -> SmoothedCertificates:
        """Returns the smoothed class of each input, and the radius within which it is certain.

        The first n0 samples choose a class. n more samples, independent of the first, give a
        one-sided Clopper-Pearson bound of the class's probability at level alpha. The bound gives
        the radius. If the bound is at most 1/2, the classifier abstains.

        Args:
            x: Inputs, ``(batch, *input_shape)``.
            n0: Number of samples for the choice of the class.
            n: Number of samples for the bound; with ``adaptive`` the largest number.
            alpha: The probability for each input that its certificate is wrong.
            seed: A non-negative integer. The same seed gives the same noise. Choose a seed that an
                attacker cannot know, if this matters.
            index: The position of the first input in its data set, or one position per input. The
                noise of an input depends on its position, not on its batch. If you certify inputs
                one at a time, pass each input's position; otherwise all of them get the same noise.
                Each certificate is then valid by itself, but errors occur together.
            adaptive: Whether an input may draw fewer samples if more samples would change little;
                an `Adaptive` sets the precision.

        Example:

        >>> found = smoothed.certify(x, n=100_000, adaptive=True)
        >>> print(found.prediction[0], found.radius[0], found.samples[0])
        """
        self.check_sampling(n0, n, alpha, seed, adaptive)
        x, classes = self.checked(x)
        places = checked_places(index, len(x))
        rule = checked_adaptive(adaptive)
        plan = self._plan(rule, n, alpha)

        chosen = self._counter.count(x, places, classes, (seed, _SELECTION), 0, n0)
        prediction = chosen.argmax(axis=-1)

        def draw(active: np.ndarray, start: int, stop: int) -> np.ndarray:
            key = (seed, _ESTIMATION)
            votes = self._counter.count(x[active], places[active], classes, key, start, stop)
            return votes[np.arange(len(active)), prediction[active]]

        p_lower, samples = sequential.estimate(draw, len(x), plan, rule, self.noise.radius)
        prediction = np.where(p_lower > 0.5, prediction, -1)
        return SmoothedCertificates(prediction, self.noise.radius(p_lower), p_lower, samples)

    def predict(
        self, x: ArrayLike, n: int = 1000, alpha: float = 0.001, seed: int = 0, index: ArrayLike = 0
    ) -> np.ndarray:
        """Returns the smoothed class of each input, without a radius.

        A two-sided binomial test compares the two classes with the most votes. If the test cannot
        separate them at level alpha, the classifier abstains.

        Args:
            x: Inputs, ``(batch, *input_shape)``.
            n: Number of samples for each input.
            alpha: The probability for each input that the class differs from the smoothed class.
            seed: A non-negative integer, the seed of the noise. `certify` draws other noise with
                the same seed.
            index: The position of the first input in its data set, or one position per input, which
                decides the input's noise. If you classify inputs one at a time, pass each input's
                position.

        Returns:
            int64, ``(batch,)``: classes; -1 if the classifier abstains.

        Reference: Hung and Fithian, "Rank verification for exponential families", 2019,
        https://arxiv.org/abs/1610.03944; Cohen et al., 2019, Proposition 1.
        """
        _check_count("n", n)
        confidence.check_alpha(alpha)
        x, classes = self.checked(x)
        places = checked_places(index, len(x))
        _check_seed(seed)
        _warn_of_few_votes(n, alpha)
        votes = self._counter.count(x, places, classes, (seed, _PREDICTION), 0, n)
        second, first = np.moveaxis(np.sort(votes, axis=-1)[:, -2:], -1, 0)
        clear = confidence.two_sided_test(first, second) <= alpha
        return np.where(clear, votes.argmax(axis=-1), -1)

    def export(
        self,
        path: PathLike,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        adaptive: bool | sequential.Adaptive = False,
        n_predict: int = 1000,
        overwrite: bool = False,
    ) -> pathlib.Path:
        """Writes a SavedModel that samples, counts and certifies, and needs only TensorFlow.

        It has the signatures

        - ``certify``: ``x`` and ``seed`` to ``prediction``, ``radius``, ``p_lower`` and
          ``samples``, with the numbers of `certify` on the same kind of device,
        - ``predict``: ``x`` and ``seed`` to ``prediction``, as from `predict` with ``n_predict``
          draws,
        - ``serving_default``: ``x`` to the outputs of ``certify`` and the ``seed`` of each input,
          which is drawn anew for every call, so that nobody can fit an input to the seed,
        - ``facts``: a JSON text that describes the export, also in ``assets/certificate.json``.

        ``seed`` is int64: one number, or a vector with one number per input. With one number, the
        inputs have the positions 0, 1, ... in their data set (``index=0`` of `certify`). With a
        vector, each input has the position 0, so the result does not depend on the rest of the
        batch. The batch may have any size. The classifier abstains for inputs that are not finite,
        and for negative seeds.

        Args:
            path: A new folder. TensorFlow Serving expects ``<name>/<number>``.
            n0: Number of samples for the choice of the class.
            n: Number of samples for the bound of each input, at most ten million: the file holds
                tables over all numbers of votes, about 20 bytes for each sample, and 80 with
                ``adaptive``.
            alpha: The probability for each input that its certificate is wrong, and that
                ``predict`` returns another class than the smoothed class.
            adaptive: Whether an input may draw fewer samples if more samples would change little;
                an `Adaptive` sets the precision.
            n_predict: Number of samples for each input in the signature ``predict``.
            overwrite: Whether to replace an existing SavedModel at ``path``.

        Returns:
            The path.

        Example:

        >>> smoothed.export("smoothed/1", n=10_000, adaptive=True)
        >>> served = tf.saved_model.load("smoothed/1").signatures["certify"]
        >>> served(x=images, seed=tf.constant([0], tf.int64))["radius"]
        """
        backend.check_saved_model("SmoothedClassifier.export")
        for name, value in (("n0", n0), ("n", n), ("n_predict", n_predict)):
            _check_count(name, value)
            if value > _MOST_EXPORTED:
                raise ValueError(
                    f"`{name}` of an export must be at most {_MOST_EXPORTED}. "
                    f"Received: {name}={value}."
                )
        confidence.check_alpha(alpha)
        _warn_of_few_votes(n_predict, alpha, "n_predict")
        rule = checked_adaptive(adaptive)
        # Here, since it imports TensorFlow.
        from tfcert.smoothing import exporting

        procedure = exporting.Procedure(
            purposes=(_SELECTION, _ESTIMATION, _PREDICTION),
            n0=n0,
            plan=self._plan(rule, n, alpha),
            rule=rule,
            n_predict=n_predict,
            alpha=float(alpha),
        )
        return exporting.write(path, self.model, self.noise, self._counter, procedure, overwrite)

    def check_sampling(
        self, n0: int, n: int, alpha: float, seed: int, adaptive: bool | sequential.Adaptive
    ) -> None:
        """Raises an error if an argument of `certify` is wrong."""
        _check_count("n0", n0)
        _check_count("n", n)
        confidence.check_alpha(alpha)
        _check_seed(seed)
        checked_adaptive(adaptive)

    def _plan(self, rule: sequential.Adaptive | None, n: int, alpha: float) -> sequential.Plan:
        if rule is None:
            plan = sequential.single_look(n, alpha)
        else:
            plan = rule.plan(n, alpha, BLOCK, self.noise.radius)
        looks = zip(*plan, strict=True)
        if all(confidence.lower_bound(look, look, level) <= 0.5 for look, level in looks):
            warnings.warn(
                f"No input can be certified: even where all of n={n} samples agree, the bound at "
                f"alpha={alpha} is not above 1/2. Take more samples.",
                stacklevel=3,
            )
        return plan

    def checked(self, x: ArrayLike) -> tuple[np.ndarray, int]:
        """Returns the inputs in the model's type, and the number of classes."""
        if keras.ops.is_tensor(x):
            x = keras.ops.convert_to_numpy(x)
        x = np.asarray(x)
        checks.check_real(x)
        checks.check_inputs(x, tuple(self.model.input_shape)[1:], self.model.name)
        x = x.astype(keras.backend.standardize_dtype(self.model.inputs[0].dtype))
        checks.check_finite(x)
        return x, int(self.model.output_shape[-1])


def _checked_model(model: Any) -> keras.Model:
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: {model!r} (of type {type(model).__name__})."
        )
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"Model {model.name!r} has no known input. It must be a Sequential model that is built "
            "or a functional one; wrap others: keras.Model(inputs, model(inputs))."
        )
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input, which noise is added to. Received: {model.name!r} with "
            f"{len(model.inputs)} inputs. Concatenate them, and split them inside the model."
        )
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    if dtype not in ("float32", "float64"):
        raise ValueError(
            f"Model {model.name!r} must take float32 or float64, to which noise can be added. "
            f"Received: an input of type {dtype}."
        )
    shapes = [tuple(output.shape) for output in keras.tree.flatten(model.outputs)]
    if len(shapes) != 1 or not _is_scores(shapes[0]):
        raise ValueError(
            f"Model {model.name!r} must have one output of shape (batch, classes) with at least "
            f"two classes. Received: output shapes {model.output_shape}."
        )
    return model


def _is_scores(shape: tuple) -> bool:
    return len(shape) == 2 and (shape[1] or 0) >= 2


def _check_count(name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}."
        )


def _warn_of_few_votes(n: int, alpha: float, name: str = "n") -> None:
    if confidence.two_sided_test(n, 0) > alpha:
        warnings.warn(
            f"Every prediction abstains: the test of all of {name}={n} votes for one class does "
            f"not reach alpha={alpha}. Take more samples.",
            stacklevel=3,
        )


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"`seed` must be a non-negative integer. Received: seed={seed!r}.")


def checked_places(index: Any, batch: int) -> np.ndarray:
    """The place of each input in its data set."""
    places = np.asarray(index)
    known = np.issubdtype(places.dtype, np.integer) and places.shape in ((), (batch,))
    if not known or places.min() < 0:
        raise ValueError(
            "`index` must be the place of the first input in its data set, or one place per input "
            f"({batch}): non-negative integers. Received: index={index!r}."
        )
    return places if places.shape else places + np.arange(batch)


def checked_adaptive(adaptive: Any) -> sequential.Adaptive | None:
    """The rule that the argument `adaptive` stands for; None for no rule."""
    if isinstance(adaptive, sequential.Adaptive):
        return adaptive
    if not isinstance(adaptive, (bool, np.bool_)):
        raise ValueError(
            "`adaptive` must be True, False or a tfcert.smoothing.Adaptive. "
            f"Received: adaptive={adaptive!r}."
        )
    return sequential.Adaptive() if adaptive else None
