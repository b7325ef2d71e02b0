"""Objectives for randomized smoothing: formulas, noise, attacks, configuration, fit."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import stats
from tensorflow_probability import distributions as tfd

from tests import support
from tests import training_support as ts
from tests.smoothing_support import first
from tfcert import CertifiedTrainer, LpBall, datasets, objectives, schedules
from tfcert.smoothing import Laplace, SmoothedClassifier, Uniform, in_bfloat16

EVERY = {
    "gaussian": lambda: objectives.GaussianSmoothing(0.3, copies=2),
    "stability": lambda: objectives.StabilitySmoothing(0.3, 0.3, copies=2),
    "smooth_adv": lambda: objectives.SmoothAdv(0.2, 0.5, 3, copies=2, warmup=4),
    "macer": lambda: objectives.MACER(0.3, schedules.Piecewise([1], [0.0, 4.0]), copies=4),
    "consistency": lambda: objectives.ConsistencySmoothing(0.3, 5.0),
    "consistency_adv": lambda: objectives.ConsistencySmoothing(
        0.3, 2.0, schedules.Linear(0.5, 0.0, 0, 2), radius=0.5, steps=2, clip=(-0.1, (1.2,))
    ),
    "laplace": lambda: objectives.ConsistencySmoothing(None, noise=Laplace(0.2)),
}


@pytest.mark.parametrize("name", EVERY)
def test_configuration_and_names(name):
    objective = EVERY[name]()
    config = keras.saving.serialize_keras_object(objective)
    again = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(again) == config
    *_, terms, _ = first(objective)
    assert tuple(terms) == objective.term_names
    assert terms == first(again)[3]


@pytest.mark.parametrize(
    "name", support.slow_except(["gaussian", "consistency"].__contains__, EVERY)
)
def test_fit(name):
    (x, y), test = datasets.load("digits")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    trainer = CertifiedTrainer(model, EVERY[name]())
    trainer.compile(keras.optimizers.Adam(1e-2), metrics=["sparse_categorical_accuracy"])
    history = trainer.fit(
        x[:640], y[:640], batch_size=64, epochs=4, validation_data=test, verbose=0
    ).history
    assert "verified_accuracy" not in history and "accuracy" not in history
    # Guessing gives 0.1; attacked copies are harder.
    assert history["val_noisy_accuracy"][-1] > (0.35 if "adv" in name else 0.6)
    assert history["val_sparse_categorical_accuracy"][-1] >= history["val_noisy_accuracy"][-1]
    parts = sum(np.array(history[part]) for part in trainer.objective.term_names)
    np.testing.assert_allclose(history["loss"], parts, rtol=1e-5)


def with_a_layer_without_a_rule():
    """A network that no bound reaches."""
    start = keras.Input((8, 8))
    hidden = keras.layers.SpectralNormalization(keras.layers.Dense(16, "relu"))(start)
    return keras.Model(start, keras.layers.Dense(10)(keras.layers.Flatten()(hidden)))


@pytest.mark.slow
def test_any_layer_can_be_trained():
    (x, y), test = datasets.load("digits")
    x, x_test = x[..., 0], test[0][..., 0]
    keras.utils.set_random_seed(0)
    model = with_a_layer_without_a_rule()
    with pytest.raises(NotImplementedError, match="spectral_normalization.* has no bound rule"):
        CertifiedTrainer(model, objectives.IBP(LpBall(0.1)))
    trainer = CertifiedTrainer(model, objectives.GaussianSmoothing(0.2))
    trainer.compile(keras.optimizers.Adam(1e-2))
    history = trainer.fit(x, y, epochs=5, validation_data=(x_test, test[1]), verbose=0).history
    assert history["val_noisy_accuracy"][-1] > 0.6
    found = SmoothedClassifier(model, sigma=0.2).certify(x_test[:20], n=500)
    assert (found.prediction == test[1][:20]).mean() > 0.6


def test_sizes_may_be_open():
    start = keras.Input((None, None, 1))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(start))
    model = keras.Model(start, keras.layers.Dense(3)(hidden))
    trainer = CertifiedTrainer(model, objectives.GaussianSmoothing(0.1))
    trainer.compile()
    x, y = ts.data(8, (6, 6, 1))
    assert np.isfinite(trainer.fit(x, y, verbose=0).history["loss"][0])
    with pytest.raises(ValueError, match=r"`x` must have the shape \(batch, None, None, 1\)"):
        trainer.fit(x[..., 0], y, verbose=0)


@pytest.mark.parametrize(
    "name", support.slow_except("gaussian".__eq__, ["gaussian", "macer", "consistency_adv"])
)
def test_mixed_precision(name):
    """The same steps as in float32 but for rounding; the weights stay in float32."""
    x, y = ts.data(64, (6, 6, 1))
    losses, moves = [], []
    for copy in (lambda model: model, in_bfloat16):
        keras.utils.set_random_seed(0)
        model = copy(ts.cnn())
        before = [np.array(weight) for weight in model.get_weights()]
        trainer = CertifiedTrainer(model, EVERY[name]())
        trainer.compile(keras.optimizers.SGD(0.05))
        losses.append(trainer.fit(x, y, batch_size=64, verbose=0).history["loss"][0])
        assert {weight.dtype for weight in model.weights} == {"float32"}
        moves.append([b - a for a, b in zip(before, model.get_weights(), strict=True)])
    assert losses[0] != losses[1]  # It does compute in another precision.
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    for exact, rounded in zip(*moves, strict=True):
        assert np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_mixed_precision_is_refused_where_bounds_are_computed():
    with pytest.raises(ValueError, match="training needs float32.*of type bfloat16"):
        CertifiedTrainer(in_bfloat16(ts.mlp()), objectives.IBP(LpBall(0.1)))


def two_inputs():
    starts = [keras.Input((8, 8, 1)), keras.Input((8, 8, 1))]
    return keras.Model(starts, keras.layers.Dense(10)(keras.layers.Flatten()(starts[0])))


@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(3)]), ValueError, "is not built"),
        (lambda: "model", ValueError, "must be a keras.Model"),
        (two_inputs, NotImplementedError, "has 2 inputs"),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Dense(1)]),
            ValueError,
            "one output of shape",
        ),
    ],
)
def test_models_that_cannot_be_trained(model, kind, text):
    with pytest.raises(kind, match=text):
        CertifiedTrainer(model(), objectives.GaussianSmoothing(0.5))


def test_noise_of_validation_differs_between_batches_and_not_between_epochs():
    x, y = ts.data(16)
    trainer = CertifiedTrainer(ts.mlp(), objectives.GaussianSmoothing(0.5))
    trainer.compile()

    def loss(copies):
        twice = np.concatenate([x] * copies), np.concatenate([y] * copies)
        return trainer.evaluate(*twice, batch_size=16, verbose=0, return_dict=True)["loss"]

    one = loss(1)
    assert one == loss(1)
    assert abs(loss(2) - one) > 1e-3 * one  # Two batches of the same samples.


def test_noise_is_gaussian_and_fresh():
    objective = objectives.GaussianSmoothing(0.3, copies=8)
    x, y = ts.data(400)

    def noise(step, seed=0):
        trainer = CertifiedTrainer(ts.mlp(), objective, seed=seed)
        trainer.step.assign(step)
        batch = trainer.batch_of((ops.convert_to_tensor(x), ops.convert_to_tensor(y)), True)
        return np.asarray(objective._noise(batch))

    here = noise(0)
    assert here.shape == (400, 8, 5)
    assert stats.kstest(here.ravel(), "norm", args=(0, 0.3)).pvalue > 1e-3
    np.testing.assert_array_equal(here, noise(0))
    for other in (noise(1), noise(0, seed=1)):
        assert abs(np.corrcoef(here.ravel(), other.ravel())[0, 1]) < 0.05
    copies = here.reshape(400, 8, 5)
    assert abs(np.corrcoef(copies[:, 0].ravel(), copies[:, 1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("jit", [False, True])
def test_compiled_steps_draw_fresh_noise(jit):
    x, y = ts.data(32)
    trainer = CertifiedTrainer(ts.mlp(), objectives.GaussianSmoothing(0.5))
    trainer.compile(keras.optimizers.SGD(0.0), jit_compile=jit)
    losses = [float(trainer.train_on_batch(x, y, return_dict=True)["noisy"]) for _ in range(4)]
    single = np.diff(np.array(losses) * np.arange(1, 5), prepend=0)
    assert len(set(np.round(single, 5))) == 4


def test_steps_of_one_execution_draw_fresh_noise():
    """Four steps that run as one program see as much noise as four that run alone."""
    x, y = ts.data(8)
    losses = []
    for together, steps in ((1, 4), (4, 4), (1, 1)):
        trainer = CertifiedTrainer(ts.mlp(), objectives.GaussianSmoothing(0.5))
        trainer.compile(keras.optimizers.SGD(0.0), steps_per_execution=together)
        data = tf.data.Dataset.from_tensors((x, y)).repeat(steps)
        losses.append(trainer.fit(data, verbose=0).history["noisy"][0])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert abs(losses[2] - losses[0]) > 1e-3  # The mean of one draw, and of four.


@pytest.mark.parametrize("noise", [Laplace(0.3), Uniform(0.4)])
def test_noise_of_other_families(noise):
    objective = objectives.GaussianSmoothing(None, copies=400, noise=noise)
    _, _, batch, _, _ = first(objective)
    drawn = np.asarray(objective._noise(batch)).ravel()
    spread = {"Laplace": stats.laplace(0, 0.3), "Uniform": stats.uniform(-0.4, 0.8)}
    assert stats.kstest(drawn, spread[type(noise).__name__].cdf).pvalue > 1e-3
    with pytest.raises(TypeError, match="noise"):  # Its radius is that of the Gaussian.
        objectives.MACER(0.3, noise=noise)


def test_a_distribution_of_tensorflow_probability_is_a_noise():
    objective = objectives.StabilitySmoothing(None, noise=tfd.Normal(0.0, 0.25))
    assert objective.get_config() == objectives.StabilitySmoothing(0.25).get_config()


def test_noise_comes_before_normalisation():
    """Layers that normalise divide the noise, too."""
    x, y = ts.data(200)
    start = keras.Input((5,))
    model = keras.Model(start, keras.layers.Rescaling(4.0)(keras.layers.Dense(3)(start)))
    plain = keras.Model(start, model.layers[1](start))
    scores = [first(objectives.GaussianSmoothing(0.3), m, 200)[4] for m in (model, plain)]
    np.testing.assert_allclose(scores[0], 4.0 * scores[1], rtol=1e-5)
    clean = np.asarray(plain(x))[:, None]
    weights = plain.get_weights()[0]
    expected = 0.3 * np.sqrt((weights**2).sum(0))
    np.testing.assert_allclose((scores[1] - clean).std((0, 1)), expected, rtol=0.2)


def test_weights_follow_schedules():
    ramp = schedules.Linear(0.0, 4.0, 0, 2)
    objective = objectives.ConsistencySmoothing(0.3, ramp, 0.0)
    halfway = first(objective, epoch=1.0)[3]["consistency"]
    fixed = first(objectives.ConsistencySmoothing(0.3, 2.0, 0.0), epoch=1.0)[3]["consistency"]
    np.testing.assert_allclose(halfway, fixed, rtol=1e-6)
    assert list(objective.current(schedules.Clock(10, 10))) == ["weight"]
    assert objectives.ConsistencySmoothing(0.3, 2.0).current(schedules.Clock()) == {}


def test_attacked_inputs_must_lie_within_their_limits():
    x, y = ts.data(16)
    attack = {"steps": 1, "warmup": 0}
    for objective in (
        objectives.SmoothAdv(0.1, **attack),
        objectives.ConsistencySmoothing(0.1, radius=0.2, **attack),
    ):
        trainer = CertifiedTrainer(ts.mlp(), objective)
        trainer.compile()
        with pytest.raises(ValueError, match="clip"):
            trainer.fit(3.0 * x, y, verbose=0)
    for objective in (
        objectives.SmoothAdv(0.1, clip=None, **attack),
        objectives.SmoothAdv(0.1, clip=(0.0, 3.0), **attack),
        objectives.ConsistencySmoothing(0.1),
    ):
        objective.check_inputs(3.0 * x)


@pytest.mark.parametrize("clip", [None, (-3.0, 3.0)])
def test_smooth_adv_without_limits_of_pixels(clip):
    objective = objectives.SmoothAdv(0.2, 0.5, 5, copies=4, warmup=0, clip=clip)
    x, _, batch, _, _ = first(objective)
    points = np.asarray(objective._attacked(batch, objective._noise(batch)))
    length = np.sqrt(((points - x) ** 2).sum(1))
    assert length.max() <= 0.5 + 1e-5 and length.min() > 0.1
    assert points.min() < 0 or points.max() > 1


@pytest.mark.slow
def test_consistency_raises_certified_radii():
    (x, y), (xt, yt) = datasets.load("digits")

    def radius(objective):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        trainer = CertifiedTrainer(model, objective)
        trainer.compile(keras.optimizers.Adam(3e-3))
        trainer.fit(x, y, batch_size=64, epochs=12, verbose=0)
        found = SmoothedClassifier(model, sigma=0.5).certify(xt[:120], n=1000)
        return np.mean(found.radius * (found.prediction == yt[:120]))

    plain = radius(objectives.GaussianSmoothing(0.5, copies=2))
    assert radius(objectives.ConsistencySmoothing(0.5, 5.0)) > 1.03 * plain


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: objectives.GaussianSmoothing(0.0), "`sigma` must be a positive finite number"),
        (lambda: objectives.GaussianSmoothing(None), "Exactly one of `sigma`"),
        (lambda: objectives.GaussianSmoothing(0.1, noise=Laplace(0.1)), "Exactly one of `sigma`"),
        (lambda: objectives.GaussianSmoothing(0.1, copies=2.7), "`copies` must be a positive"),
        (lambda: objectives.StabilitySmoothing(0.1, -1.0), "`weight` must be at least 0"),
        (lambda: objectives.StabilitySmoothing(0.1, float("nan")), "finite|A number or a sched"),
        (lambda: objectives.SmoothAdv(0.1, steps=2.9), "`steps` must be a positive"),
        (lambda: objectives.SmoothAdv(0.1, radius=float("inf")), "`radius` must be > 0 and finite"),
        (lambda: objectives.SmoothAdv(0.1, warmup=-1), "`warmup` must be at least 0"),
        (lambda: objectives.SmoothAdv(0.1, clip=(1.0, 0.0)), "clip"),
        (lambda: objectives.ConsistencySmoothing(0.1, eta=-0.5), "`eta` must be at least 0"),
        (lambda: objectives.MACER(0.1, gamma=-8.0), "`gamma` must be > 0"),
        (lambda: objectives.MACER(0.1, beta=float("nan")), "`beta` must be > 0"),
        (lambda: objectives.GaussianSmoothing(0.1, copies=0), "`copies` must be a positive"),
        (lambda: objectives.SmoothAdv(0.1, radius=-1.0), "`radius` must be > 0"),
        (lambda: objectives.ConsistencySmoothing(0.1, form="l1"), "`form` must be one of"),
        (lambda: objectives.ConsistencySmoothing(0.1, copies=1), "at least 2"),
        (lambda: objectives.ConsistencySmoothing(0.1, radius=-0.1), "`radius` must be at least 0"),
        (lambda: objectives.MACER(0.1, weight="big"), "A number or a schedule"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
