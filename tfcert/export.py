"""``export_certified``: a classifier and its certificates as one plain SavedModel."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcert import backend, entering, saved_model
from tfcert.bounds import methods
from tfcert.certification.subject import Subject
from tfcert.network import Network
from tfcert.regions import LpBall, Region
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
    jit_compile: bool = False,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a SavedModel that classifies inputs and certifies its answers.

    TensorFlow alone loads it: Python, C++, TensorFlow Serving. It has the signatures

    - ``serving_default``: ``x`` to ``label`` (the class with the largest score), ``scores`` (what
      the model returns), ``margin`` (a lower bound, over all inputs of the region around x, of the
      label's score, or logit, minus the largest other one) and ``certified`` (whether
      ``margin > 0``: no input of the region has another label),
    - ``certify``: the same for ``x`` and, where the region is an ``LpBall``, ``eps``: float64, one
      radius per input or one for all,
    - ``facts``: what was exported and how, a JSON text, also in ``assets/certificate.json``.

    A model with several inputs takes each of them by its name in place of ``x``.

    The batch may have any size. An input that the region cannot be put around (NaN, infinite or
    outside of the clip range) and an eps that is no radius (NaN, infinite, negative) are no errors
    here, since other clients' inputs may be in the same batch: ``margin`` is NaN and ``certified``
    false. The method "lipschitz" also gives ``radius``, within which the label is certain.

    Verdicts are those of ``bound_margins``, but where ``abs(margin)`` is below ``1e-4 * max(1,
    largest abs(score))``, which rounding may decide. With ``float_safe=True`` a certificate holds
    in any case.

    Args:
        model: A built classifier with one output, ``(batch, classes)``; a final softmax is looked
            behind. A single output, ``(batch, 1)``, is a logit or behind a sigmoid a probability.
        path: A folder that is not there yet; TensorFlow Serving wants ``<name>/<number>``.
        region: The region around each input, the same for all: no sizes or limits per sample. For a
            model with several inputs a dictionary or a list with a region, or "fixed", for each.
        method: "ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "lipschitz", or an object
            of ``tfcert.methods``.
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
    door = entering.joined(model) if isinstance(model, keras.Model) else None
    subject = _checked_subject(model if door is None else door.model, method)
    network = subject.network
    region = as_region(region) if door is None else entering.product_of(door.names, region)
    around = region if door is None else door.region(region)
    _check_region(around, network)
    saved_model.check_weights(model)
    served = _Served(subject, around, method, door)
    facts = {
        **saved_model.common_facts(model),
        "model_sha256": identity.of_model(model),
        "certificate": "deterministic",
        "region": {"class": type(region).__name__, **region.get_config()},
        "method": {"class": type(method).__name__, **dataclasses.asdict(method)},
        **_inputs_told(network, door),
        "dtype": network.dtype,
        "classes": subject.classes,
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
        door: entering.Joined | None = None,
    ):
        self.subject, self.region, self.method, self.door = subject, region, method, door
        self.network, self.classes = subject.network, subject.classes
        self.piece = method.samples_at_once(self.network, self.classes)

    def signatures(self) -> dict[str, Callable[..., Any]]:
        """The functions to save, by name."""
        import tensorflow as tf

        x = tf.TensorSpec((None, *self.network.input.shape), self.network.dtype, "x")
        eps = tf.TensorSpec((None,), "float64", "eps")

        def in_pieces(*specs: Any) -> Callable[..., dict[str, Tensor]]:
            certified = tf.function(
                self._certified, jit_compile=self.method.jit_compile or None, autograph=False
            ).get_concrete_function(*specs)
            return lambda *arguments: _in_pieces(certified, arguments, self.piece)

        def signature(function: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
            return tf.function(function, input_signature=specs, autograph=False)

        fixed = in_pieces(x)
        if self.door is not None:
            vector = self.door.vector
            whole = signature(lambda inputs: fixed(vector(inputs)), self._several_specs())
            return {"serving_default": whole, "certify": whole}
        served = {"serving_default": signature(lambda x: fixed(x), x)}
        if not isinstance(self.region, LpBall):
            return served | {"certify": signature(lambda x: fixed(x), x)}
        sized = in_pieces(x, eps)

        def certify(x: Tensor, eps: Tensor) -> dict[str, Tensor]:
            return sized(x, tf.broadcast_to(eps, tf.shape(x)[:1]))

        return served | {"certify": signature(certify, x, eps)}

    def _several_specs(self) -> dict[str, Any]:
        """Each of several inputs by its name."""
        import tensorflow as tf

        assert self.door is not None
        wrong = [name for name in self.door.names if not name.isidentifier()]
        if wrong:
            raise ValueError(
                "`model` must name its inputs with letters, digits and underscores alone, as "
                f"signatures do: keras.Input(shape, name=...). Received: inputs named {wrong}."
            )
        pairs = zip(self.door.names, self.door.tensors, strict=True)
        return {name: tf.TensorSpec(tuple(t.shape), t.dtype, name) for name, t in pairs}

    def _certified(self, x: Tensor, eps: Tensor = None) -> dict[str, Tensor]:
        """Label, scores, margin and verdict of a batch that fits into memory."""
        scores, label = self._classified(x)
        region = self.region
        # What the bounds see: in another type with float_safe.
        seen = ops.cast(x, self.method.dtype(self.network))
        valid = ops.logical_and(region.admits(seen), ops.all(ops.isfinite(scores), axis=-1))
        if eps is not None:
            fits = ops.logical_and(ops.isfinite(eps), eps >= 0)
            valid = ops.logical_and(valid, fits)
            region = region.with_eps(ops.where(fits, eps, 0.0))
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

    def _classified(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's outputs and its classes."""
        outputs = self.subject.model(x, training=False)
        threshold = self.subject.threshold
        if threshold is not None:
            return outputs, ops.cast(outputs[:, 0] > threshold, "int64")
        return outputs, ops.cast(ops.argmax(outputs, axis=-1), "int64")


