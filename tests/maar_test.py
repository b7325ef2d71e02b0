"""MAAR: its consistency, its upper bound and its parts without a gradient."""

import hypothesis as hp
import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import support
from tests import training_support as ts
from tests.objectives_support import SEEDS, SETTINGS, softmax
from tfcert import backend, bound_margins, objectives, schedules
from tfcert.bounds.margins import Margins
from tfcert.objectives.losses import boosted_cross_entropy, kl_divergence


@pytest.mark.parametrize("beta", [0.0, (1.0, 0.0)])
def test_maar_without_weight_is_its_base(beta):
    x, y = ts.data(10)
    base = ts.terms_at(objectives.CrownIBP(ts.REGION, 0.5, beta), ts.mlp(), x, y)
    maar = ts.terms_at(objectives.MAAR(ts.REGION, 0.0, 0.5, beta), ts.mlp(), x, y)
    assert maar == base  # The term is not computed.
    never = objectives.MAAR(ts.REGION, schedules.Linear(0.0, 1.0, 5, 6), 0.5, beta)
    maar = ts.terms_at(never, ts.mlp(), x, y)
    assert maar.pop("consistency") == 0.0
    assert maar == base


@pytest.mark.parametrize("divergence", ["clean", "worst", "symmetric", "upper_bound"])
def test_maar_consistency(divergence):
    x, y = ts.data(20)
    model = ts.mlp()

    def consistency(epoch, **options):
        objective = objectives.MAAR(
            ts.REGION, 2.0, 0.0, 0.0, divergence=divergence, ramp=(1, 2), **options
        )
        return ts.terms_at(objective, model, x, y, epoch)["consistency"]

    # At radius 0 the worst-case logits are the clean ones, shifted.
    np.testing.assert_allclose(consistency(0.0), 0.0, atol=2e-6)
    assert consistency(5.0) > 1e-3
    clean = softmax(np.asarray(model(x)))
    worst = softmax(-np.asarray(bound_margins(model, x, y, ts.REGION, "ibp")))
    forth = (clean * np.log(clean / worst)).sum(1)
    back = (worst * np.log(worst / clean)).sum(1)
    values = {"clean": forth, "worst": back, "symmetric": (forth + back) / 2}
    if divergence in values:
        weight = 1 - clean[np.arange(20), y]
        expected = 2.0 * (weight * values[divergence]).mean()
        np.testing.assert_allclose(consistency(5.0), expected, rtol=1e-4)
        wrong = clean.argmax(1) != y
        assert 0 < wrong.sum() < 20
        expected = 2.0 * (wrong * values[divergence]).mean()
        np.testing.assert_allclose(consistency(5.0, selection="hard"), expected, rtol=1e-4)


@hp.given(seed=SEEDS)
@SETTINGS
@pytest.mark.parametrize(
    "divergence",
    support.slow_except("upper_bound".__eq__, ["clean", "worst", "symmetric", "upper_bound"]),
)
def test_maar_is_never_negative_and_leaves_sure_samples_alone(divergence, seed):
    model, (x, y) = ts.mlp(seed), ts.data(6, seed=seed)
    objective = objectives.MAAR(ts.REGION, 1.0, 0.0, 0.0, divergence=divergence)
    _, batch = ts.batch_at(objective, model, x, y)
    known = objective.bounds(batch, "ibp")
    worst = -known.interval()
    plain = np.asarray(objective.extra_terms(batch, known, worst)["consistency"])
    assert plain.shape == (6,) and plain.min() >= -1e-6
    # The first sample becomes sure of its label.
    hot = np.eye(3, dtype="float32")[y[:1]]
    batch.logits = ops.concatenate([batch.logits[:1] + 60.0 * hot, batch.logits[1:]])
    pushed = np.asarray(objective.extra_terms(batch, known, worst)["consistency"])
    assert pushed.min() >= -1e-6
    np.testing.assert_allclose(pushed[1:], plain[1:], rtol=1e-5, atol=1e-6)
    assert abs(pushed[0]) < 1e-6


@hp.given(seed=SEEDS)
@SETTINGS
def test_maar_upper_bound_covers_the_region(seed):
    model = ts.mlp(seed, classes=4)
    x, y = ts.data(5, classes=4, seed=seed)
    objective = objectives.MAAR(ts.REGION, divergence="upper_bound")
    known = Margins(model, x, y, ts.REGION)
    clean = model(x)
    largest = np.asarray(objective._divergence(clean, None, known))
    points = np.asarray(ts.REGION.sample(x, 200, seed, corners=True))
    for i in range(5):
        there = model(points[i])
        here = ops.broadcast_to(clean[i : i + 1], ops.shape(there))
        assert np.asarray(kl_divergence(here, there)).max() <= largest[i] + 1e-5


def test_maar_detached_parts_take_no_gradient():
    x, y = ts.data(16)

    def gradient(detach):
        model = ts.mlp()
        objective = objectives.MAAR(ts.REGION, 5.0, 0.0, 0.0, detach=detach)
        _, batch = ts.batch_at(objective, model, x, y)

        def value(logits):
            batch.logits = logits[0]
            known = objective.bounds(batch, "ibp")
            total = ops.sum(objective.extra_terms(batch, known, -known.interval())["consistency"])
            return total, total

        return np.asarray(backend.value_and_gradients(value, [model(x)])[2][0])

    full, weight, clean = gradient(()), gradient(("weight",)), gradient(("clean",))
    # Without one part the other's gradient is left, and they add up to the whole.
    assert np.abs(weight).max() > 1e-4 and np.abs(clean).max() > 1e-4
    np.testing.assert_allclose(weight + clean, full, atol=1e-5)
    np.testing.assert_array_equal(gradient(("weight", "clean")), 0.0)


def test_boosted_cross_entropy():
    z = np.array([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]], "float32")
    y = np.array([0, 2])
    q = softmax(z)
    expected = [
        -np.log(q[0, 0]) - np.log(1.0001 - q[0, 1]),
        -np.log(q[1, 2]) - np.log(1.0001 - q[1, 1]),
    ]
    np.testing.assert_allclose(boosted_cross_entropy(y, z), expected, rtol=1e-5)
    sure = np.array([[-200.0, 200.0]], "float32")
    assert np.isfinite(np.asarray(boosted_cross_entropy(np.array([0]), sure))).all()


@pytest.mark.slow
def test_xla_compiles_a_sweep_whose_weight_falls():
    def weights(**options):
        objective = objectives.MAAR(
            tfcert.LpBall(0.05), weight=1.0, backward_weight=(1.0, 0.0), ramp=(0, 2)
        )
        trainer = tfcert.CertifiedTrainer(ts.mlp(units=(6,)), objective, verified_share=0.0)
        trainer.compile(keras.optimizers.SGD(0.1), **options)
        trainer.fit(*ts.data(32), batch_size=16, epochs=2, verbose=0)
        return trainer.model.get_weights()

    compiled, eager = weights(jit_compile=True), weights(run_eagerly=True)
    for one, other in zip(compiled, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
