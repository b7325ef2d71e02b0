"""Training of networks of distances: the loss by hand, schedules, and a run on small images."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import distance_support, soundness, support
from tests import training_support as ts
from tfcert import layers, objectives, schedules

REGION = tfcert.LpBall(0.1, clip=(0.0, 1.0))


BATCH = 20


def network(name="linf_mlp_2x8", **options):
    keras.utils.set_random_seed(0)
    return tfcert.models.get(name, (8, 8, 1), 10, **options)


def trainer_of(model, objective, rate=0.02, eagerly=True, **options):
    """A trainer whose steps run at once: to compile the kernels takes longer than a few of them."""
    trainer = tfcert.CertifiedTrainer(model, objective, **options)
    optimizer = keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-10)
    trainer.compile(optimizer, run_eagerly=eagerly)
    return trainer


@pytest.fixture(scope="module", autouse=True)
def _short_turns():
    with distance_support.short_turns():
        yield


@pytest.fixture
def _kernels_at_once():
    """Kernels run at once too: XLA takes seconds for each size of a batch."""
    with soundness.eagerly():
        yield


def digits(count):
    x, y = tfcert.datasets.load("digits")[0]
    return x[:count], y[:count]


def exponents(model):
    return [float(ops.convert_to_numpy(layer.p)) for layer in layers.distance_layers(model)]


@pytest.mark.usefixtures("_kernels_at_once")
@pytest.mark.parametrize("std", support.slow_except((0.25).__eq__, [1.0, 0.25]))
def test_boosted_loss_by_hand(std):
    model = network(mean=0.0, std=std)
    x, y = digits(BATCH)
    logits = np.asarray(model(x), "float64")
    eps = 0.15
    objective = objectives.LInfDistance(REGION, weight=(0.5, 0.25), train_eps=eps)
    logs = trainer_of(model, objective).evaluate(
        x, y, batch_size=BATCH, return_dict=True, verbose=0
    )
    own = logits[np.arange(BATCH), y]
    rivals = np.where(np.arange(10) == y[:, None], -np.inf, logits).max(axis=1)
    hinge = np.clip(1.0 - (own - rivals) * std / (2.0 * eps), 0.0, 1.0)
    entropy = np.log(np.exp(logits - own[:, None]).sum(axis=1))
    assert logs["hinge"] == pytest.approx(hinge.mean(), rel=1e-5)
    # The weight of the end, and s = 1.
    assert logs["cross_entropy"] == pytest.approx(0.25 * entropy.mean(), rel=1e-5)
    verified = (own - rivals) * std > 2.0 * 0.1
    assert logs["verified_accuracy"] == pytest.approx(verified.mean())


@pytest.mark.usefixtures("_kernels_at_once")
def test_hinge_by_hand():
    model = network()
    x, y = digits(BATCH)
    logits = np.asarray(model(x), "float64")
    rows = np.arange(BATCH)
    hinges = np.maximum(1.0 - (logits[rows, y][:, None] - logits) / 0.2, 0.0)
    hinges[rows, y] = 0.0
    # The default is what the authors' code has: three quarters the largest, one the mean over all.
    released = 0.75 * hinges.max(axis=1) + 0.25 * hinges.mean(axis=1)
    switched = 0.7 * hinges.max(axis=1) + 0.3 * hinges.sum(axis=1) / 9.0
    cases = [({}, released), ({"mixture": 0.0}, hinges.max(axis=1))]
    for options, expected in [*cases, ({"mixture": 0.3, "mean_over": "rivals"}, switched)]:
        objective = objectives.LInfDistance(REGION, loss="hinge", **options)
        logs = trainer_of(model, objective).evaluate(x, y, return_dict=True, verbose=0)
        assert logs["hinge"] == pytest.approx(expected.mean(), rel=1e-5)
        assert "cross_entropy" not in logs and "scale" not in logs


def test_schedules_move_together():
    objective = objectives.LInfDistance(REGION, ramp=(0, 2), weight=(0.4, 0.1))
    clock = schedules.Clock(step=10, steps_per_epoch=10)
    assert float(objective.exponent(clock)) == pytest.approx(math.sqrt(8.0 * 1000.0), rel=1e-5)
    assert float(objective.exponent(schedules.Clock(step=0))) == pytest.approx(8.0)
    assert float(objective.exponent(schedules.Clock(step=20, steps_per_epoch=10))) == math.inf


class Watch(keras.callbacks.Callback):
    """Notes the schedules of every step, and how often the objective was traced until then."""

    def __init__(self, objective):
        super().__init__()
        self.seen, self.traces = [], 0
        self.original, objective.terms = objective.terms, self.terms

    def terms(self, batch):
        self.traces += batch.training
        return self.original(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((logs["inverse_p"], logs["weight"], self.traces))


@pytest.mark.usefixtures("_kernels_at_once")
@pytest.mark.slow
def test_training_sees_the_exponent_of_its_step_and_validation_infinity():
    """The same data: in training the loss of p = 2, in validation that of p = inf."""
    model = network()
    x, y = digits(BATCH)
    shift = model.layers[2]
    objective = objectives.LInfDistance(REGION, ramp=(1, 2), exponents=(2.0, 1000.0))
    trainer = trainer_of(model, objective, rate=0.0, verified_share=1.0)
    history = trainer.fit(
        x, y, batch_size=BATCH, epochs=1, verbose=0, validation_data=(x, y), shuffle=False
    ).history
    assert float(np.abs(shift.moving_mean).max()) > 0
    layers.set_exponent(model, math.inf)
    at_infinity = trainer.evaluate(x, y, return_dict=True, verbose=0)
    assert history["val_hinge"][0] == pytest.approx(at_infinity["hinge"], rel=1e-5)
    layers.set_exponent(model, 2.0)
    shift.moving_mean.assign(np.zeros(8))
    logits = np.asarray(model(x, training=True))
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    assert history["cross_entropy"][0] == pytest.approx(0.05 * float(entropy), rel=1e-4)


@pytest.mark.usefixtures("_kernels_at_once")
@pytest.mark.slow
def test_scale_learns_at_its_own_rate():
    model = network()
    objective = objectives.LInfDistance(REGION, ramp=(5, 6), scale_rate=0.2)
    trainer = trainer_of(model, objective, rate=0.03)
    x, y = digits(BATCH)
    before = float(objective.current(schedules.Clock())["scale"])
    trainer.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
    after = float(objective.current(schedules.Clock())["scale"])
    # Adam's first step has the length of the learning rate.
    assert before == pytest.approx(1.0) and abs(after - before) == pytest.approx(0.006, rel=1e-3)


@pytest.mark.slow
def test_small_images_are_certified():
    """While the schedules move from step to step, and nothing is traced again."""
    model = network("linf_mlp_3x64")
    (x, y), test = tfcert.datasets.load("digits")
    x, y = x[: 16 * 64], y[: 16 * 64]  # Whole batches, and tests of the same size.
    test = tuple(array[:64] for array in test)
    objective = objectives.LInfDistance(REGION, ramp=(3, 14), weight=(1.0, 0.01), train_eps=0.15)
    trainer = trainer_of(model, objective, rate=0.05, eagerly=False, verified_share=0.0)
    watch = Watch(objective)
    history = trainer.fit(
        *(x, y),
        batch_size=64,
        epochs=16,
        verbose=0,
        validation_data=test,
        augment="none",
        callbacks=[watch],
    ).history
    inverse, weights, counts = map(list, zip(*watch.seen, strict=True))
    ramp = np.clip((np.arange(16 * 16) / 16.0 - 3.0) / 11.0, 0.0, 1.0)
    expected = np.where(ramp < 1.0, 1.0 / (8.0 * 125.0**ramp), 0.0)
    np.testing.assert_allclose(inverse, expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(weights, 0.01**ramp, rtol=1e-4)
    assert counts[-1] == counts[1], "a step was traced again while p moved"
    assert exponents(model) == [math.inf] * 3
    assert history["val_accuracy"][-1] > 0.8, history["val_accuracy"]
    assert history["val_verified_accuracy"][-1] > 0.5, history["val_verified_accuracy"]
    certified = np.asarray(tfcert.lipschitz.radius(model, *test)) > 0.1
    assert certified.mean() == pytest.approx(history["val_verified_accuracy"][-1], abs=1e-6)
    # The interval rule certifies all that the margin rule does.
    margins = np.asarray(tfcert.bound_margins(model, *test, REGION, "ibp"))
    assert ((margins > 0).sum(axis=1) == 9)[certified].all()


@pytest.mark.slow
def test_hybrid_trains_through_interval_bounds():
    model = network("linf_hybrid_2x32")
    objective = objectives.LInfDistance(REGION.with_eps(0.02), ramp=(0, 3), method="ibp")
    trainer = trainer_of(model, objective, rate=0.005, eagerly=False, verified_share=0.0)
    x, y = digits(640)
    history = trainer.fit(
        x, y, batch_size=64, epochs=8, verbose=0, validation_data=(x[:64], y[:64])
    ).history
    assert history["val_accuracy"][-1] > 0.6, history
    assert history["val_verified_accuracy"][-1] > 0.2, history
    with pytest.raises(NotImplementedError, match="dense"):
        trainer_of(model, objectives.LInfDistance(REGION)).evaluate(x[:10], y[:10], verbose=0)


@pytest.mark.usefixtures("_kernels_at_once")
@pytest.mark.slow
def test_configuration_and_saving(tmp_path):
    objective = objectives.LInfDistance(
        REGION, ramp=(1, 2), weight=(0.1, 0.01), exponents=(4.0, 500.0), scale_rate=0.5
    )
    again = objectives.LInfDistance.from_config(objective.get_config())
    assert again.get_config() == objective.get_config()
    model = network()
    trainer = trainer_of(model, objective)
    x, y = digits(BATCH)
    trainer.fit(x, y, batch_size=BATCH, epochs=2, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert exponents(loaded.model) == exponents(model)
    np.testing.assert_array_equal(loaded.model(x), model(x))
    assert float(ops.convert_to_numpy(loaded.objective.scale)) == float(
        ops.convert_to_numpy(objective.scale)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"region": tfcert.LpBall(0.1, norm=2)}, "l-inf norm"),
        ({"region": tfcert.LpBall(0.0)}, "training radius must be > 0"),
        ({"weight": 0.05}, "`weight` must be a pair of numbers > 0"),
        ({"weight": (0.1, 0.0)}, "`weight` must be a pair of numbers > 0"),
        ({"exponents": (0.5, 1000)}, r"`exponents` must be a pair of numbers in \[1, 1000\]"),
        ({"exponents": (8, math.inf)}, "`exponents` must be a pair"),
        ({"loss": "boost"}, "`loss` must be one of"),
        ({"method": "crown"}, "`method` must be one of"),
        ({"mixture": 1.5}, r"`mixture` must lie in \[0, 1\]"),
        ({"scale_rate": 0.0}, "`scale_rate` be > 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        objectives.LInfDistance(**{"region": REGION, **arguments})


def test_refuses_models_without_distances():
    with pytest.raises(ValueError, match="no layer of tfcert.layers.LInfDistance"):
        tfcert.CertifiedTrainer(network("mlp_1x8"), objectives.LInfDistance(REGION))


@pytest.mark.parametrize("std", [None, 0.25])
def test_both_methods_miss_the_same_margin(std):
    """One layer, whose distances move by all of the radius: the interval bound is the rule's."""
    keras.utils.set_random_seed(0)
    front = [] if std is None else [keras.layers.Normalization(mean=0.5, variance=std**2)]
    distances = [layers.LInfDistance(3), keras.layers.Rescaling(-1.0)]
    model = keras.Sequential([keras.Input((6,)), *front, *distances])
    x = np.random.default_rng(0).uniform(0.2, 0.8, (16, 6)).astype("float32")
    y = np.argmax(np.asarray(model(x)), axis=1)
    found = []
    for method in ("lipschitz", "ibp"):
        objective = objectives.LInfDistance(tfcert.LpBall(0.02), method=method)
        _, batch = ts.batch_at(objective, model, x, y)
        lacking = np.asarray(objective.lacking(batch))
        found.append(lacking[np.arange(3) != y[:, None]])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert float(objective.stretch()) == pytest.approx(1.0 if std is None else 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("units", [4, 1])
def test_a_network_without_anything_before_its_distances(units):
    """Their gradients keep the shapes that the loop of an attack and a fit rely on."""
    entry = keras.Sequential(
        [
            keras.Input((5,)),
            layers.LInfDistance(units),
            layers.LInfDistance(3, use_bias=True),
            keras.layers.Rescaling(-1.0),
        ]
    )
    x = np.random.default_rng(0).uniform(size=(4, 5)).astype("float32")
    y = np.argmax(np.asarray(entry(x)), axis=1)
    region = tfcert.LpBall(0.05, clip=(0.0, 1.0))
    points = np.asarray(tfcert.attacks.PGD(region, steps=3)(entry, x, y))
    assert region.contains(points, x).all()
    trainer = tfcert.CertifiedTrainer(entry, objectives.AdversarialTraining(region, 2))
    trainer.compile("sgd")
    assert np.isfinite(trainer.fit(x, y, epochs=2, batch_size=4, verbose=0).history["loss"]).all()


def test_the_stretch_is_that_of_the_weights_as_they_are():
    """A saved trainer gets the weights of its normalisation after it was built."""
    front = keras.layers.Normalization()
    front.adapt(np.array([[0.0], [2.0]], "float32"))
    steps = [front, layers.LInfDistance(3), keras.layers.Rescaling(-1.0)]
    objective = objectives.LInfDistance(tfcert.LpBall(0.02), method="ibp")
    tfcert.CertifiedTrainer(keras.Sequential([keras.Input((1,)), *steps]), objective)
    assert float(objective.stretch()) == pytest.approx(1.0)
    front.adapt(np.array([[0.0], [0.5]], "float32"))
    assert float(objective.stretch()) == pytest.approx(4.0)
