"""AdvIBP: combination weights, moments that lag behind, phases, layer-wise stages."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import training_support as ts
from tfcert import CertifiedTrainer, LpBall, attacks, objectives, schedules
from tfcert.bounds import methods as bound_methods
from tfcert.bounds import propagation
from tfcert.network import network_of
from tfcert.objectives.latent import freeze_before, latent_node


def _objective(**options):
    options = {"attack_ramp": (1, 2), "ramp": (2, 4), "joint_begin": 5.0, **options}
    return objectives.AdvIBP(ts.REGION, **options)


def test_phases():
    x, y = ts.data(8)
    clean = ts.terms_at(objectives.Standard(), ts.mlp(), x, y)["natural"]
    certified = ts.terms_at(objectives.IBP(ts.REGION, 0.0), ts.mlp(), x, y)["robust"]
    natural = ts.terms_at(_objective(), ts.mlp(), x, y, 0.5)
    np.testing.assert_allclose(natural["adversarial"], clean, rtol=1e-5)
    assert natural["robust"] == 0.0
    attacked = ts.terms_at(_objective(), ts.mlp(), x, y, 2.0)
    assert attacked["adversarial"] > clean * 1.01 and attacked["robust"] == 0.0
    warmup = ts.terms_at(_objective(clean_warmup=True), ts.mlp(), x, y, 2.0)
    np.testing.assert_allclose(warmup["adversarial"], clean, rtol=1e-5)
    growing = ts.terms_at(_objective(), ts.mlp(), x, y, 3.0)
    assert growing["adversarial"] == 0.0 and 0 < growing["robust"] < certified
    waiting = ts.terms_at(_objective(), ts.mlp(), x, y, 4.5)
    assert waiting["adversarial"] == 0.0
    joint = ts.terms_at(_objective(), ts.mlp(), x, y, 5.0)
    assert joint["adversarial"] > clean
    np.testing.assert_allclose(joint["robust"], certified, rtol=1e-5)


def test_phases_with_a_sweep():
    """AdvCROWN-IBP: the sweep rests with the certified loss, and is CROWN-IBP's beside it."""
    x, y = ts.data(8)
    options = {"backward_weight": (1.0, 1.0)}
    swept = objectives.CrownIBP(ts.REGION, 0.0, (1.0, 1.0))
    certified = ts.terms_at(swept, ts.mlp(), x, y)["robust"]
    interval = ts.terms_at(objectives.IBP(ts.REGION, 0.0), ts.mlp(), x, y)["robust"]
    assert certified < 0.99 * interval
    attacked = ts.terms_at(_objective(**options), ts.mlp(), x, y, 2.0)
    assert attacked["adversarial"] > 0.0 and attacked["robust"] == 0.0
    joint = ts.terms_at(_objective(**options), ts.mlp(), x, y, 5.0)
    np.testing.assert_allclose(joint["robust"], certified, rtol=1e-5)
    for epoch, weight in ((2.0, 0.0), (3.0, 1.0), (5.0, 1.0)):
        objective = _objective(**options)
        _, batch = ts.batch_at(objective, ts.mlp(), x, y, epoch)
        assert float(objective.weight("backward_weight", batch.clock)) == weight


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one program on JAX")
def test_a_sweep_by_xla_trains_as_without():
    x, y = ts.data(16, (6, 6, 1))
    trained = []
    for options in ({"run_eagerly": True}, {"jit_compile": True}):
        objective = objectives.AdvIBP(ts.REGION, joint_begin=2.0, backward_weight=0.5)
        trainer = CertifiedTrainer(ts.cnn(), objective, verified_share=0.0)
        trainer.compile(keras.optimizers.SGD(0.1), **options)
        # XLA draws other random numbers, which the attack of the joint phase starts from.
        trainer.fit(x, y, epochs=2, batch_size=16, verbose=0)
        trained.append(trainer.model.get_weights())
        joint = trainer.fit(x, y, epochs=1, batch_size=16, verbose=0).history
        assert joint["adversarial"][0] > 0.0 and np.isfinite(joint["robust"][0])
    for plain, compiled in zip(*trained, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-3, atol=1e-5)


