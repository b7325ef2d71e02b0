"""Tests of training models with several inputs, against models that split one input themselves."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
from tfcert import CertifiedTrainer, LpBall, objectives
from tfcert.regions import Box, Product

tf = pytest.importorskip("tensorflow", reason="these tests use TensorFlow's trainer")

FLOATS, KINDS, SAMPLES = 4, 5, 32
RNG = np.random.default_rng(0)
X = {
    "kind": RNG.integers(0, KINDS, size=(SAMPLES, 1)),
    "level": RNG.normal(size=(SAMPLES, 2)),
    "pixels": RNG.uniform(size=(SAMPLES, FLOATS)).astype("float32"),
}
Y = (2 * X["pixels"][:, 0] + 0.5 * X["kind"][:, 0] + X["level"][:, 0] > 1.5).astype(int)
BALL = LpBall(0.05, clip=(0.0, 1.0))
REGION = {"pixels": BALL, "kind": "fixed", "level": "fixed"}


def _model():
    """Pixels, a category that an embedding reads, and a number in float64."""
    keras.utils.set_random_seed(3)
    pixels = keras.Input((FLOATS,), name="pixels")
    kind = keras.Input((1,), dtype="int32", name="kind")
    level = keras.Input((2,), dtype="float64", name="level")
    known = layers.Flatten()(layers.Embedding(KINDS, 3, name="embedding")(kind))
    seen = layers.Dense(5, "relu", name="seen")(pixels)
    both = layers.Concatenate()([seen, known, layers.Dense(2, name="levels")(level)])
    outputs = layers.Dense(2, name="last")(both)
    return keras.Model({"pixels": pixels, "kind": kind, "level": level}, outputs)


def _single(model):
    """The same function of one vector, in which the category is one-hot; the same weights."""
    entry = keras.Input((FLOATS + KINDS + 2,))
    seen = layers.Dense(5, "relu", name="seen")(entry[:, :FLOATS])
    known = layers.Dense(3, use_bias=False, name="embedding")(entry[:, FLOATS:-2])
    both = layers.Concatenate()([seen, known, layers.Dense(2, name="levels")(entry[:, -2:])])
    single = keras.Model(entry, layers.Dense(2, name="last")(both))
    for name in ("seen", "embedding", "levels", "last"):
        single.get_layer(name).set_weights(model.get_layer(name).get_weights())
    return single


def _vectors(x):
    hot = np.eye(KINDS)[x["kind"][:, 0]]
    return np.concatenate([x["pixels"], hot, x["level"]], axis=1).astype("float32")


def _trained(model, objective, x, run_eagerly):
    trainer = CertifiedTrainer(model, objective, seed=1, verified_share=1.0)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=run_eagerly)
    data = {"validation_data": (x, Y), "batch_size": 16, "verbose": 0}
    return trainer, trainer.fit(x, Y, epochs=2, **data).history


@pytest.mark.parametrize("name", ["IBP", pytest.param("CrownIBP", marks=pytest.mark.slow)])
def test_losses_and_weights_are_those_of_a_model_with_one_input(name):
    kind, options = getattr(objectives, name), {"ramp": (0, 2), "validation_method": "ibp"}
    model = _model()
    single = _single(model)
    size = np.array([0.05] * FLOATS + [0.0] * (KINDS + 2))
    ours, found = _trained(model, kind(REGION, **options), X, name == "IBP")
    limits = np.where(size > 0, 0.0, -9.0), np.where(size > 0, 1.0, 9.0)
    _, wanted = _trained(single, kind(LpBall(size, clip=limits), **options), _vectors(X), True)
    shared = set(found) & set(wanted)
    assert {"loss", "val_loss", "val_verified_accuracy", "verified_accuracy"} <= shared
    for log in shared:
        np.testing.assert_allclose(found[log], wanted[log], atol=1e-5, err_msg=log)
    for layer in ("seen", "embedding", "levels", "last"):
        ours_of, theirs_of = (m.get_layer(layer).get_weights()[0] for m in (model, single))
        np.testing.assert_allclose(ours_of, theirs_of, atol=1e-5)
        assert np.abs(ours_of - _model().get_layer(layer).get_weights()[0]).max() > 1e-3
    # The certificates that validation counts are those of the library.
    least = np.asarray(tfcert.least_margins(model, X, Y, REGION, "ibp"))
    right = np.asarray(model(X)).argmax(axis=1) == Y
    share = ours.evaluate(X, Y, verbose=0, return_dict=True)["verified_accuracy"]
    assert share == pytest.approx(((least > 0) & right).mean())


def test_the_radii_of_training_grow_together_to_their_own_sizes():
    regions = {"a": LpBall(0.1), "b": LpBall([0.1, 0.2], clip=(0.0, 1.0)), "c": Box(0.0, 1.0)}
    parts = {name: keras.Input((2,), name=name) for name in regions}
    model = keras.Model(parts, layers.Dense(2)(layers.Concatenate()([*parts.values()])))
    x = {name: RNG.uniform(size=(4, 2)).astype("float32") for name in regions}
    objective = objectives.IBP(regions, 0.0, train_eps={"b": 0.4}, ramp=(0, 4))
    larger = {**regions, "b": LpBall([0.2, 0.4], clip=(0.0, 1.0))}
    assert objective.region == Product(regions)
    assert objective.train_region == Product(larger) != Product(regions)
    trainer = CertifiedTrainer(model, objective)
    trainer.steps_per_epoch.assign(1)
    trainer.step.assign(1)  # A quarter of the way.
    y = np.array([0, 1, 0, 1])
    _, terms = trainer.losses_of(trainer.batch_of((x, y), train=True))
    quarter = {name: region.scaled(0.25) for name, region in larger.items()}
    margins = np.asarray(tfcert.bound_margins(model, x, y, quarter, "ibp"))
    wanted = np.log(np.exp(-margins).sum(axis=1)).mean()
    np.testing.assert_allclose(float(terms["robust"]), wanted, rtol=1e-5)
    # In validation the target counts.
    _, terms = trainer.losses_of(trainer.batch_of((x, y), train=False))
    margins = np.asarray(tfcert.bound_margins(model, x, y, regions, "ibp"))
    wanted = np.log(np.exp(-margins).sum(axis=1)).mean()
    np.testing.assert_allclose(float(terms["robust"]), wanted, rtol=1e-5)
    again = objectives.IBP.from_config(objective.get_config())
    assert again.train_region == objective.train_region and again.train_eps == {"b": 0.4}


@pytest.mark.parametrize(
    ("region", "eps"),
    [
        (REGION, 0.1),
        (REGION, {"kind": 0.1}),
        (REGION, {"other": 0.1}),
        (REGION, [0.1, 0.1, 0.1]),
        ([BALL, Box(0.0, 1.0)], [0.1]),
        ([BALL, Box(0.0, 1.0)], [0.1, 0.1]),
    ],
)
def test_radii_are_for_inputs_that_have_one(region, eps):
    with pytest.raises(ValueError, match="`train_eps`. must be a (dictionary|list) with a radius"):
        objectives.IBP(region, train_eps=eps)


def test_a_list_of_radii():
    region = Product([BALL, "fixed", Box(0.0, 1.0)])
    assert region.with_eps([0.1, None, None]) == Product([BALL.with_eps(0.1), "fixed", Box(0, 1)])
    assert region.sized() == (0,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["Standard", "AdversarialTraining", "AdvIBP", "FusedCrownIBP", "MAAR", "SABR", "MTLIBP"]
)
def test_every_objective_takes_a_step(name):
    x = {key: part[:8] for key, part in X.items()}
    model = _model()
    before = model.get_weights()
    trainer = CertifiedTrainer(model, getattr(objectives, name)(REGION), verified_share=1.0)
    trainer.compile("sgd", run_eagerly=True)
    log = trainer.fit(x, Y[:8], batch_size=8, verbose=0, validation_data=(x, Y[:8])).history
    assert np.isfinite(log["loss"] + log["val_loss"]).all()
    changed = [np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True)]
    assert min(changed) > 0 and 0 <= log["val_verified_accuracy"][0] <= log["val_accuracy"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AdversarialTraining", "IBP", "CrownIBP", "SABR"])
def test_regions_of_size_0_train_as_clean_inputs(name):
    """The embedding included: its vectors are a part of all that an objective bounds or attacks."""
    found = []
    options = {} if name == "AdversarialTraining" else {"natural_weight": 0.0}
    still = {**REGION, "pixels": LpBall(0.0)}
    for objective in (objectives.Standard(), getattr(objectives, name)(still, **options)):
        model = _model()
        trainer = CertifiedTrainer(model, objective)
        trainer.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
        trainer.fit(X, Y, batch_size=SAMPLES, verbose=0)
        found.append(model.get_weights())
    for clean, robust in zip(*found, strict=True):
        np.testing.assert_allclose(robust, clean, atol=1e-5)


def test_a_trainer_is_saved_with_the_regions(tmp_path):
    trainer = CertifiedTrainer(_model(), objectives.IBP(REGION))
    trainer.compile("sgd", run_eagerly=True)
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    again.run_eagerly = True
    region = again.objective.region
    assert region == Product(REGION) and region.names == tuple(REGION)
    assert again.objective.get_config() == trainer.objective.get_config()
    first, second = (t.evaluate(X, Y, verbose=0, return_dict=True) for t in (trainer, again))
    assert first == pytest.approx(second)


def _listed():
    keras.utils.set_random_seed(0)
    parts = [keras.Input((2,)), keras.Input((3,))]
    hidden = layers.Concatenate()([layers.Dense(3, "relu")(part) for part in parts])
    return keras.Model(parts, layers.Dense(2, "softmax")(hidden))


@pytest.mark.filterwarnings("ignore:.*ends in softmax")
def test_lists_tuples_and_data_sets():
    x = [RNG.uniform(size=(20, size)).astype("float32") for size in (2, 3)]
    y = RNG.integers(0, 2, size=20)
    found = []
    for data in ((x, y), (tuple(x), y), (tf.data.Dataset.from_tensor_slices((tuple(x), y)), None)):
        trainer = CertifiedTrainer(_listed(), objectives.IBP([LpBall(0.1), "fixed"]))
        trainer.compile("sgd", run_eagerly=True)
        data = (data[0].batch(10), None) if data[1] is None else data
        found.append(trainer.evaluate(*data, verbose=0, return_dict=True))
    assert found[0] == pytest.approx(found[1]) and found[0] == pytest.approx(found[2])
    np.testing.assert_array_equal(
        trainer.predict(x, verbose=0), trainer.model.predict(x, verbose=0)
    )


@pytest.mark.filterwarnings("ignore:.*ends in softmax")
def test_what_cannot_be_trained_is_refused():
    model = _model()
    for objective, text in (
        (objectives.IBP(BALL), "`region` must be a dictionary, or where the model takes a list"),
        (objectives.IBP({"pixels": BALL}), "`region` must be a dictionary with an entry for each"),
        (objectives.IBP({**REGION, "kind": BALL}), "Input 'kind' has the type int32"),
    ):
        with pytest.raises(ValueError, match=text):
            CertifiedTrainer(model, objective)
    with pytest.raises(ValueError, match="for a model with one input"):
        CertifiedTrainer(_single(model), objectives.IBP(REGION))
    with pytest.raises(NotImplementedError, match="smoothing is for models with one"):
        CertifiedTrainer(model, objectives.GaussianSmoothing(0.1))
    with pytest.raises(ValueError, match="`model` must have one input, which noise"):
        tfcert.smoothing.SmoothedClassifier(model, 0.1)
    trainer = CertifiedTrainer(model, objectives.IBP(REGION))
    trainer.compile("sgd")
    with pytest.raises(ValueError, match="x must lie inside clip"):
        trainer.fit({**X, "pixels": X["pixels"] + 1.0}, Y, verbose=0)
    with pytest.raises(ValueError, match="`augment` is for images"):
        trainer.fit(X, Y, augment="crop", verbose=0)
    region = Product(list(REGION.values())[:2])
    CertifiedTrainer(_listed(), objectives.IBP(region))
    wide = [keras.Input((2,)), keras.Input((4,))]
    wide = keras.Model(wide, layers.Dense(2)(layers.Concatenate()(wide)))
    with pytest.raises(ValueError, match="trained one model was given to a model with other"):
        CertifiedTrainer(wide, objectives.IBP(region))


def test_the_statistics_of_the_training_set():
    parts = {
        "a": keras.Input((2,), name="a"),
        "kind": keras.Input((1,), dtype="int32", name="kind"),
    }
    known = layers.Flatten()(layers.Embedding(KINDS, 2)(parts["kind"]))
    hidden = layers.Concatenate()([layers.Dense(2, name="first")(parts["a"]), known])
    hidden = layers.BatchNormalization(name="norm")(hidden)
    model = keras.Model(parts, layers.Dense(2)(hidden))
    x = {"a": X["level"].astype("float32"), "kind": X["kind"]}
    tfcert.callbacks.PopulationStatistics(x, batch_size=12).apply(model)
    before = np.asarray(keras.Model(parts, model.get_layer("norm").input)(x), "float64")
    norm = model.get_layer("norm")
    np.testing.assert_allclose(np.asarray(norm.moving_mean), before.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(np.asarray(norm.moving_variance), before.var(axis=0), atol=1e-5)
    with pytest.raises(ValueError, match="must hold the training inputs"):
        tfcert.callbacks.PopulationStatistics({key: part[:0] for key, part in x.items()})


def test_a_void_step_says_what_the_bounds_are():
    """A data set's second batch holds inputs that the region cannot be put around."""
    pixels = X["pixels"] + np.where(np.arange(SAMPLES) >= 16, 2.0, 0.0)[:, None].astype("float32")
    data = tf.data.Dataset.from_tensor_slices(({**X, "pixels": pixels}, Y)).batch(16)
    trainer = CertifiedTrainer(_model(), objectives.IBP(REGION))
    trainer.compile("sgd", run_eagerly=True)
    with pytest.raises(FloatingPointError, match="at step 1.*the widest bounds are those of layer"):
        trainer.fit(data, epochs=1, verbose=0)
