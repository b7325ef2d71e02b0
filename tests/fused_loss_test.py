"""The fused loss of CROWN-IBP bounds the loss of every point."""

import hypothesis as hp
import keras
import numpy as np
import pytest
from hypothesis import strategies as hps

from tests import soundness
from tests import training_support as ts
from tests.objectives_support import SEEDS, SETTINGS, cross_entropy
from tfcert import LpBall, attacks, bound_margins, objectives, schedules
from tfcert.bounds.margins import Margins


def fused_loss(model, x, y, region, beta=1.0, **arguments):
    """The loss of each sample at the full radius."""
    objective = objectives.FusedCrownIBP(region, 0.0, beta, **arguments)
    _, batch = ts.batch_at(objective, model, x, y)
    return np.asarray(objective.terms(batch)["robust"])


@pytest.mark.slow
@SETTINGS
@hp.given(seed=SEEDS, radius=hps.floats(0.0, 0.5), slope=hps.sampled_from(["adaptive", "same"]))
def test_fused_loss_bounds_the_loss_of_every_point(seed, radius, slope):
    x, y = ts.data(6, seed=seed)
    model, region = ts.mlp(seed), LpBall(radius, clip=(0.0, 1.0))
    bound = fused_loss(model, x, y, region, slope=slope)
    box = np.random.default_rng(seed)
    steps = [box.choice([-1.0, 1.0, box.uniform(-1, 1)], size=x.shape) for _ in range(40)]
    points = np.clip(x + radius * np.array(steps), 0, 1).astype("float32")
    scores = np.asarray(model(points.reshape(-1, 5))).reshape(40, 6, 3)
    for there in scores:
        assert (cross_entropy(y, there) <= bound + 1e-5 * (1 + bound)).all()
    with soundness.eagerly():  # Each model is attacked once.
        worst = attacks.PGD(region, steps=8)(model, x, y)
    found = cross_entropy(y, np.asarray(model(worst)))
    assert (found <= bound + 1e-5 * (1 + bound)).all()


def test_fused_loss_at_radius_0_is_the_clean_loss():
    x, y = ts.data(10)
    clean = cross_entropy(y, np.asarray(ts.mlp()(x)))
    np.testing.assert_allclose(fused_loss(ts.mlp(), x, y, LpBall(0.0)), clean, rtol=1e-5)


def test_fused_loss_mixes_the_sums_of_exponentials():
    x, y = ts.data(10)
    none, some, all_ = (fused_loss(ts.mlp(), x, y, ts.REGION, beta) for beta in (0.0, 0.25, 1.0))
    np.testing.assert_allclose(np.exp(some), 0.75 * np.exp(none) + 0.25 * np.exp(all_), rtol=1e-5)
    assert np.abs(none - all_).max() > 1e-3


def test_fused_loss_without_the_sweep_is_ibp():
    x, y = ts.data(10)
    margins = np.asarray(bound_margins(ts.mlp(), x, y, ts.REGION, "ibp"))
    expected = cross_entropy(y, -margins)
    for beta in (0.0, schedules.Constant(0.0), schedules.Linear(0.0, 1.0, 5, 6)):
        found = fused_loss(ts.mlp(), x, y, ts.REGION, beta)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_fused_loss_of_an_affine_network():
    """The margins are exact: two classes leave one, where its chord ends; more share a point."""
    x, y = ts.data(12)
    region = LpBall(0.3)
    for classes in (2, 3):
        model = ts.mlp(units=(), classes=classes)
        labels = y % classes
        margins = np.asarray(bound_margins(model, x, labels, region, "crown"))
        separate = cross_entropy(labels, -margins)
        found = fused_loss(model, x, labels, region)
        if classes == 2:
            np.testing.assert_allclose(found, separate, rtol=1e-5)
        else:
            assert (found <= separate + 1e-5).all() and (found < separate - 1e-3).any()


@pytest.mark.slow
def test_fused_loss_stays_finite_where_bounds_are_wide():
    x, y = ts.data(10)
    model = ts.mlp(units=(8, 8))
    model.set_weights([40.0 * weight for weight in model.get_weights()])
    objective = objectives.FusedCrownIBP(LpBall(1.0), 0.0, 0.5)
    trainer, batch = ts.batch_at(objective, model, x, y)
    assert float(np.max(batch_widths(batch))) > 1e4
    trainer.compile(keras.optimizers.SGD(1e-9), run_eagerly=True)
    loss = trainer.fit(x, y, batch_size=5, verbose=0).history["loss"][0]
    assert np.isfinite(loss) and loss > 1e3
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def batch_widths(batch):
    known = Margins(batch.model, batch.x, batch.y, LpBall(1.0))
    return -np.asarray(known.interval(-1.0)) - np.asarray(known.interval())