def test_the_attack_and_its_quality():
    x, y = ts.data(16)
    model = ts.mlp()
    objective = _objective()
    _, batch = ts.batch_at(objective, model, x, y, epoch=9)
    loss, quality = objective.adversarial_loss(batch)
    clean = ts.terms_at(objectives.Standard(), model, x, y)["natural"]
    strong = attacks.PGD(ts.REGION, 40, early_stop=False)(model, x, y)
    bound = ts.terms_at(objectives.Standard(), model, np.asarray(strong), y)["natural"]
    assert clean < float(ops.mean(loss)) <= bound * 1.05
    assert 0 <= float(quality) < 0.01
    # More steps come closer to a stationary point.
    better = _objective(attack_steps=8).adversarial_loss(batch)[1]
    assert float(better) <= float(quality) + 1e-9
    # A sample that rests after its first step keeps its point.
    resting = _objective(attack_steps=8, conflict_threshold=1e9).adversarial_loss(batch)
    single = _objective(attack_steps=2, conflict_threshold=1e9).adversarial_loss(batch)
    np.testing.assert_allclose(resting[0], single[0], rtol=1e-6)


def test_an_attack_from_a_clip_limit_reaches_the_other_end():
    """One step of 1.25 eps, not of the half that is left inside of the limits."""
    _, y = ts.data(16)
    x = np.zeros((16, *ts.mlp().input_shape[1:]), "float32")
    objective = _objective()
    _, batch = ts.batch_at(objective, ts.mlp(), x, y, epoch=9)
    place = objective.attacked_place(batch)
    points, _ = objective.attack(place, 0.0)
    lower, upper = place.region.inner_limits(place.center)
    points, lower, upper = (np.asarray(part) for part in (points, lower, upper))
    assert lower.max() == 0 < upper.min()
    assert np.all((points == lower) | (points == upper)) and (points == upper).mean() > 0.2


def test_a_ramp_that_never_ends_at_the_full_radius_is_refused():
    error = pytest.raises(ValueError, match="`ramp` must end at 1.*set `train_eps`")
    with pytest.warns(UserWarning, match="never reaches the full radius"), error:
        objectives.AdvIBP(ts.REGION, schedules.Linear(0.0, 0.5, 0, 1))


def test_a_void_step_with_finite_gradients_stays_out_of_the_averages():
    x, y = ts.data(8)
    objective = objectives.AdvIBP(ts.REGION)
    trainer, batch = ts.batch_at(objective, ts.mlp(), x, y, epoch=9)
    batch.notes["quality"] = ops.zeros(())
    gradients = [[ops.ones_like(v) for v in trainer.trainable_variables] for _ in range(2)]
    for loss, count in ((np.inf, 0), (1.0, 1)):
        terms = {"adversarial": ops.convert_to_tensor(np.float32(loss)), "robust": ops.ones(())}
        objective.combine(terms, gradients, batch)
        assert float(objective.moments.count) == count


def steps_at(epochs, rate=0.0, eagerly=False):
    """What one step from the same weights changes at each time, and the trainer."""
    x, y = ts.data(8)
    model = ts.mlp()
    model.layers[0].kernel.regularizer = keras.regularizers.L2(rate) if rate else None
    trainer = CertifiedTrainer(model, _objective(), verified_share=0.0)
    trainer.compile(keras.optimizers.SGD(1.0), run_eagerly=eagerly, jit_compile=False)
    trainer.steps_per_epoch.assign(10)
    before, changes = model.get_weights(), []
    for epoch in epochs:
        model.set_weights(before)
        trainer.step.assign(round(10 * epoch))
        trainer.train_on_batch(x, y)
        changes.append([a - b for a, b in zip(model.get_weights(), before, strict=True)])
    return changes, trainer


PHASES = (0.5, 1.5, 3.0, 4.5, 5.0)


