"""The losses of randomized smoothing, by hand."""

import keras
import numpy as np
import pytest
from scipy import stats

from tests import training_support as ts
from tests.smoothing_support import first
from tfcert import CertifiedTrainer, objectives, schedules


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_gaussian_is_the_mean_cross_entropy():
    x, y, _, terms, z = first(objectives.GaussianSmoothing(0.3, copies=3))
    assert z.shape == (20, 3, 3)
    losses = -np.log(np.take_along_axis(softmax(z), y[:, None, None], 2))
    np.testing.assert_allclose(terms["noisy"], losses.mean(), rtol=1e-5)


def test_no_noise_is_plain_training():
    objective = objectives.GaussianSmoothing(1e-6, copies=2)
    x, y, batch, terms, _ = first(objective)
    plain = ts.terms_at(objectives.Standard(), ts.mlp(), x, y)["natural"]
    np.testing.assert_allclose(terms["noisy"], plain, rtol=1e-4)
    right = np.asarray(ts.mlp()(x)).argmax(1) == y
    np.testing.assert_allclose(objective.correct(batch), right)


def test_stability():
    x, y, batch, terms, z = first(objectives.StabilitySmoothing(0.3, 1.5, copies=3))
    p = softmax(np.asarray(batch.model(x)))
    expected = -1.5 * (p[:, None] * np.log(softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(terms["stability"], expected, rtol=1e-5)
    clean = -np.log(p[np.arange(20), y]).mean()
    np.testing.assert_allclose(terms["natural"], clean, rtol=1e-5)


def test_macer_by_hand():
    objective = objectives.MACER(0.3, 4.0, gamma=3.0, beta=2.0, copies=6)
    _, y, _, terms, z = first(objective)
    p, q = softmax(z).mean(1), softmax(2.0 * z).mean(1)
    np.testing.assert_allclose(terms["noisy"], -np.log(p[np.arange(20), y]).mean(), rtol=1e-5)
    right = q[np.arange(20), y]
    other = np.where(np.arange(3) == y[:, None], -1, q).max(1)
    margin = stats.norm.ppf(right) - stats.norm.ppf(other)
    active = (right > other) & (np.abs(margin) <= 3.0)
    assert 0 < active.sum() < 20
    hinge = np.where(active, 3.0 - margin, 0).mean()
    np.testing.assert_allclose(terms["radius"], 4.0 * 0.15 * hinge, rtol=1e-4)


def test_macer_has_a_gradient_where_the_model_is_sure():
    model = ts.mlp()
    model.layers[-1].kernel.assign(1e3 * model.layers[-1].kernel)
    x, y = ts.data(16)
    trainer = CertifiedTrainer(model, objectives.MACER(0.01, 4.0, copies=4))
    trainer.compile(keras.optimizers.SGD(1e-3))
    logs = trainer.train_on_batch(x, y, return_dict=True)
    assert np.isfinite(logs["loss"])
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("form", ["default", "cross_entropy", "kl", "squared"])
def test_consistency_by_hand(form):
    objective = objectives.ConsistencySmoothing(0.4, 5.0, 0.7, copies=3, form=form)
    _, _, _, terms, z = first(objective)
    f = softmax(z)
    mean = f.mean(1)
    kl = (mean[:, None] * np.log(mean[:, None] / f)).sum(-1).mean(1)
    entropy = -(mean * np.log(mean)).sum(-1)
    expected = {
        "default": 5.0 * kl + 0.7 * entropy,
        "cross_entropy": -5.0 * (mean[:, None] * np.log(f)).sum(-1).mean(1),
        "kl": 5.0 * kl,
        "squared": 5.0 * ((f[:, 0] - f[:, 1]) ** 2).sum(-1),
    }[form]
    np.testing.assert_allclose(terms["consistency"], expected.mean(), rtol=1e-4)


def test_copies_that_agree_cost_only_their_entropy():
    objective = objectives.ConsistencySmoothing(1e-6, 5.0, 0.0)
    np.testing.assert_allclose(first(objective)[3]["consistency"], 0.0, atol=1e-5)


def test_smooth_adv_attacks_the_smoothed_model():
    objective = objectives.SmoothAdv(0.2, 0.5, 5, copies=4, warmup=0)
    x, _, batch, terms, _ = first(objective)
    noise = objective._noise(batch)
    points = np.asarray(objective._attacked(batch, noise))
    length = np.sqrt(((points - x) ** 2).sum(1))
    assert length.max() <= 0.5 + 1e-5 and length.max() > 0.3
    assert points.min() >= 0 and points.max() <= 1
    # Under the same noise, the attacked points are worse than the clean ones.
    clean = first(objectives.GaussianSmoothing(0.2, copies=4))[3]
    assert terms["noisy"] > 1.05 * clean["noisy"]
    plain = objectives.ConsistencySmoothing(0.2, 0.0, copies=4, eta=0.0)
    np.testing.assert_allclose(first(plain)[3]["noisy"], clean["noisy"], rtol=1e-6)


def test_the_attack_radius_warms_up():
    objective = objectives.SmoothAdv(0.2, 0.8, warmup=4)
    values = [
        float(objective.current(schedules.Clock(step, 10))["attack_radius"])
        for step in (0, 9, 10, 25, 30, 90)
    ]
    np.testing.assert_allclose(values, [0.2, 0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-6)
    assert float(objective.current(schedules.Clock(0, 10, final=True))["attack_radius"]) > 0.79