def _inputs_told(network: Network, door: entering.Joined | None) -> dict[str, Any]:
    """What the facts tell of the inputs."""
    if door is None:
        return {"input_shape": list(network.input.shape)}
    pairs = zip(door.names, door.tensors, strict=True)
    told = {name: {"shape": list(t.shape[1:]), "dtype": t.dtype} for name, t in pairs}
    return {"inputs": told}


def _in_pieces(function: Any, arguments: tuple[Tensor, ...], piece: int) -> dict[str, Tensor]:
    """What a concrete function of at most so many samples gives for any number of them."""
    import tensorflow as tf

    size, wanted = tf.shape(arguments[0])[0], function.structured_outputs
    names = sorted(wanted)

    def all_at_once() -> list[Tensor]:
        found = function(*arguments)
        return [found[name] for name in names]

    def one_by_one() -> list[Tensor]:
        count = -(-size // piece)
        arrays = [
            tf.TensorArray(
                wanted[name].dtype, count, infer_shape=False, element_shape=wanted[name].shape
            )
            for name in names
        ]

        def turn(i: Tensor, *arrays: Any) -> tuple:
            found = function(*[t[i * piece : (i + 1) * piece] for t in arguments])
            pairs = zip(arrays, names, strict=True)
            return i + 1, *[array.write(i, found[name]) for array, name in pairs]

        _, *arrays = tf.while_loop(
            lambda i, *_: i < count, turn, (0, *arrays), parallel_iterations=1
        )
        return [array.concat() for array in arrays]

    # Nothing of an empty batch is computed: reshapes to (-1, ...) could not tell its sizes.
    several = tf.logical_or(size > piece, size == 0)
    results = tf.cond(several, one_by_one, all_at_once)
    for name, value in zip(names, results, strict=True):
        value.set_shape([None, *wanted[name].shape[1:]])
    return dict(zip(names, results, strict=True))


def _checked_method(method: Any, jit_compile: bool) -> methods.Method:
    method = methods.get(method)
    return dataclasses.replace(method, jit_compile=True) if jit_compile else method


def _checked_subject(model: Any, method: methods.Method) -> Subject:
    objective = getattr(model, "objective", None)
    if objective is not None and isinstance(getattr(model, "model", None), keras.Model):
        raise ValueError(
            "`model` must be the classifier itself. Received: a trainer around it "
            f"({type(model).__name__}); pass trainer.model."
        )
    subject = Subject(model, method.float_safe)
    method.check(subject.network)
    if reduced := subject.network.reduced:
        raise NotImplementedError(
            f"Model {model.name!r} computes in {reduced}: what it is served with would round "
            "otherwise than its certificates. Rebuild the model in float32, copy its weights, and "
            "export that."
        )
    return subject


def _check_region(region: Any, network: Network) -> None:
    if not isinstance(region, Region):
        raise ValueError(
            f"`region` must be a tfcert.LpBall or tfcert.Box. Received: region={region!r}."
        )
    x = keras.KerasTensor((None, *network.input.shape), network.dtype)
    region.validate(x)
    if region.varies(x):
        raise ValueError(
            "`region` must be the same for all inputs. Received: sizes or limits per sample, "
            f"{region!r}."
        )
