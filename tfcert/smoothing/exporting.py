"""A smoothed classifier as a SavedModel: sampling, counting and confidence bounds in one graph.

What NumPy computes in float64 for the library, bounds of probabilities and radii, goes into the
graph as tables over all possible numbers of votes, so that both give the same numbers.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfcert import saved_model
from tfcert.smoothing import confidence, graph_keys, sequential
from tfcert.smoothing.counting import BLOCK, VoteCounter
from tfcert.smoothing.noise import Noise
from tfcert.types import Tensor

__all__ = ["Procedure", "write"]


class Procedure(NamedTuple):
    """The settings of the certificates.

    Attributes:
        purposes: Numbers of the noise for selection, estimation and prediction.
        n0: Samples of the selection.
        plan: Looks and levels of the estimation.
        rule: Which inputs stop before the last look; None: none of them.
        n_predict: Samples of a prediction without a radius.
        alpha: The level of all of them.
    """

    purposes: tuple[int, int, int]
    n0: int
    plan: sequential.Plan
    rule: sequential.Adaptive | None
    n_predict: int
    alpha: float


def write(
    path: Any,
    model: Any,
    noise: Noise,
    counter: VoteCounter,
    procedure: Procedure,
    overwrite: bool,
) -> pathlib.Path:
    """Writes the SavedModel; see ``SmoothedClassifier.export``."""
    shape = tuple(model.input_shape)[1:]
    if None in shape:
        raise ValueError(
            f"Model {model.name!r} must have an input of fixed shape to be exported. Received: "
            f"input_shape={model.input_shape}."
        )
    saved_model.check_weights(model)
    facts = {
        **saved_model.common_facts(model),
        "certificate": "randomized smoothing",
        "noise": {"class": type(noise).__name__, "scale": noise.scale},
        "norm": noise.norm,
        "n0": procedure.n0,
        "n": procedure.plan.looks[-1],
        "n_predict": procedure.n_predict,
        "alpha": procedure.alpha,
        "adaptive": None if procedure.rule is None else dataclasses.asdict(procedure.rule),
        "looks": list(procedure.plan.looks),
        "input_shape": list(shape),
        "dtype": model.inputs[0].dtype,
        "classes": int(model.output_shape[-1]),
    }
    served = _Served(model, noise, counter, procedure)
    return saved_model.write(path, [model], served.signatures(), facts, overwrite)


class _Served:
    """What the signatures compute."""

    def __init__(self, model: Any, noise: Noise, counter: VoteCounter, procedure: Procedure):
        self.shape, self.dtype = tuple(model.input_shape)[1:], model.inputs[0].dtype
        self.classes = int(model.output_shape[-1])
        self.procedure = procedure
        self.jobs, self.together, self.capacity = counter.jobs(self.shape, self.classes)
        self.tables = _Tables(procedure, noise)

    def signatures(self) -> dict[str, Callable[..., Any]]:
        """The functions to save, by name."""
        x = tf.TensorSpec((None, *self.shape), self.dtype, "x")
        seed = tf.TensorSpec(None, "int64", "seed")  # A number, or a vector.
        keys = tf.TensorSpec((None, 2), "uint64")
        number, numbers = tf.TensorSpec((), "int64"), tf.TensorSpec((None,), "int64")

        def traced(function: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
            # Once for all its callers, which keeps the graph small.
            return tf.function(function, autograph=False).get_concrete_function(*specs)

        self.count = traced(self._count, x, keys, number, number)
        self.streams = traced(graph_keys.stream_keys, numbers, number, numbers)
        certify = traced(self._certify, x, seed)

        def serve(x: Tensor) -> dict[str, Tensor]:
            # The operation's own seeds are 0, "random": another one in every process and call,
            # even where the exporting program fixed TensorFlow's global seed.
            drawn = tf.raw_ops.RandomUniformInt(
                shape=tf.shape(x)[:1],
                minval=tf.constant(0, "int64"),
                maxval=tf.constant(2**63 - 1, "int64"),
                seed=0,
                seed2=0,
            )
            return {**certify(x, drawn), "seed": drawn}

        def signature(function: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
            return tf.function(function, input_signature=specs, autograph=False)

        return {
            "serving_default": signature(serve, x),
            "certify": signature(lambda x, seed: certify(x, seed), x, seed),
            "predict": signature(self._predict, x, seed),
        }

    def _certify(self, x: Tensor, seed: Tensor) -> dict[str, Tensor]:
        selection, estimation, _ = self.procedure.purposes
        valid, streams = self._checked(x, seed)
        n0 = tf.constant(self.procedure.n0, "int64")
        chosen = self.count(x, streams(selection), tf.constant(0, "int64"), n0)
        prediction = _ranked(chosen).indices[:, 0]
        p_lower, radius, samples = self._estimate(x, streams(estimation), prediction, valid)
        sure = tf.logical_and(valid, p_lower > 0.5)
        return {
            "prediction": tf.where(sure, tf.cast(prediction, "int64"), -1),
            "radius": tf.where(sure, radius, 0.0),
            "p_lower": p_lower,
            "samples": samples,
        }

    def _predict(self, x: Tensor, seed: Tensor) -> dict[str, Tensor]:
        valid, streams = self._checked(x, seed)
        stop = tf.constant(self.procedure.n_predict, "int64")
        votes = self.count(x, streams(self.procedure.purposes[2]), tf.constant(0, "int64"), stop)
        (first, second), classes = tf.unstack(_ranked(votes).values, axis=1), _ranked(votes).indices
        clear = tf.logical_and(valid, first >= tf.gather(self.tables.winning, first + second))
        return {"prediction": tf.where(clear, tf.cast(classes[:, 0], "int64"), -1)}

    def _checked(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Callable[[int], Tensor]]:
        """Which inputs can be certified, and the keys of all for a purpose.

        One seed for all inputs: each has the noise of its place in the batch. A seed for each: each
        has the noise of a batch of one, so that it does not matter who else is in the batch.
        """
        batch = tf.shape(x, out_type="int64")[0]
        seed = tf.reshape(seed, [-1])
        alone = tf.cast(tf.shape(seed)[0] != 1, "int64")
        index = tf.range(batch, dtype="int64") * (1 - alone)
        seed = tf.broadcast_to(seed, batch[None])
        finite = tf.reduce_all(tf.math.is_finite(tf.reshape(x, (batch, -1))), axis=-1)
        valid = tf.logical_and(finite, seed >= 0)
        seed = tf.maximum(seed, 0)

        def streams(purpose: int) -> Tensor:
            return self.streams(seed, tf.constant(purpose, "int64"), index)

        return valid, streams

    def _estimate(
        self, x: Tensor, keys: Tensor, prediction: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``sequential.estimate`` in a graph; invalid inputs draw nothing."""
        tables = self.tables
        batch = tf.shape(x, out_type="int64")[0]
        looks = tf.constant((0, *self.procedure.plan.looks), "int64")

        def turn(
            look: Tensor, active: Tensor, votes: Tensor, p: Tensor, radius: Tensor, samples: Tensor
        ) -> tuple[Tensor, ...]:
            place = active[:, None]
            found = self.count(
                tf.gather(x, active), tf.gather(keys, active), looks[look], looks[look + 1]
            )
            own = tf.gather(found, tf.gather(prediction, active), axis=1, batch_dims=1)
            votes = tf.tensor_scatter_nd_add(votes, place, own)
            samples = tf.tensor_scatter_nd_update(
                samples, place, tf.fill(tf.shape(own), looks[look + 1])
            )
            entry = tf.gather(tables.begin, look) + tf.gather(votes, active)
            better = tf.gather(tables.lower, entry) > tf.gather(p, active)
            p, radius = (
                tf.tensor_scatter_nd_update(
                    known,
                    place,
                    tf.where(better, tf.gather(table, entry), tf.gather(known, active)),
                )
                for known, table in ((p, tables.lower), (radius, tables.radius))
            )
            going = tf.gather(radius, active) < tf.gather(tables.enough, entry)
            return look + 1, tf.boolean_mask(active, going), votes, p, radius, samples

        def going(look: Tensor, active: Tensor, *rest: Tensor) -> Tensor:
            return tf.logical_and(look < len(self.procedure.plan.looks), tf.size(active) > 0)

        none, zero = tf.zeros((batch,), "int64"), tf.zeros((batch,), "float64")
        start = (tf.constant(0, "int32"), tf.where(valid)[:, 0], none, zero, zero, none)
        shapes = (tf.TensorShape(()), *[tf.TensorShape((None,))] * 5)
        _, _, _, p, radius, samples = tf.while_loop(
            going, turn, start, shape_invariants=shapes, parallel_iterations=1
        )
        return p, radius, samples

    def _count(self, x: Tensor, keys: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        """``VoteCounter.count`` in a graph: votes of the draws from start to stop."""
        batch = tf.shape(x, out_type="int64")[0]
        first = start // BLOCK
        blocks = -(-stop // BLOCK) - first
        total = batch * blocks

        def turn(job: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
            jobs = job + tf.range(self.capacity, dtype="int64")
            rows, block = tf.minimum(jobs // blocks, batch - 1), first + jobs % blocks
            wanted = tf.where(jobs < total, tf.minimum(stop - block * BLOCK, BLOCK), 0)
            left = tf.minimum(total - job, self.capacity)
            found = self.jobs(
                tf.gather(x, rows),
                graph_keys.block_keys(tf.gather(keys, rows), block),
                tf.cast(wanted, "int32"),
                tf.cast(-(-left // self.together), "int32"),
            )
            counts = tf.tensor_scatter_nd_add(counts, rows[:, None], tf.cast(found, "int64"))
            return job + self.capacity, counts

        counts = tf.zeros((batch, self.classes), "int64")
        return tf.while_loop(
            lambda job, _: job < total,
            turn,
            (tf.constant(0, "int64"), counts),
            shape_invariants=(tf.TensorShape(()), tf.TensorShape((None, self.classes))),
            parallel_iterations=1,
        )[1]


def _ranked(votes: Tensor) -> Any:
    """The two largest numbers of votes; of equal ones the first class stands first."""
    return tf.math.top_k(votes, 2)


class _Tables:
    """What the numbers of votes mean, for every number that there can be.

    Attributes:
        begin: Where the table of a look begins in the three that follow, one behind another.
        lower: Lower bounds of the probability.
        radius: Their radii.
        enough: The radius at which an input stops drawing.
        winning: By the votes of the two leading classes together, how many the first one needs for
            a prediction.
    """

    def __init__(self, procedure: Procedure, noise: Noise):
        plan, rule = procedure.plan, procedure.rule
        lower, enough = [], []
        for look, alpha in zip(*plan, strict=True):
            votes = np.arange(look + 1)
            lower.append(confidence.lower_bound(votes, look, alpha))
            if rule is None or look == plan.looks[-1]:
                enough.append(np.zeros(look + 1))
            else:
                enough.append(rule.enough(votes, look, plan, noise.radius))
        sizes = [len(table) for table in lower]
        self.begin = tf.constant(np.cumsum([0, *sizes[:-1]]), "int64")
        self.lower = tf.constant(np.concatenate(lower))
        self.radius = tf.constant(noise.radius(np.concatenate(lower)))
        self.enough = tf.constant(np.concatenate(enough))
        self.winning = tf.constant(_winning(procedure.n_predict, procedure.alpha), "int64")


def _winning(n: int, alpha: float) -> np.ndarray:
    """How many of ``0, 1, ..., n`` votes a class needs to be told from another one.

    More than all of them where none would do. By bisection: the p-value falls as votes shift.
    """
    total = np.arange(n + 1)
    low, high = (total - 1) // 2, total + 1  # Too few, or half of them; enough.
    while (high - low > 1).any():
        middle = (low + high) // 2
        clear = confidence.two_sided_test(middle, np.maximum(total - middle, 0)) <= alpha
        inner = high - low > 1
        high = np.where(inner & clear, middle, high)
        low = np.where(inner & ~clear, middle, low)
    return high
