"""Each objective against its formula, and the properties that the papers' methods must have."""

import keras
import numpy as np
import pytest

from tests import smoothing_training_test, soundness
from tests import training_support as ts
from tests.objectives_support import cross_entropy
from tfcert import Box, LpBall, attacks, bound_margins, methods, objectives, schedules
from tfcert.bounds.margins import Margins

# One of each kind, with arguments that differ from the defaults.
EVERY = {
    "standard": lambda r: objectives.Standard(r, validation_method="crown"),
    "adversarial": lambda r: objectives.AdversarialTraining(r, 3, 0.4, ramp=(1, 3)),
    "ibp": lambda r: objectives.IBP(r, 0.3, train_eps=0.1, ramp=(1, 3), regularizer=0.5),
    "crown-ibp": lambda r: objectives.CrownIBP(
        r, schedules.Linear(1.0, 0.2, 0, 3), (1.0, 0.4), slope="zero", ramp=(0, 2)
    ),
    "crown-ibp-fused": lambda r: objectives.FusedCrownIBP(
        r, schedules.Linear(1.0, 0.2, 0, 3), (1.0, 0.4), slope="one", ramp=(0, 2)
    ),
    "maar": lambda r: objectives.MAAR(
        r, (0.0, 3.0), divergence="symmetric", selection="hard", detach=("weight",)
    ),
    "tight": lambda r: objectives.TightRelaxation(
        r, 0.2, (0.0, 0.4), specifications="all", distance="face", reduction="sum"
    ),
    "sabr": lambda r: objectives.SABR(
        r, 0.3, 0.2, relu_shrink=0.8, attack_steps=2, attack_step_size=0.6, attack_restarts=2
    ),
    "mtl-ibp": lambda r: objectives.MTLIBP(
        r, (1.0, 0.2), 0.2, attack_steps=2, attack_scale=1.5, ramp=(0, 2)
    ),
    "cc-ibp": lambda r: objectives.CCIBP(r, 0.2, attack_steps=1, regularizer=0.5, ramp=(0, 2)),
    "exp-ibp": lambda r: objectives.ExpIBP(r, 0.2, attack_steps=1, per_sample=True),
    "taps": lambda r: objectives.TAPS(
        r, 1, gradient_scale=2.0, link=0.4, search_steps=2, search_restarts=2, ramp=(0, 2)
    ),
    "staps": lambda r: objectives.STAPS(
        r, 0.3, 2, relu_shrink=0.8, ibp_warmup=False, per_sample=True, attack_steps=2
    ),
    "advibp": lambda r: objectives.AdvIBP(
        r, (2, 3), (0, 1), 4.0, 1e-3, attack_steps=2, gradients="all", rescale=False
    ),
}


@pytest.mark.parametrize("name", EVERY)
def test_configuration_round_trip(name):
    objective = EVERY[name](ts.REGION)
    config = keras.saving.serialize_keras_object(objective)
    again = keras.saving.deserialize_keras_object(config)

    def terms(epoch, objective):
        # Of a copy: an objective may belong to one trainer.
        copy = type(objective).from_config(objective.get_config())
        return ts.terms_at(copy, model, x, y, epoch)

    assert type(again) is type(objective)
    assert keras.saving.serialize_keras_object(again) == config
    (x, y), model = ts.data(8), ts.mlp()
    with soundness.eagerly():
        for epoch in (0, 1.5, 5):
            assert terms(epoch, objective) == terms(epoch, again)


def test_every_objective_is_listed_here():
    kinds = {type(make(ts.REGION)).__name__ for make in EVERY.values()}
    # LInfDistance wants other models: tests/distance_training_test.py.
    others = {"Batch", "LInfDistance", "Objective", "RobustObjective", "next_stage"}
    others |= {type(make()).__name__ for make in smoothing_training_test.EVERY.values()}
    assert kinds == set(objectives.__all__) - others


