"""Losses between that of an attack and that of IBP: SABR, MTL-IBP, CC-IBP and Exp-IBP."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import training_support as ts
from tests.attacking_test import normalising
from tests.objectives_support import cross_entropy
from tfcert import Box, CertifiedTrainer, LpBall, attacks, datasets, objectives
from tfcert.bounds.margins import Margins
from tfcert.network import network_of
from tfcert.objectives.parts import box_inside
from tfcert.objectives.shrinking import ShrunkIntervals

REGION = LpBall(0.1, clip=(0.0, 1.0))
MIXTURES = (objectives.MTLIBP, objectives.CCIBP, objectives.ExpIBP)
FAST = {"attack_steps": 2, "attack_step_size": 0.7}


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def robust(objective, model=None, **options):
    x, y = ts.data(16)
    return ts.terms_at(objective, model or ts.mlp(), x, y, **options)["robust"]


# The small box.


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_small_box_lies_inside_and_holds_the_point(ratio, seed):
    x, _ = ts.data(20, seed=seed)
    x[:5] = np.round(x[:5])  # Where the region is clipped, its middle is not x.
    points = array(REGION.sample(x, 1, seed, corners=seed % 2 == 0)[:, 0])
    box, middle = box_inside(REGION, x, points, ratio)
    lower, upper, middle = array(box.lower), array(box.upper), array(middle)
    whole = [array(end) for end in REGION.interval(x)]
    assert (lower >= whole[0]).all() and (upper <= whole[1]).all()
    np.testing.assert_allclose(upper - lower, ratio * (whole[1] - whole[0]), atol=1e-6)
    assert (lower <= points + 1e-6).all() and (points <= upper + 1e-6).all()
    assert (lower <= middle).all() and (middle <= upper).all()
    # Moved no further than it must be.
    free = (points - lower < upper - points - 1e-6) & (lower > whole[0] + 1e-6)
    assert not free.any()


def test_sabr_bounds_that_box():
    x, y = ts.data(12)
    model, objective = ts.mlp(), objectives.SABR(REGION, 0.3, train_eps=0.2, ramp=(0, 2), **FAST)
    _, batch = ts.batch_at(objective, model, x, y, epoch=1.0)
    found = objective.known_bounds(batch).evaluation.intervals[network_of(model).input]
    place = objective.small_box.attack.place(batch)
    points = place.worst(objective.small_box.attack.pgd)
    box, _ = box_inside(REGION, x, points, 0.3)  # Half of the training radius is that of REGION.
    np.testing.assert_allclose(found.lower, box.lower, atol=1e-6)
    np.testing.assert_allclose(found.upper, box.upper, atol=1e-6)
    assert (array(found.upper - found.lower) < 0.07).all()


def test_sabr_lies_between_the_attack_and_ibp():
    regularized = {"regularizer": 0.5, "ramp": (0, 4), "train_eps": 0.2}
    x, y = ts.data(16)
    ibp = objectives.IBP(REGION, 0.3, **regularized)
    sabr = objectives.SABR(REGION, 1.0, 0.3, **regularized)
    terms = [ts.terms_at(objective, ts.mlp(), x, y, 2.0) for objective in (ibp, sabr)]
    assert terms[0] == terms[1] and terms[0]["warmup"] > 0
    losses = [robust(objectives.SABR(REGION, ratio, **FAST)) for ratio in (0.0, 0.4, 1.0)]
    assert all(a < b for a, b in zip(losses, losses[1:], strict=False))
    attacked = objectives.AdversarialTraining(REGION, 2, 0.7)
    expected = ts.terms_at(attacked, ts.mlp(), x, y)["adversarial"]
    assert losses[0] == pytest.approx(expected, rel=1e-5)


def test_shrunk_intervals_by_hand():
    x, y = ts.data(9)
    model = ts.mlp(units=(7,))
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers)
    low, high = (array(end) for end in REGION.interval(x))
    center, radius = (low + high) / 2 @ w1 + b1, (high - low) / 2 @ np.abs(w1)
    low, high = center - radius, center + radius
    unstable = (low < 0) & (high > 0)
    assert unstable.any() and not unstable.all()
    low, high = np.maximum(low, 0), np.maximum(np.where(unstable, 0.8 * high, high), 0)
    margin = w2[:, y].T[:, :, None] - w2[None]  # (batch, hidden, classes)
    least = np.einsum("bi,bij->bj", low, np.maximum(margin, 0))
    least += np.einsum("bi,bij->bj", high, np.minimum(margin, 0)) + b2[y][:, None] - b2
    found = Margins(model, x, y, REGION, ShrunkIntervals(0.8)).interval()
    np.testing.assert_allclose(found, least, atol=1e-5)
    assert robust(objectives.SABR(REGION, relu_shrink=0.8, **FAST)) < robust(
        objectives.SABR(REGION, **FAST)
    )


# Between the attack and IBP.


@pytest.mark.parametrize("kind", MIXTURES)
def test_the_ends_are_ibp_and_adversarial_training(kind):
    x, y = ts.data(16)
    attacked = objectives.AdversarialTraining(REGION, 2, 0.7)
    expected = ts.terms_at(attacked, ts.mlp(), x, y)["adversarial"]
    losses = [robust(kind(REGION, alpha, **FAST)) for alpha in (0.0, 0.5, 1.0)]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[2] == pytest.approx(robust(objectives.IBP(REGION, 0.0)), rel=1e-5)
    assert losses[0] < losses[1] < losses[2]


def parts():
    """Worst-case logits of IBP and the scores at attacked inputs, and their labels."""
    x, y = ts.data(16)
    objective = objectives.MTLIBP(REGION, **FAST)
    _, batch = ts.batch_at(objective, ts.mlp(), x, y)
    worst = -array(objective.bounds(batch, "ibp").interval())
    return worst, array(objective.attack.scores(batch)), y


def test_between_the_ends_by_hand():
    worst, attacked, y = parts()
    upper, lower = cross_entropy(y, worst), cross_entropy(y, attacked)
    alpha = 0.3
    expected = {
        objectives.MTLIBP(REGION, alpha, **FAST): np.mean(alpha * upper + (1 - alpha) * lower),
        objectives.ExpIBP(REGION, alpha, **FAST): upper.mean() ** alpha
        * lower.mean() ** (1 - alpha),
        objectives.ExpIBP(REGION, alpha, per_sample=True, **FAST): np.mean(
            upper**alpha * lower ** (1 - alpha)
        ),
        objectives.CCIBP(REGION, alpha, **FAST): cross_entropy(
            y, alpha * worst + (1 - alpha) * (attacked - attacked[np.arange(16), y][:, None])
        ).mean(),
    }
    found = [robust(objective) for objective in expected]
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-5)
    assert len({round(value, 4) for value in found}) == 4


@pytest.mark.parametrize("kind", MIXTURES)
def test_the_clean_loss_and_weights_that_move(kind):
    x, y = ts.data(16)
    objective = kind(REGION, (1.0, 0.5), 0.25, ramp=(0, 2), **FAST)
    terms = ts.terms_at(objective, ts.mlp(), x, y, epoch=1.0)
    expected = robust(kind(REGION.with_eps(0.05), 0.75, **FAST), epoch=1.0)
    assert terms["robust"] == pytest.approx(0.75 * expected, rel=1e-4)
    clean = cross_entropy(y, array(ts.mlp()(x))).mean()
    assert terms["natural"] == pytest.approx(0.25 * clean, rel=1e-5)


def test_the_attack_may_reach_further_while_training():
    wide = objectives.MTLIBP(REGION, 0.0, attack_scale=2.0, **FAST)
    double = objectives.MTLIBP(LpBall(0.2, clip=(0, 1)), 0.0, **FAST)
    assert robust(wide) == pytest.approx(robust(double), rel=1e-5)
    target = robust(objectives.MTLIBP(REGION, 0.0, **FAST), training=False)
    assert robust(wide, training=False) == target
    x = ts.data(16)[0]
    box = Box(np.maximum(x - 0.1, 0.0), np.minimum(x + 0.1, 1.0))
    with pytest.raises(ValueError, match="`attack_scale` above 1 needs a region with an eps"):
        objectives.MTLIBP(box, attack_scale=2.0)


def test_of_several_restarts_the_worst_point_counts():
    x, y = ts.data(16)
    model = ts.mlp()
    _, batch = ts.batch_at(objectives.IBP(REGION), model, x, y)
    place = batch.at_input(REGION)

    def margins(attack):
        points = array(place.strongest(attack))
        assert REGION.contains(points, x).all()
        scores = array(model(points))
        hot = np.arange(3) == y[:, None]
        return np.where(hot, -np.inf, scores).max(axis=1) - scores[hot]

    # The first start of both is the same random point.
    one, three = (margins(attacks.PGD(REGION, 2, restarts=n, early_stop=False)) for n in (1, 3))
    assert (three >= one - 1e-6).all() and (three > one + 1e-4).any()
    several = objectives.MTLIBP(REGION, 0.0, attack_restarts=3, **FAST)
    assert robust(several) > robust(objectives.MTLIBP(REGION, 0.0, **FAST))


def test_the_attack_and_the_loss_have_the_statistics_of_the_clean_batch():
    x, y = ts.data(12, (6, 6, 1))
    model, objective = normalising(), objectives.MTLIBP(REGION, 0.0, **FAST)
    _, batch = ts.batch_at(objective, model, x, y)
    points = objective.attack.pgd.last_point(batch.forward, batch.x, batch.y, batch.seed)
    expected = cross_entropy(y, array(batch.forward(points))).mean()
    found = ts.terms_at(objectives.MTLIBP(REGION, 0.0, **FAST), normalising(), x, y)["robust"]
    assert found == pytest.approx(expected, rel=1e-5)
    moving = cross_entropy(y, array(model(points, training=False))).mean()
    assert abs(found - moving) > 0.01


def test_a_loss_of_0_has_a_finite_gradient():
    x, y = ts.data(8)
    model = ts.mlp(units=(6,))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([0 * kernel, 0 * bias + [100.0, 0.0, 0.0]])
    y[:] = 0
    for per_sample in (False, True):
        objective = objectives.ExpIBP(REGION, 0.5, per_sample=per_sample, **FAST)
        trainer = CertifiedTrainer(model, objective, verified_share=0.0)
        trainer.compile("sgd", run_eagerly=True)
        assert np.isfinite(trainer.train_on_batch(x, y, return_dict=True)["loss"])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: objectives.SABR(REGION, 1.5), r"`ratio` must lie in \[0, 1\]"),
        (lambda: objectives.SABR(LpBall(0.1, norm=2)), "norm inf. Received: region=LpBall"),
        (lambda: objectives.SABR(REGION, relu_shrink=0.0), r"`relu_shrink` must lie in \(0, 1\]"),
        (lambda: objectives.SABR(REGION, attack_steps=0), "`steps` must be a positive integer"),
        (lambda: objectives.MTLIBP(REGION, 1.5), r"`ibp_weight` must lie in \[0, 1\]"),
        (lambda: objectives.CCIBP(REGION, attack_scale=0.0), "`attack_scale` must be > 0"),
        (lambda: objectives.ExpIBP(REGION, per_sample="no"), "`per_sample` must be True or False"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


RUNS = {
    "sabr": lambda region, **o: objectives.SABR(region, 0.4, **o),
    "sabr_shrunk": lambda region, **o: objectives.SABR(region, relu_shrink=0.8, **o),
    "mtl_ibp": lambda region, **o: objectives.MTLIBP(region, 0.1, **o),
    "cc_ibp": lambda region, **o: objectives.CCIBP(region, 0.1, **o),
    "exp_ibp": lambda region, **o: objectives.ExpIBP(region, 0.1, **o),
    "taps": lambda region, **o: objectives.TAPS(region, 2, **o),
    "staps": lambda region, **o: objectives.STAPS(region, 0.4, 2, **o),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_digits_can_be_verified_after_a_few_epochs(name):
    """Compiled, with batch normalisation; clean training gives 44 % here after as many steps."""
    region = LpBall(0.05, clip=(0.0, 1.0))
    (x, y), test = datasets.load("digits")
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(64), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            *dense,
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    objective = RUNS[name](region, ramp=(1, 5), validation_method="crown")
    trainer = CertifiedTrainer(model, objective, verified_share=0.0)
    trainer.compile(keras.optimizers.Adam(5e-3))
    trainer.fit(x, y, epochs=10, batch_size=128, verbose=0)
    trainer.run_eagerly = True  # One batch: to trace CROWN takes longer.
    found = trainer.evaluate(*test, batch_size=360, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.92
    assert found["verified_accuracy"] > 0.74
