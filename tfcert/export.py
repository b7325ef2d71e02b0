"""``export_certified``: a classifier and its certificates as one plain SavedModel."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcert import backend, entering, properties, saved_model
from tfcert.bounds import methods, propagation
from tfcert.certification.subject import Subject
from tfcert.network import Network
from tfcert.properties.questions import rounded_margins
from tfcert.regions import LpBall, Region
from tfcert.regions.checking import check_region
from tfcert.regions.product import as_region
from tfcert.runs import identity
from tfcert.types import MethodName, PathLike, Tensor

__all__ = ["ROUNDING_TOLERANCE", "export_certified"]

# Batch size, device and XLA change the order in which a sum is rounded. Where a margin is smaller
# than this share of the largest score (or of 1), the verdict may differ from the library's.
ROUNDING_TOLERANCE = 1e-4


def export_certified(
    model: keras.Model,
    path: PathLike,
    region: entering.Regions,
    method: MethodName | methods.Method = "crown-ibp",
    *,
    property: properties.OutputProperty | Literal["interval"] | None = None,
    jit_compile: bool = False,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a SavedModel that classifies inputs and certifies its answers.

    Loading the SavedModel needs only TensorFlow: in Python, in C++ or in TensorFlow Serving. The
    SavedModel has the signatures

    - ``serving_default``: ``x`` to ``label`` (the class with the largest score), ``scores`` (the
      outputs of the model), ``margin`` (a lower bound of the label's score, or logit, minus the
      largest other one, over all inputs of the region around x) and ``certified`` (``margin > 0``:
      no input of the region has another label),
    - ``certify``: ``x`` and ``eps`` to the same outputs; ``eps`` is float64, one radius per input
      or one for all, and absent if the region is a ``Box``,
    - ``facts``: a JSON text that describes the export, also in ``assets/certificate.json``.

    A model with several inputs takes each of them by its name in place of ``x``. ``certify`` then
    takes ``eps_<name>`` for each input whose region is a ``LpBall``: its radius, in place of
    ``eps``.

    The batch may have any size. An input that the region cannot be put around (NaN, infinite or
    outside of the clip range) and an eps that is no radius (NaN, infinite, negative) are no errors
    here, since other clients' inputs may be in the same batch: ``margin`` is NaN and ``certified``
    false. The method "lipschitz" also gives ``radius``, within which the label is certain.

    Verdicts equal those of ``bound_margins``, except if ``abs(margin)`` is below
    ``1e-4 * max(1, largest abs(score))``: then rounding may decide. With ``float_safe=True`` a
    certificate holds in any case.

    With a property the model may be any with one output, ``(batch, outputs)``. The signatures then
    answer with ``outputs`` (what the model returns), ``lower`` and ``upper`` (what it returns for
    the inputs of the region lies between them), ``margin`` (a lower bound of the least margin that
    the property needs) and ``certified``. With "interval" there is no property, and neither of the
    last two.

    Args:
        model: A built classifier with one output, ``(batch, classes)``; a final softmax is looked
            behind. A single output, ``(batch, 1)``, is a logit or behind a sigmoid a probability.
        path: A folder that is not there yet; TensorFlow Serving wants ``<name>/<number>``.
        region: The region around each input, the same for all: no sizes or limits per sample. For a
            model with several inputs a dictionary or a list with a region, or "fixed", for each.
        method: "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "lipschitz", or an object
            of ``tfcert.methods``.
        property: What is certified in place of the class: an object of ``tfcert.properties``, the
            same for all inputs; "interval" for an answer with bounds of the outputs alone.
        jit_compile: Whether XLA compiles the signatures, once for each batch size that is seen; as
            the method's own option.
        overwrite: Whether a SavedModel that is at ``path`` is replaced.

    Returns:
        The path.

    Example:

    >>> tfcert.export_certified(model, "digits/1", tfcert.LpBall(0.05, clip=(0.0, 1.0)))
    >>> served = tf.saved_model.load("digits/1").signatures["serving_default"]
    >>> served(x=images)["certified"]
    """
    backend.check_saved_model("export_certified")
    method = _checked_method(method, jit_compile)
    _check_classifier(model)
    door = entering.joined(model) if isinstance(model, keras.Model) else None
    several = None if door is None else entering.ServedInputs(door, region)
    region = as_region(region) if several is None else several.given
    served = _served(model, region, method, property, several)
    subject, network = served.subject, served.network
    _check_region(served.region, network)
    saved_model.check_weights(model)
    facts = {
        **saved_model.common_facts(model),
        "model_sha256": identity.of_model(model),
        "certificate": "deterministic",
        "region": {"class": type(region).__name__, **region.get_config()},
        "method": {"class": type(method).__name__, **dataclasses.asdict(method)},
        "dtype": network.dtype,
        **served.facts(),
        "rounding_tolerance": ROUNDING_TOLERANCE,
    }
    return saved_model.write(path, [model, subject.scores], served.signatures(), facts, overwrite)