def test_ibp_is_the_formula():
    x, y = ts.data(10)
    model, objective = ts.mlp(), objectives.IBP(ts.REGION, (1.0, 0.4), train_eps=0.1, ramp=(0, 4))
    margins = np.asarray(bound_margins(model, x, y, LpBall(0.05, clip=(0, 1)), "ibp"))
    terms = ts.terms_at(objective, model, x, y, epoch=2.0)
    kappa = 0.7
    clean = cross_entropy(y, np.asarray(model(x))).mean()
    np.testing.assert_allclose(terms["natural"], kappa * clean, rtol=1e-5)
    robust = cross_entropy(y, -margins).mean()
    np.testing.assert_allclose(terms["robust"], (1 - kappa) * robust, rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.GradientTape")
@pytest.mark.parametrize("kind", [objectives.IBP, objectives.SABR, objectives.CCIBP])
def test_a_clean_loss_of_weight_zero_has_no_gradient_to_compute(kind):
    import tensorflow as tf

    model, (x, y) = ts.mlp(), ts.data(6)
    found = {}
    # The same weight, of which the objective knows that it stays 0, or does not.
    for name, weight in (("known", 0.0), ("met", schedules.Piecewise([50], [0.0, 1.0]))):
        objective = kind(ts.REGION, natural_weight=weight)
        with tf.GradientTape(persistent=True) as tape:
            trainer, batch = ts.batch_at(objective, model, x, y)
            (loss,), terms = trainer.losses_of(batch)
        weights = [variable.value for variable in model.trainable_variables]
        found[name] = float(terms["natural"]), tape.gradient(loss, weights)
        assert (tape.gradient(terms["natural"], batch.logits) is None) == (name == "known")
    assert found["known"][0] == found["met"][0] == 0.0
    for one, other in zip(found["known"][1], found["met"][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_crown_ibp_mixes_both_bounds():
    x, y = ts.data(10)
    model = ts.mlp()
    interval = np.asarray(bound_margins(model, x, y, ts.REGION, "ibp"))
    backward = np.asarray(bound_margins(model, x, y, ts.REGION, methods.CrownIBP(intersect=False)))
    assert np.abs(interval - backward).max() > 0.01
    for beta in (0.0, 0.3, 1.0):
        objective = objectives.CrownIBP(ts.REGION, 0.0, schedules.Constant(beta))
        terms = ts.terms_at(objective, model, x, y)
        expected = cross_entropy(y, -(beta * backward + (1 - beta) * interval)).mean()
        np.testing.assert_allclose(terms["robust"], expected, rtol=1e-5)


def test_validation_is_at_the_target_whatever_the_schedule():
    x, y = ts.data(10)
    objective = objectives.IBP(ts.REGION, (1.0, 0.4), train_eps=0.3, ramp=(1, 4))
    early, late = (ts.terms_at(objective, ts.mlp(), x, y, e, training=False) for e in (0, 9))
    assert early == late
    margins = np.asarray(bound_margins(ts.mlp(), x, y, ts.REGION, "ibp"))
    np.testing.assert_allclose(early["robust"], 0.6 * cross_entropy(y, -margins).mean(), rtol=1e-5)


def test_box_regions_grow_about_x():
    x, y = ts.data(6)
    box = Box(np.maximum(x - 0.05, 0), np.minimum(x + 0.05, 1))
    half = ts.terms_at(objectives.IBP(box, 0.0, ramp=(0, 2)), ts.mlp(), x, y, 1.0)
    ball = objectives.IBP(LpBall(0.05, clip=(0, 1)), 0.0, ramp=(0, 2))
    assert half["robust"] < ts.terms_at(ball, ts.mlp(), x, y, 2.0)["robust"]
    assert half["robust"] > ts.terms_at(ball, ts.mlp(), x, y, 0.0)["robust"]
    assert "ramp" in objectives.IBP(box, ramp=(0, 2)).current(schedules.Clock(1, 1))


def test_adversarial_training_is_the_loss_of_attacked_points():
    x, y = ts.data(12)
    model = ts.mlp()
    terms = ts.terms_at(objectives.AdversarialTraining(ts.REGION, 5), model, x, y)
    clean = cross_entropy(y, np.asarray(model(x))).mean()
    strong = attacks.PGD(ts.REGION, 50, early_stop=False)(model, x, y)
    worst = cross_entropy(y, np.asarray(model(strong))).mean()
    assert clean < terms["adversarial"] <= worst * 1.02
    still = objectives.AdversarialTraining(ts.REGION, 5, ramp=(1, 2))
    np.testing.assert_allclose(ts.terms_at(still, model, x, y)["adversarial"], clean, rtol=1e-5)


def test_warmup_regularizers_by_hand():
    from tfcert.bounds import propagation
    from tfcert.objectives.warmup import warmup_regularizers

    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)]
    )
    kernel = np.array([[4.0, 0.0, 1.0], [0.0, 4.0, -1.0]])
    model.layers[0].set_weights([kernel, np.array([2.0, -3.2, -0.15])])
    x = np.array([[0.5, 0.5]], "float32")
    network = Margins(model, x, np.array([0]), LpBall(0.1)).network
    bound_region = LpBall(0.1).bind(x)
    evaluation = propagation.evaluate(network, LpBall(0.1), bound_region, methods.IBP())
    # Radii 0.4, 0.4, 0.2; centres 4, -1.2, -0.15: active, inactive, unstable.
    tightness = max(0, 0.5 - 0.1 / (1.0 / 3)) / 0.5
    centers = np.array([4.0, -1.2, -0.15])
    spread = (centers - centers.mean()) ** 2
    ratios = [1.2 / 4.0, spread[1] / spread[0]]
    assert max(ratios) < 0.5  # Both hinges are open.
    balance = sum(0.5 - ratio for ratio in ratios) / 0.5
    value = float(warmup_regularizers(evaluation, 0.5))
    np.testing.assert_allclose(value, tightness + balance, rtol=1e-5)


