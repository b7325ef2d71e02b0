"""Methods own what they do: a new one is one class, and works everywhere."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import soundness
from tfcert import methods
from tfcert.bounds.method import _NAMED

REGION = tfcert.LpBall(0.1, clip=(0.0, 1.0))


@keras.saving.register_keras_serializable(package="method_test")
@dataclasses.dataclass(frozen=True)
class NarrowCrown(methods.Crown):
    """CROWN that sweeps only layers of at most so many neurons."""

    most: int = 12

    def tighten(self, evaluation, node, interval):
        if math.prod(node.shape) > self.most:
            return interval
        return super().tighten(evaluation, node, interval)


@pytest.fixture(name="registered")
def _registered():
    methods.register("crown-narrow-test")(NarrowCrown)
    yield "crown-narrow-test"
    del _NAMED["crown-narrow-test"]


def model_and_data():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(20, activation="relu"),
            keras.layers.Dense(20, activation="relu"),
            keras.layers.Dense(10, activation="relu"),
            keras.layers.Dense(10, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).uniform(0.2, 0.8, (8, 6)).astype("float32")
    return model, x, np.argmax(ops.convert_to_numpy(model(x)), axis=1)


def test_a_method_of_ones_own_is_bounded_by_its_parents(registered):
    model, x, y = model_and_data()
    found = {
        name: tfcert.bound(model, x, REGION, name) for name in ("crown-ibp", registered, "crown")
    }
    soundness.Reached(model, x, REGION).check(found[registered])
    widths = [float(ops.mean(b.upper - b.lower)) for b in found.values()]
    assert widths[0] > widths[1] * 1.01 > widths[2], widths
    assert methods.name_of(NarrowCrown()) == registered
    assert methods.get(registered) == NarrowCrown()


def test_it_certifies_and_exports_and_trains(registered, tmp_path):
    model, x, y = model_and_data()
    result = tfcert.certify(model, x, y, tfcert.LpBall(1e-4, clip=(0.0, 1.0)), method=registered)
    assert set(result.method) == {registered}
    assert (result.verdict == "verified").all()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tfcert.export_certified(model, tmp_path / "1", REGION, method=registered)
        loaded = tf.saved_model.load(str(tmp_path / "1"))
        margin = loaded.signatures["serving_default"](x=tf.constant(x))["margin"]
        expected = tfcert.bound_margins(model, x, y, REGION, registered)
        others = np.where(np.arange(3) == y[:, None], np.inf, ops.convert_to_numpy(expected))
        np.testing.assert_allclose(margin, others.min(axis=1), atol=1e-4)
    objective = tfcert.objectives.IBP(REGION, validation_method=registered)
    again = type(objective).from_config(objective.get_config())
    assert methods.get(again.validation_method) == NarrowCrown()
    margins = objective.margins(model, ops.convert_to_tensor(x), ops.convert_to_tensor(y))
    assert tuple(margins.shape) == (8, 3)


def test_names_are_unique_and_for_methods_only():
    with pytest.raises(ValueError, match="`name` must be new. Received: name='crown'"):
        methods.register("crown")(NarrowCrown)
    with pytest.raises(ValueError, match="Only subclasses of tfcert.methods.Method"):
        methods.register("no-method")(dict)
    with pytest.raises(ValueError, match="must be one of 'ibp', 'lipschitz', 'crown-ibp'"):
        methods.get("no-method")


@pytest.mark.parametrize(
    "pair",
    [
        (methods.Crown(), methods.FastLin()),
        (methods.IBP(), methods.AlphaCrown(iterations=3)),
        (methods.Crown(slope="zero"), methods.Intersection(methods.IBP(), methods.Crown())),
    ],
)
def test_an_intersection_is_no_looser_than_its_second_method(pair):
    model, x, y = model_and_data()
    both = methods.Intersection(*pair)
    ours = tfcert.bound(model, x, REGION, both)
    soundness.Reached(model, x, REGION).check(ours)
    margins = tfcert.bound_margins(model, x, y, REGION, both)
    theirs = tfcert.bound(model, x, REGION, pair[1])
    assert (ops.convert_to_numpy(ours.lower - theirs.lower) > -1e-5).all()
    assert (ops.convert_to_numpy(theirs.upper - ours.upper) > -1e-5).all()
    alone = tfcert.bound_margins(model, x, y, REGION, pair[1])
    assert (ops.convert_to_numpy(margins - alone) > -1e-5).all()
    # The first one works with the intervals of both.
    first = tfcert.bound(model, x, REGION, pair[0])
    assert float(ops.mean(ours.upper - ours.lower)) < float(ops.mean(first.upper - first.lower))


def test_a_method_knows_the_next_tighter_one():
    safe = methods.Crown(float_safe=True, max_memory=1 << 20)
    assert safe.tighter() == methods.AlphaCrown(float_safe=True, max_memory=1 << 20)
    pair = methods.Intersection(methods.IBP(), methods.CrownIBP())
    assert pair.tighter() == methods.AlphaCrown()
    assert methods.IBP().tighter() is methods.AlphaCrown().tighter() is None