@pytest.mark.slow
def test_every_phase_eagerly():
    """Where a loss takes no part, no weight is connected to it."""
    changes = [steps_at(PHASES, eagerly=eagerly)[0] for eagerly in (True, False)]
    for eager, compiled in zip(*changes, strict=True):
        assert any(np.abs(change).max() > 1e-4 for change in eager)
        for a, b in zip(eager, compiled, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_regularization_keeps_its_weight_in_every_phase():
    kernel = ts.mlp().get_weights()[0]
    plain, first = steps_at(PHASES, eagerly=True)
    regular, second = steps_at(PHASES, 0.3, eagerly=True)
    for a, b in zip(plain, regular, strict=True):
        np.testing.assert_allclose(a[0] - b[0], 0.6 * kernel, rtol=1e-3, atol=1e-5)
    for i in range(2):  # The averages are those of the two losses alone.
        lasts = [trainer.objective.moments.last[i][0] for trainer in (first, second)]
        np.testing.assert_allclose(*lasts, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_layerwise_stages():
    x, y = ts.data(32, shape=(6, 6, 1))
    model = ts.cnn(batch_norm=True)
    objective = objectives.AdvIBP(LpBall(0.05, clip=(0, 1)))
    trainer = CertifiedTrainer(model, objective, seed=4, verified_share=0.5)
    trainer.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    trainer.fit(x, y, epochs=1, batch_size=16, verbose=0)
    following = objectives.next_stage(trainer)
    assert following.objective.stage == 2
    assert (following.seed, following.verified_share) == (4, 0.5)
    before = [weight for layer in model.layers[:-1] for weight in layer.get_weights()]
    head = model.layers[-1].get_weights()[0]
    following.compile(keras.optimizers.Adam(1e-2))
    history = following.fit(x, y, epochs=2, batch_size=8, verbose=0).history
    after = [weight for layer in model.layers[:-1] for weight in layer.get_weights()]
    assert len(before) == 6  # Convolution and batch normalisation.
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(model.layers[-1].get_weights()[0] - head).max() > 1e-4
    assert np.isfinite(history["loss"]).all()
    with pytest.raises(ValueError, match="between 1 and 2"):
        objectives.next_stage(following)


def test_the_latent_attack_stays_in_the_interval():
    x, y = ts.data(12, shape=(6, 6, 1))
    model = ts.cnn(batch_norm=True)
    objective = objectives.AdvIBP(LpBall(0.05, clip=(0, 1)), stage=2)
    with pytest.raises(ValueError, match="next_stage.*trainable layers 'conv2d.*'batch_norm"):
        CertifiedTrainer(model, objective)
    freeze_before(model, 2)
    _, batch = ts.batch_at(objective, model, x, y)
    place = objective.attacked_place(batch)
    lower, upper = place.region.inner_limits(place.center)
    network = network_of(model)
    region = objective.region.bind(ops.convert_to_tensor(x))
    evaluation = propagation.evaluate(
        network, objective.region, region, bound_methods.IBP(), batch.moments
    )
    node = latent_node(network, 2)
    np.testing.assert_allclose(lower, evaluation.intervals[node].lower, rtol=1e-6)
    points, _ = objective.attack(place, 0.0)
    assert (np.asarray(points) >= np.asarray(lower)).all()
    assert (np.asarray(points) <= np.asarray(upper)).all()
    # Behind the attacked value the network is the same.
    from tfcert.bounds.statistics import node_values

    inner = node_values(network, {network.input: ops.convert_to_tensor(x)}, batch.moments)[node]
    np.testing.assert_allclose(place.scores(inner), batch.forward(batch.x), atol=1e-5)


def test_stages_need_a_chain():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, activation="relu")(inputs)
    added = keras.layers.Add()([keras.layers.Dense(4, name="inner")(hidden), inputs])
    model = keras.Model(inputs, keras.layers.Dense(2)(added))
    with pytest.raises(NotImplementedError, match="'inner'"):
        CertifiedTrainer(model, objectives.AdvIBP(ts.REGION, stage=2))
    freeze_before(model, 3)
    assert [layer.name for layer in model.layers if layer.trainable_weights] == [
        model.layers[-1].name
    ]
    CertifiedTrainer(model, objectives.AdvIBP(ts.REGION, stage=3))


def test_the_order_of_the_phases():
    for attack in [(1, 3), schedules.Piecewise([2.5], [0.0, 1.0])]:
        with pytest.raises(ValueError, match="`attack_ramp` must end before `ramp` leaves 0"):
            objectives.AdvIBP(ts.REGION, (2, 4), attack)
    with pytest.raises(ValueError, match="`attack_ramp` must end"):
        objectives.AdvIBP(ts.REGION, attack_ramp=(0, 1))
    for begin in (3.9, float("nan")):
        with pytest.raises(
            ValueError, match="`joint_begin` must not be earlier than the end of `ramp`"
        ):
            objectives.AdvIBP(ts.REGION, (2, 4), joint_begin=begin)
    assert objectives.AdvIBP(ts.REGION, (2, 4), joint_begin=4).joint_begin == 4.0
    objectives.AdvIBP(ts.REGION, schedules.Linear(0, 1, 20, 30, "steps"), (1, 3))
    trainer = CertifiedTrainer(ts.mlp(), objectives.AdvIBP(ts.REGION, joint_begin=99))
    trainer.compile("sgd", run_eagerly=True)
    with pytest.warns(UserWarning, match="schedule of joint_begin ends after epoch 99"):
        history = trainer.fit(*ts.data(8), epochs=2, verbose=0).history
    assert history["weight_adversarial"] == [0.0, 0.0]


def test_an_objective_belongs_to_one_trainer():
    objective = objectives.AdvIBP(ts.REGION)
    CertifiedTrainer(ts.mlp(), objective)
    with pytest.raises(ValueError, match="averages of another trainer"):
        CertifiedTrainer(ts.mlp(), objective)


def test_the_history_shows_how_the_gradients_are_joined(tmp_path):
    x, y = ts.data(16)
    trainer = CertifiedTrainer(ts.mlp(), _objective(ramp=(2, 3), joint_begin=3))
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    history = trainer.fit(x, y, batch_size=16, epochs=5, validation_data=(x, y), verbose=0).history
    first, second = history["weight_adversarial"], history["weight_certified"]
    assert (first[0], second[0]) == (1.0, 0.0) and (first[2], second[2]) == (1.0, 0.0)
    assert first[-1] > 0 and second[-1] > 0 and (first[-1], second[-1]) != (1.0, 1.0)
    assert history["quality"][-1] > 0 and not any("val_quality" in name for name in history)
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    np.testing.assert_array_equal(
        again.objective.moments.norms[0], trainer.objective.moments.norms[0]
    )


def test_the_threshold_decides_a_conflict_in_training():
    x, y = ts.data(16)

    def weights(threshold):
        model = ts.mlp(1)
        objective = objectives.AdvIBP(LpBall(0.6), conflict_threshold=threshold)
        trainer, batch = ts.batch_at(objective, model, x, y)
        _, terms = trainer.losses_of(batch)
        g1 = [ops.ones_like(v) for v in model.trainable_variables]
        g2 = [-0.5 * ops.ones_like(v) for v in model.trainable_variables]
        logged, gradient = objective.combine(terms, [g1, g2], batch)
        return terms, logged, float(np.asarray(gradient[0]).ravel()[0])

    # g1 = -2 g2: either leader is left with nothing but the term L2 g2.
    for threshold in (schedules.Constant(1e9), 0.0):
        terms, logged, step = weights(threshold)
        robust = float(terms["robust"])
        np.testing.assert_allclose(step, -0.5 * robust, rtol=1e-4, atol=1e-5)
    l1 = float(terms["adversarial"])
    high, low = weights(1e9)[1], weights(0.0)[1]
    np.testing.assert_allclose(float(high["adversarial"]), l1, rtol=1e-5)
    np.testing.assert_allclose(float(low["adversarial"]), 0.5 * l1, rtol=1e-5)
    np.testing.assert_allclose(float(low["robust"]), robust + 0.5 * robust**2, rtol=1e-5)
