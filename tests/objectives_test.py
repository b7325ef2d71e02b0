"""Each objective against its formula, and the properties that the papers' methods must have."""

import hypothesis as hp
import keras
import numpy as np
import pytest
from hypothesis import strategies as hps
from keras import ops

from tests import smoothing_training_test
from tests import training_support as ts
from tfcert import Box, LpBall, attacks, backend, bound_margins, methods, objectives, schedules
from tfcert.bounds.margins import Margins
from tfcert.objectives.losses import boosted_cross_entropy, kl_divergence
from tfcert.objectives.tightness import relaxation_tightness

SETTINGS = hp.settings(derandomize=True, deadline=None, database=None, max_examples=12)
SEEDS = hps.integers(0, 2**20)

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
    "advibp": lambda r: objectives.AdvIBP(
        r, (2, 3), (0, 1), 4.0, 1e-3, attack_steps=2, gradients="all", rescale=False
    ),
}


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(y, z):
    return -np.log(np.take_along_axis(softmax(z), y[:, None], 1)[:, 0])


@pytest.mark.parametrize("name", EVERY)
def test_configuration_round_trip(name):
    objective = EVERY[name](ts.REGION)
    config = keras.saving.serialize_keras_object(objective)
    again = keras.saving.deserialize_keras_object(config)

    def terms(epoch, objective):
        # Of a copy: an objective may belong to one trainer.
        copy = type(objective).from_config(objective.get_config())
        return ts.terms_at(copy, ts.mlp(), x, y, epoch)

    assert type(again) is type(objective)
    assert keras.saving.serialize_keras_object(again) == config
    x, y = ts.data(8)
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


# CROWN-IBP with a fused loss.


def fused_loss(model, x, y, region, beta=1.0, **arguments):
    """The loss of each sample at the full radius."""
    objective = objectives.FusedCrownIBP(region, 0.0, beta, **arguments)
    _, batch = ts.batch_at(objective, model, x, y)
    return np.asarray(objective.terms(batch)["robust"])


@SETTINGS
@hp.given(seed=SEEDS, radius=hps.floats(0.0, 0.5), slope=hps.sampled_from(["adaptive", "same"]))
def test_fused_loss_bounds_the_loss_of_every_point(seed, radius, slope):
    x, y = ts.data(6, seed=seed)
    model, region = ts.mlp(seed), LpBall(radius, clip=(0.0, 1.0))
    bound = fused_loss(model, x, y, region, slope=slope)
    box = np.random.default_rng(seed)
    for _ in range(40):
        step = radius * box.choice([-1.0, 1.0, box.uniform(-1, 1)], size=x.shape)
        loss = cross_entropy(y, np.asarray(model(np.clip(x + step, 0, 1).astype("float32"))))
        assert (loss <= bound + 1e-5 * (1 + bound)).all()
    attack = attacks.PGD(region, steps=8)
    found = cross_entropy(y, np.asarray(model(attack(model, x, y))))
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


def test_fused_loss_stays_finite_where_bounds_are_wide():
    x, y = ts.data(10)
    model = ts.mlp(units=(8, 8))
    model.set_weights([40.0 * weight for weight in model.get_weights()])
    objective = objectives.FusedCrownIBP(LpBall(1.0), 0.0, 0.5)
    trainer, batch = ts.batch_at(objective, model, x, y)
    assert float(np.max(batch_widths(batch))) > 1e4
    trainer.compile(keras.optimizers.SGD(1e-9))
    loss = trainer.fit(x, y, batch_size=5, verbose=0).history["loss"][0]
    assert np.isfinite(loss) and loss > 1e3
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def batch_widths(batch):
    known = Margins(batch.model, batch.x, batch.y, LpBall(1.0))
    return -np.asarray(known.interval(-1.0)) - np.asarray(known.interval())


# MAAR.


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
@pytest.mark.parametrize("divergence", ["clean", "worst", "symmetric", "upper_bound"])
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


# Tighter relaxations.


def _tightness(model, x, y, region, method, **options):
    known = Margins(model, x, y, region, method)
    return known, relaxation_tightness(known, known.rows, **options)


@hp.given(seed=SEEDS, eps=hps.floats(0.005, 0.4))
@SETTINGS
@pytest.mark.parametrize("slope", ["adaptive", "same", "zero", "one"])
def test_the_gap_is_the_sum_of_weighted_distances(slope, seed, eps):
    model, (x, y) = ts.mlp(seed), ts.data(4, seed=seed)
    region = LpBall(eps, clip=(0.0, 1.0))
    known, found = _tightness(model, x, y, region, methods.CrownIBP(slope))
    scale = 1.0 + np.abs(np.asarray(known.backward())).max()
    np.testing.assert_allclose(found.gap, found.weighted, atol=2e-5 * scale)
    assert np.asarray(found.gap).min() >= -2e-5 * scale
    assert np.asarray(found.infeasibility).min() >= 0


@pytest.mark.parametrize(
    "method",
    [methods.CrownIBP("same"), methods.CrownIBP("adaptive"), methods.FastLin()],
    ids=["same", "adaptive", "fast-lin"],
)
def test_the_gap_is_that_sum_beyond_float32(method):
    try:
        backend.check_float64("this test")
    except ValueError as error:
        pytest.skip(str(error))
    model, (x, y) = ts.mlp(dtype="float64"), ts.data(6)
    known, found = _tightness(model, x.astype("float64"), y, LpBall(0.2, clip=(0, 1)), method)
    assert np.asarray(found.gap).dtype == "float64" and np.asarray(found.gap).max() > 0.05
    scale = 1.0 + np.abs(np.asarray(known.backward())).max()
    np.testing.assert_allclose(found.gap, found.weighted, rtol=0, atol=1e-11 * scale)