class _Served:
    """What the signatures compute."""

    def __init__(
        self,
        subject: Subject,
        region: Region,
        method: methods.Method,
        several: entering.ServedInputs | None = None,
    ):
        self.subject, self.method, self.several = subject, method, several
        self.region = region if several is None else several.region
        self.network, self.classes = subject.network, subject.classes
        self.piece = method.samples_at_once(self.network, self._rows())

    def _rows(self) -> int:
        """How many functions of the outputs are bounded for each input."""
        return self.classes

    def facts(self) -> dict[str, Any]:
        """What the answers are about."""
        return {**self._inputs_told(), "classes": self.classes}

    def _inputs_told(self) -> dict[str, Any]:
        if self.several is not None:
            return self.several.facts()
        return {"input_shape": list(self.network.input.shape)}

    def signatures(self) -> dict[str, Callable[..., Any]]:
        """The functions to save, by name."""
        import tensorflow as tf

        x = tf.TensorSpec((None, *self.network.input.shape), self.network.dtype, "x")
        given = {} if self.several is None else self.several.specs()
        specs = {name: tf.TensorSpec(*spec, name) for name, spec in given.items()}

        def in_pieces(*specs: Any) -> Callable[..., dict[str, Tensor]]:
            certified = tf.function(
                self._certified, jit_compile=self.method.jit_compile or None, autograph=False
            ).get_concrete_function(*specs)
            return lambda *arguments: saved_model.in_pieces(certified, arguments, self.piece)

        def signature(function: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
            return tf.function(function, input_signature=specs, autograph=False)

        fixed = in_pieces(x)
        radii = [tf.TensorSpec((None,), "float64", name) for name in self._radii()]
        sized = in_pieces(x, *radii) if radii else fixed

        def certify(x: Tensor, *eps: Tensor) -> dict[str, Tensor]:
            return sized(x, *(tf.broadcast_to(one, tf.shape(x)[:1]) for one in eps))

        if self.several is None:
            each = (lambda x, eps: certify(x, eps)) if radii else (lambda x: fixed(x))
            return {
                "serving_default": signature(lambda x: fixed(x), x),
                "certify": signature(each, x, *radii),
            }
        vector, own = self.several.vector, {one.name: one for one in radii}
        return {
            "serving_default": signature(lambda inputs: fixed(vector(inputs)), specs),
            "certify": signature(
                lambda inputs: certify(vector(inputs), *(inputs[name] for name in own)),
                {**specs, **own},
            ),
        }

    def _radii(self) -> list[str]:
        """The names of the arguments that hold a radius."""
        if self.several is not None:
            return self.several.radii
        return ["eps"] if isinstance(self.region, LpBall) else []

    def _certified(self, x: Tensor, *eps: Tensor) -> dict[str, Tensor]:
        """Label, scores, margin and verdict of a batch that fits into memory."""
        scores, label = self._classified(x)
        region, seen, valid = self._around(x, scores, eps)
        with backend.portable():
            same = self.subject.scores is self.subject.model
            found = self.method.served(
                *(self.subject.scores, self.network, region, seen, label),
                scores if same else None,
            )
        margin = ops.where(valid, found.pop("margin"), math.nan)
        found = {name: ops.where(valid, value, 0.0) for name, value in found.items()}
        return {
            "label": label,
            "scores": scores,
            "margin": margin,
            "certified": margin > 0,
            **found,
        }

    def _around(
        self, x: Tensor, outputs: Tensor, eps: tuple[Tensor, ...]
    ) -> tuple[Region, Tensor, Tensor]:
        """The region, the inputs as bounds see them, and which of them can be bounded."""
        region = self.region
        # In another type with float_safe.
        seen = ops.cast(x, self.method.dtype(self.network))
        valid = ops.logical_and(region.admits(seen), ops.all(ops.isfinite(outputs), axis=-1))
        if eps:
            fits = [ops.logical_and(ops.isfinite(one), one >= 0) for one in eps]
            valid = ops.all(ops.stack([valid, *fits]), axis=0)
            sizes = [ops.where(fit, one, 0.0) for fit, one in zip(fits, eps, strict=True)]
            region = self._resized(sizes)
        return region, seen, valid

    def _resized(self, eps: list[Tensor]) -> Region:
        """The region with other radii, in the order of their names."""
        return self.region.with_eps(*eps) if self.several is None else self.several.resized(eps)

    def _classified(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's outputs and its classes."""
        outputs = self.subject.model(x, training=False)
        threshold = self.subject.threshold
        if threshold is not None:
            return outputs, ops.cast(outputs[:, 0] > threshold, "int64")
        return outputs, ops.cast(ops.argmax(outputs, axis=-1), "int64")


class _ServedOutputs(_Served):
    """What the signatures compute where outputs are bounded, and a property of them is certified.

    Args:
        subject: The model.
        region: The region.
        method: Bounds the outputs.
        asked: The property; None for the interval alone.
        several: The inputs of a model with several ones; None for one input.
    """

    def __init__(
        self,
        subject: Subject,
        region: Region,
        method: methods.Method,
        asked: properties.OutputProperty | None,
        several: entering.ServedInputs | None = None,
    ):
        self.asked = asked
        self.rows, self.offsets = np.zeros((0, subject.classes)), np.zeros(0)
        if asked is not None:
            self.rows, self.offsets, targets = asked.fixed_margins(subject.classes)
            if targets is not None:
                raise ValueError(
                    "`property` must be the same for all inputs, and have no targets. "
                    f"Received: property={asked!r}."
                )
        super().__init__(subject, region, method, several)

    def _rows(self) -> int:
        return 2 * self.classes + len(self.rows)

    def facts(self) -> dict[str, Any]:
        serialized = keras.saving.serialize_keras_object(self.asked)
        told = self._inputs_told()
        return {**told, "outputs": self.classes, "property": serialized or "interval"}

    def _certified(self, x: Tensor, *eps: Tensor) -> dict[str, Tensor]:
        """Outputs, their bounds, margin and verdict of a batch that fits into memory."""
        outputs = self.subject.model(x, training=False)
        region, seen, valid = self._around(x, outputs, eps)
        method, node = self.method, self.network.outputs
        with backend.portable():
            bound = region.bind(seen)
            evaluation = propagation.evaluate(self.network, region, bound, method, point=seen)
            lower, upper = propagation.node_bounds(evaluation, method, node)
            found = {"lower": lower, "upper": upper}
            if self.asked is not None:
                found["margin"] = self._margin(evaluation, self.asked)
        found = {
            name: ops.where(ops.reshape(valid, (-1, *[1] * (len(v.shape) - 1))), v, math.nan)
            for name, v in found.items()
        }
        certified = {"certified": found["margin"] > 0} if "margin" in found else {}
        return {"outputs": outputs, **found, **certified}

    def _margin(self, evaluation: Any, asked: properties.OutputProperty) -> Tensor:
        """A lower bound of the least margin that is needed, ``(batch,)``; NaN where one is."""
        dtype = self.method.dtype(self.network)
        factors, offsets = rounded_margins(self.rows, self.offsets, dtype)
        rows = ops.broadcast_to(factors, (ops.shape(evaluation.point)[0], *factors.shape))
        lower = propagation.lower_rows(
            evaluation, self.method, self.network.outputs, rows, intersect=self.method.intersect
        )
        lower = lower + ops.convert_to_tensor(offsets)
        needed = asked.needed(len(factors))
        least = ops.top_k(lower, needed)[0][:, -1]
        known = ops.logical_not(ops.any(ops.isnan(lower), axis=-1))
        return ops.where(known, least, math.nan)


def _served(
    model: Any,
    region: Any,
    method: methods.Method,
    asked: Any,
    several: entering.ServedInputs | None,
) -> _Served:
    """What an export computes."""
    if several is not None:
        model = several.model
    if asked is None:
        return _Served(_checked_subject(model, method), region, method, several)
    if asked != "interval" and not isinstance(asked, properties.OutputProperty):
        raise ValueError(
            '`property` must be an object of tfcert.properties, "interval", or None. '
            f"Received: property={asked!r}."
        )
    if asked != "interval" and asked.ranks:
        raise ValueError(
            "`property` must not name classes, which differ from input to input: leave it out, and "
            f"the export certifies the class that it predicts. Received: property={asked!r}."
        )
    subject = _checked_subject(model, method, ranks=False)
    return _ServedOutputs(subject, region, method, None if asked == "interval" else asked, several)


def _checked_method(method: Any, jit_compile: bool) -> methods.Method:
    method = methods.get(method)
    return dataclasses.replace(method, jit_compile=True) if jit_compile else method


def _check_classifier(model: Any) -> None:
    """Raises where a trainer is given in place of its model."""
    objective = getattr(model, "objective", None)
    if objective is not None and isinstance(getattr(model, "model", None), keras.Model):
        raise ValueError(
            "`model` must be the classifier itself. Received: a trainer around it "
            f"({type(model).__name__}); pass trainer.model."
        )


def _checked_subject(model: Any, method: methods.Method, ranks: bool = True) -> Subject:
    subject = Subject(model, method.float_safe, ranks)
    method.check(subject.network)
    if reduced := subject.network.reduced:
        raise NotImplementedError(
            f"Model {model.name!r} computes in {reduced}: the served model would round "
            "differently from its certificates. Rebuild the model in float32, copy its weights, "
            "and export the copy."
        )
    return subject


def _check_region(region: Any, network: Network) -> None:
    check_region(region)
    x = keras.KerasTensor((None, *network.input.shape), network.dtype)
    region.validate(x)
    if region.varies(x):
        raise ValueError(
            "`region` must be the same for all inputs. Received: sizes or limits per sample, "
            f"{region!r}."
        )