def test_warmup_regularizers_measure_normalised_inputs():
    from tfcert.objectives.warmup import warmup_regularizers

    x, y = ts.data(8)
    plain = ts.mlp()
    normalise = keras.layers.Normalization(mean=0.5, variance=0.0625)
    front = keras.Sequential([keras.Input((5,)), normalise, *plain.layers])

    def value(model, x, eps):
        return float(warmup_regularizers(Margins(model, x, y, LpBall(eps)).evaluation, 0.5))

    inside = value(plain, (x - 0.5) / 0.25, 0.02 / 0.25)
    assert value(front, x, 0.02) == pytest.approx(inside, rel=1e-4)
    assert inside > 0


def test_a_ramp_that_does_not_reach_the_radius_warns():
    with pytest.warns(UserWarning, match="`ramp` ends at 0.2.*set `train_eps`"):
        objectives.IBP(ts.REGION, ramp=schedules.Linear(0, 0.2, 1, 3))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: objectives.IBP(0.1), "`region` must be"),
        (lambda: objectives.IBP(None), "`region` must be"),
        (lambda: objectives.IBP(ts.REGION, (1.0, 0.5, 0.1)), "a pair"),
        (lambda: objectives.IBP(ts.REGION, regularizer=-1.0), "`regularizer` must be at least 0"),
        (lambda: objectives.IBP(Box(0.0, 1.0), train_eps=0.1), "`train_eps` needs a region"),
        (lambda: objectives.IBP(ts.REGION, validation_method="best"), "`method` must be one of"),
        (lambda: objectives.IBP(ts.REGION, 2.0), r"`natural_weight` must lie in \[0, 1\]"),
        (lambda: objectives.IBP(ts.REGION, (1.0, -0.5)), "`natural_weight` must lie"),
        (
            lambda: objectives.IBP(ts.REGION, schedules.Linear(1.5, 0.5, 0, 2)),
            "`natural_weight` must lie",
        ),
        (lambda: objectives.CrownIBP(ts.REGION, 0.0, 3), "`backward_weight` must lie"),
        (lambda: objectives.MAAR(ts.REGION, weight=-5), "`weight` must be at least 0"),
        (
            lambda: objectives.MAAR(ts.REGION, schedules.Piecewise([1, 2], [1.0, -1.0, 1.0])),
            "`weight` must be at least 0",
        ),
        (lambda: objectives.TightRelaxation(ts.REGION, (0, -1)), "`gap_weight` must be"),
        (lambda: objectives.IBP(ts.REGION, ramp=2.0), r"`ramp` is a fraction.*in \[0, 1\]"),
        (lambda: objectives.IBP(ts.REGION, ramp=0.0), "end above 0"),
        (lambda: objectives.AdvIBP(ts.REGION, attack_ramp=-1.0), "`attack_ramp` is a fraction"),
        (lambda: objectives.MAAR(ts.REGION, divergence="l2"), "`divergence` must be one of"),
        (lambda: objectives.MAAR(ts.REGION, detach=("all",)), "`detach` may hold"),
        (lambda: objectives.TightRelaxation(ts.REGION, base="lp"), "`base` must be one of"),
        (lambda: objectives.AdvIBP(LpBall(0.1, norm=2)), "norm inf"),
        (lambda: objectives.AdvIBP(ts.REGION, stage=0), "positive integer"),
        (lambda: objectives.AdvIBP(ts.REGION, gradients="last"), "`gradients` must be"),
        (lambda: objectives.AdversarialTraining(ts.REGION, 0), "`steps` must be a positive"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