def test_the_relaxed_minimum_is_below_what_the_network_reaches():
    model, (x, y) = ts.mlp(3), ts.data(6)
    known, found = _tightness(model, x, y, LpBall(0.2), methods.CrownIBP())
    reached = np.asarray(found.gap) + np.asarray(known.relaxed_minimum(known.rows).value)
    lower = np.asarray(bound_margins(model, x, y, LpBall(0.2), "alpha-crown"))
    others = np.arange(3) != y[:, None]
    assert (reached[others] >= lower[others] - 1e-5).all()


@pytest.mark.parametrize("distance", ["touching", "face"])
def test_nothing_unstable_gives_zero(distance):
    model, (x, y) = ts.mlp(), ts.data(5)
    _, point = _tightness(model, x, y, LpBall(0.0), methods.CrownIBP(), distance=distance)
    np.testing.assert_allclose(point.gap, 0.0, atol=1e-5)
    np.testing.assert_array_equal(point.infeasibility, 0.0)
    linear = ts.mlp(activation=None)
    _, found = _tightness(linear, x, y, LpBall(0.3), methods.CrownIBP(), distance=distance)
    np.testing.assert_allclose(found.gap, 0.0, atol=1e-5)
    np.testing.assert_array_equal(found.infeasibility, 0.0)


def test_infeasibility_by_hand():
    # One unit with z in [-1, 3] at x in [-1, 3], which the score uses with weight w.
    def distance(weight, method, **options):
        model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, activation="relu"), keras.layers.Dense(2)]
        )
        model.layers[0].set_weights([np.array([[1.0]]), np.array([0.0])])
        model.layers[1].set_weights([np.array([[weight, 0.0]]), np.zeros(2)])
        known = Margins(model, np.array([[1.0]], "float32"), np.array([0]), LpBall(2.0), method)
        rows = (known.hot - known.hot[:, ::-1])[:, None]
        return float(relaxation_tightness(known, rows, **options).infeasibility[0, 0])

    same, adaptive = methods.CrownIBP("same"), methods.CrownIBP("adaptive")
    # Weight > 0: the lower face, minimal at x = -1. Slope 3/4: |z| = 1; slope 1: relu(z) - z = 1.
    assert distance(1.0, same) == pytest.approx(1.0)
    assert distance(1.0, same, distance="face") == pytest.approx(0.75)
    assert distance(1.0, adaptive) == pytest.approx(1.0)
    # Slope 0: every x is a minimum; the input itself is taken, where relu(1) - 0 = 1.
    assert distance(1.0, methods.CrownIBP("zero")) == pytest.approx(1.0)
    # Weight < 0: the upper face, minimal at x = 3, where it touches.
    assert distance(-1.0, same) == pytest.approx(0.0)


@pytest.mark.parametrize("base", ["crown-ibp", "fast-lin"])
def test_tight_relaxation_without_weights_is_its_base(base):
    x, y = ts.data(8)
    tight = objectives.TightRelaxation(ts.REGION, 0.0, 0.0, base=base)
    terms = ts.terms_at(tight, ts.mlp(), x, y)
    method = methods.FastLin() if base == "fast-lin" else methods.CrownIBP()
    known = Margins(ts.mlp(), x, y, ts.REGION, method)
    expected = cross_entropy(y, -np.asarray(known.backward())).mean()
    assert set(terms) == {"natural", "robust"}
    np.testing.assert_allclose(terms["robust"], expected, rtol=1e-5)


def test_specifications_of_tight_relaxation():
    x, y = ts.data(8)

    def regularizers(specifications):
        objective = objectives.TightRelaxation(LpBall(0.3), 1.0, 1.0, specifications=specifications)
        return ts.terms_at(objective, ts.mlp(2), x, y)

    def gap(specifications):
        return regularizers(specifications)["gap"]

    known, found = _tightness(ts.mlp(2), x, y, LpBall(0.3), methods.CrownIBP())
    others = np.arange(3) != y[:, None]
    gaps = np.asarray(found.gap)
    np.testing.assert_allclose(gap("all"), gaps[others].mean(), rtol=1e-4)
    away = np.asarray(found.infeasibility)
    assert away[~others].max() > 0.01  # The row of the label is 0, at which every x is a minimum.
    found_all = regularizers("all")["feasibility"]
    np.testing.assert_allclose(found_all, away[others].mean(), rtol=1e-4)
    worst = np.where(others, np.asarray(known.backward()), np.inf).argmin(1)
    np.testing.assert_allclose(gap("worst"), gaps[np.arange(8), worst].mean(), rtol=1e-4)
    assert gaps[others].min() <= gap("random") <= gaps[others].max()


def test_feasibility_is_for_relu_networks():
    tanh = ts.mlp(activation="tanh")
    from tfcert import CertifiedTrainer

    with pytest.raises(NotImplementedError, match="feasibility_weight=0.0"):
        CertifiedTrainer(tanh, objectives.TightRelaxation(ts.REGION))
    x, y = ts.data(4)
    terms = ts.terms_at(objectives.TightRelaxation(ts.REGION, 0.1, 0.0), tanh, x, y)
    assert terms["gap"] > 0


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
        (lambda: objectives.AdvIBP(ts.REGION, stage=0), "positive integers"),
        (lambda: objectives.AdvIBP(ts.REGION, gradients="last"), "`gradients` must be"),
        (lambda: objectives.AdversarialTraining(ts.REGION, 0), "`steps` must be a positive"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
