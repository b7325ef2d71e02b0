"""The trainer as a Keras user meets it: fit, History, weights, callbacks, resuming, saving."""

import os
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest

from tests import support
from tests import training_support as ts
from tfcert import (
    CertifiedTrainer,
    LpBall,
    backend,
    bound_margins,
    fitting,
    methods,
    objectives,
    schedules,
)

tf = pytest.importorskip("tensorflow", reason="these tests use TensorFlow's trainer")

TARGET = LpBall(0.03, clip=(0.0, 1.0))


def ibp(**options):
    return objectives.IBP(TARGET, **{"train_eps": 0.06, "ramp": (1, 3), **options})


def fitted(objective=None, model=None, compile_options=None, **options):
    x, y = ts.data(40)
    trainer = CertifiedTrainer(model or ts.mlp(), objective or ibp(), seed=3)
    trainer.compile(keras.optimizers.Adam(1e-2), **(compile_options or {}))
    options = {"x": x, "y": y, "epochs": 4, "batch_size": 16, "verbose": 0, **options}
    return trainer, trainer.fit(**options).history


def same_weights(first, second, **tolerance):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


# What is logged.


def test_history():
    x, y = ts.data(40)
    test = ts.data(30, seed=1)
    trainer, history = fitted(validation_data=test)
    schedules_ = {"eps", "natural_weight"}
    names = {"loss", "natural", "robust", "accuracy", "verified_accuracy"}
    assert set(history) == names | schedules_ | {f"val_{name}" for name in names}
    for prefix in ("", "val_"):
        total = np.add(history[f"{prefix}natural"], history[f"{prefix}robust"])
        np.testing.assert_allclose(history[f"{prefix}loss"], total, rtol=1e-5)
    # 3 steps an epoch; an epoch shows the values of its last step.
    expected = 0.06 * np.clip((np.array([2, 5, 8, 11]) / 3 - 1) / 2, 0, 1)
    np.testing.assert_allclose(history["eps"], expected, rtol=1e-5)
    np.testing.assert_allclose(history["natural_weight"], 1 - 0.5 * expected / 0.06, rtol=1e-5)

    # Validation is at the target radius, not at the one of training.
    xt, yt = test
    margins = np.asarray(bound_margins(trainer.model, xt, yt, TARGET, "ibp"))
    others = np.where(np.arange(3) == yt[:, None], np.inf, margins)
    scores = np.asarray(trainer.model(xt))
    right = scores.argmax(1) == yt
    verified = right & (others > 0).all(1)
    assert 0 < verified.mean() < 1
    np.testing.assert_allclose(history["val_accuracy"][-1], right.mean(), rtol=1e-6)
    np.testing.assert_allclose(history["val_verified_accuracy"][-1], verified.mean(), rtol=1e-6)
    evaluated = trainer.evaluate(xt, yt, verbose=0, return_dict=True)
    np.testing.assert_allclose(evaluated["loss"], history["val_loss"][-1], rtol=1e-5)
    assert int(trainer.step) == 12
    np.testing.assert_array_equal(
        trainer.predict(xt, verbose=0), trainer.model.predict(xt, verbose=0)
    )


def test_verified_accuracy_while_training_is_of_a_part():
    x, y = ts.data(16)

    def measured(share):
        trainer = CertifiedTrainer(ts.mlp(), ibp(), verified_share=share)
        trainer.compile(keras.optimizers.SGD(0.0))
        return trainer.fit(x, y, batch_size=16, verbose=0, shuffle=False).history

    margins = np.asarray(bound_margins(ts.mlp(), x, y, TARGET, "ibp"))
    right = np.asarray(ts.mlp()(x)).argmax(1) == y
    verified = right & (np.where(np.arange(3) == y[:, None], 1, margins) > 0).all(1)
    assert verified[:6].mean() != verified.mean()
    assert measured(1.0)["verified_accuracy"] == [pytest.approx(verified.mean())]
    assert measured(0.34)["verified_accuracy"] == [pytest.approx(verified[:6].mean())]
    assert "verified_accuracy" not in measured(0.0)


def test_standard_needs_no_region():
    _, history = fitted(objectives.Standard(), validation_data=ts.data(8))
    assert set(history) == {
        "loss",
        "natural",
        "accuracy",
        "val_loss",
        "val_natural",
        "val_accuracy",
    }


def test_more_metrics_and_regularization():
    decay = keras.regularizers.L2(0.1)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(3, kernel_regularizer=decay), keras.layers.Dense(3)]
    )
    metrics = [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    _, history = fitted(model=model, compile_options={"metrics": metrics})
    assert history["top2"][-1] >= history["accuracy"][-1]
    parts = ("natural", "robust", "regularization")
    np.testing.assert_allclose(history["loss"], sum(np.array(history[p]) for p in parts), rtol=1e-5)
    assert history["regularization"][0] > 0


def test_tensorboard_and_csv(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard, which is not installed")
    callbacks = [
        keras.callbacks.TensorBoard(tmp_path / "logs"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("val_verified_accuracy", mode="max", patience=50),
    ]
    fitted(callbacks=callbacks, validation_data=ts.data(8))
    head = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert {"eps", "verified_accuracy", "val_robust"} <= set(head)
    events = list((tmp_path / "logs").rglob("events*"))
    tags = {
        value.tag
        for file in events
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert {"epoch_eps", "epoch_robust", "epoch_verified_accuracy"} <= tags


# Ways to bring data and to run.


def test_weights_of_samples_and_classes():
    x, y = ts.data(24)
    weight = np.array([2.0, 0.0, 0.5], "float32")[y]
    first, _ = fitted(x=x, y=y, sample_weight=weight)
    second, _ = fitted(x=x, y=y, class_weight={0: 2.0, 1: 0.0, 2: 0.5})
    same_weights(first, second, rtol=1e-5)
    terms = ts.terms_at(ibp(), ts.mlp(), x, y, 2.0, sample_weight=weight)
    kept = weight > 0
    fewer = ts.terms_at(ibp(), ts.mlp(), x[kept], y[kept], 2.0, sample_weight=weight[kept])
    for name, value in fewer.items():
        np.testing.assert_allclose(value * kept.mean(), terms[name], rtol=1e-5)


def test_data_sets():
    x, y = ts.data(40)
    arrays, history = fitted(shuffle=False)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    piped, other = fitted(x=dataset, y=None, batch_size=None)
    same_weights(arrays, piped, rtol=1e-5)
    np.testing.assert_allclose(history["eps"], other["eps"])
    column = dataset.map(lambda x, y: (x, y[:, None]))
    same_weights(arrays, fitted(x=column, y=None, batch_size=None)[0], rtol=1e-5)
    endless = dataset.repeat()
    same_weights(
        arrays, fitted(x=endless, y=None, batch_size=None, steps_per_epoch=3)[0], rtol=1e-5
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a tf.data pipeline")
def test_pipeline_of_arrays_is_not_tuned():
    """The thread that tunes a tf.data pipeline holds up the end of an epoch."""
    x, y = ts.data(10)
    data = backend.pipeline(fitting.Batches((x, y), 4))
    assert data.options().autotune.enabled is False
    assert len(data) == 3
    for _ in range(2):  # Every epoch anew.
        batches = [tuple(map(np.asarray, batch)) for batch in data]
        np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), x)
        np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), y)
    trainer = CertifiedTrainer(ts.mlp(), ibp())
    data, arguments = fitting.prepare(trainer, x, y, {"epochs": 3, "validation_data": (x, y)})
    for made in (data, arguments["validation_data"]):
        assert made.options().autotune.enabled is False


def test_validation_split_and_several_steps_per_execution():
    _, history = fitted(validation_split=0.25)
    assert len(history["val_loss"]) == 4
    one, _ = fitted()
    several, _ = fitted(compile_options={"steps_per_execution": 3})
    same_weights(one, several, rtol=1e-5)


def test_xla_and_eager_give_the_same():
    plain, _ = fitted()
    same_weights(plain, fitted(compile_options={"jit_compile": True})[0], rtol=1e-3, atol=1e-5)
    same_weights(plain, fitted(compile_options={"run_eagerly": True})[0], rtol=1e-4, atol=1e-6)


def test_xla_compiles_attacks():
    def objective(random_start):
        made = objectives.AdversarialTraining(TARGET, 3, ramp=(0, 2))
        made.attack.random_start = random_start  # XLA draws other numbers.
        return made

    plain, _ = fitted(objective(False))
    by_xla, _ = fitted(objective(False), compile_options={"jit_compile": True})
    same_weights(plain, by_xla, rtol=1e-3, atol=1e-5)
    _, history = fitted(objective(True), compile_options={"jit_compile": True})
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA is always used elsewhere")
def test_xla_takes_gradients_of_sweeps_of_hidden_layers():
    # Loops; the last batch is smaller than the others.
    def tight():
        return objectives.TightRelaxation(TARGET, base="fast-lin")

    options = {"epochs": 2, "batch_size": 16}
    plain, _ = fitted(tight(), compile_options={"jit_compile": False}, **options)
    by_xla, _ = fitted(tight(), compile_options={"jit_compile": True}, **options)
    same_weights(plain, by_xla, rtol=1e-3, atol=1e-5)


def test_a_weight_that_the_loss_does_not_read():
    class Idle(keras.layers.Dense):
        """A dense layer with one weight more."""

        def build(self, shape):
            super().build(shape)
            self.idle = self.add_weight(name="idle", shape=(2,), initializer="ones")

    model = keras.Sequential([keras.Input((5,)), Idle(3)])
    trainer = CertifiedTrainer(model, objectives.GaussianSmoothing(0.1))
    trainer.compile(keras.optimizers.SGD(0.1))
    before = model.get_weights()
    trainer.train_on_batch(*ts.data(8))
    moved = [(a != b).any() for a, b in zip(model.get_weights(), before, strict=True)]
    assert moved == [True, True, False]


def test_gradient_clipping_applies():
    x, y = ts.data(16)
    trainer = CertifiedTrainer(ts.mlp(), ibp())
    trainer.compile(keras.optimizers.SGD(1.0, global_clipnorm=1e-3))
    before = trainer.model.get_weights()
    trainer.fit(x, y, batch_size=16, verbose=0)
    steps = [a - b for a, b in zip(trainer.model.get_weights(), before, strict=True)]
    np.testing.assert_allclose(np.sqrt(sum((s**2).sum() for s in steps)), 1e-3, rtol=1e-4)


def test_one_trace_for_all_steps():
    x, y = ts.data(40)
    trainer = CertifiedTrainer(ts.mlp(), ibp())
    trainer.compile("adam")
    traces = []
    step = trainer.train_step
    trainer.train_step = lambda data: traces.append(1) or step(data)
    trainer.fit(x, y, batch_size=16, epochs=5, verbose=0)
    assert len(traces) == 1


def test_augmentation_keeps_pixels():
    from tfcert.fitting import Augmentation

    augmented = Augmentation("crop_flip", 4, "black")

    x = np.random.default_rng(0).uniform(0.1, 1.0, size=(50, 6, 6, 2)).astype("float32")
    moved = augmented(x, np.random.default_rng(1))
    assert moved.shape == x.shape and moved.dtype == x.dtype
    assert set(np.unique(moved)) <= set(np.unique(x)) | {0.0}
    assert 0 < (moved == 0).mean() < 0.7
    again = augmented(x, np.random.default_rng(1))
    np.testing.assert_array_equal(moved, again)
    images, y = ts.data(16, shape=(6, 6, 1))
    trainer = CertifiedTrainer(ts.cnn(), ibp())
    trainer.compile("adam")
    trainer.fit(images, y, batch_size=8, augment="crop", verbose=0)


def test_batch_normalization_is_updated_once_and_bounds_use_the_batch():
    x, y = ts.data(16, shape=(6, 6, 1))
    objective = objectives.CrownIBP(LpBall(0.05, clip=(0, 1)), 0.5, 1.0)
    model = ts.cnn(batch_norm=True)
    trainer, batch = ts.batch_at(objective, model, x, y)
    _, terms = trainer.losses_of(batch)
    margins = np.asarray(
        bound_margins(
            ts.cnn(batch_norm=True), x, y, LpBall(0.05, clip=(0, 1)), "ibp", statistics="batch"
        )
    )
    ibp_terms = ts.terms_at(
        objectives.IBP(LpBall(0.05, clip=(0, 1)), 0.0), ts.cnn(batch_norm=True), x, y
    )
    expected = np.log(np.exp(-margins).sum(1)).mean()
    np.testing.assert_allclose(ibp_terms["robust"], expected, rtol=1e-4)
    assert np.isfinite(float(terms["robust"]))
    reference = ts.cnn(batch_norm=True)
    reference(x, training=True)
    np.testing.assert_allclose(
        model.layers[1].moving_mean, reference.layers[1].moving_mean, rtol=1e-5
    )


# Stopping, resuming, saving.


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


RESUMED = {
    "adversarial": lambda: objectives.AdversarialTraining(TARGET, 2, ramp=(0, 2)),
    "tight": lambda: objectives.TightRelaxation(TARGET, specifications="random", ramp=(0, 2)),
    "advibp": lambda: objectives.AdvIBP(TARGET, (0, 2)),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_equals_an_unbroken_one(name, tmp_path):
    whole, history = fitted(RESUMED[name]())
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    with pytest.raises(KeyboardInterrupt):
        fitted(RESUMED[name](), callbacks=[backup, Kill(2)])
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    resumed, rest = fitted(RESUMED[name](), callbacks=[backup])
    assert len(rest["loss"]) == 2
    same_weights(whole, resumed, rtol=0, atol=0)
    np.testing.assert_array_equal(rest["loss"], history["loss"][2:])


def test_order_and_noise_follow_the_seed():
    first, _ = fitted(RESUMED["adversarial"]())
    again, _ = fitted(RESUMED["adversarial"]())
    same_weights(first, again, rtol=0, atol=0)
    x, y = ts.data(40)
    other = CertifiedTrainer(ts.mlp(), RESUMED["adversarial"](), seed=4)
    other.compile(keras.optimizers.Adam(1e-2))
    other.fit(x, y, epochs=4, batch_size=16, verbose=0)
    kernels = [trainer.model.get_weights()[0] for trainer in (first, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-5


def test_noise_is_fresh_in_every_step():
    x, y = ts.data(16)
    trainer = CertifiedTrainer(ts.mlp(), objectives.AdversarialTraining(TARGET, 1, 1e-6))
    trainer.compile(keras.optimizers.SGD(0.0))
    losses = [
        trainer.train_on_batch(x, y, return_dict=True)["adversarial"] * (i + 1) for i in range(3)
    ]
    steps = np.diff(losses, prepend=0)  # The logged number is a mean over the steps so far.
    assert len(set(np.round(steps, 7))) == 3


def test_saving_keeps_the_place_in_the_schedule(tmp_path):
    x, y = ts.data(40)
    whole, _ = fitted()
    half, _ = fitted(epochs=2)
    half.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    assert isinstance(again, CertifiedTrainer) and int(again.step) == 6
    assert again.objective.ramp == half.objective.ramp and again.seed == 3
    history = again.fit(x, y, epochs=4, initial_epoch=2, batch_size=16, verbose=0).history
    same_weights(whole, again, rtol=1e-5, atol=1e-6)
    assert history["eps"][-1] == pytest.approx(0.06)
    again.model.save(tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras")
    assert type(plain) is keras.Sequential
    np.testing.assert_array_equal(plain(x), again.model(x))


def test_mirrored_strategy_equals_one_device():
    code = """
    import numpy as np
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import keras
    from tests import training_support as ts
    from tfcert import CertifiedTrainer, LpBall, objectives
    x, y = ts.data(48)

    def fit():
        objective = objectives.CrownIBP(LpBall(0.03, clip=(0.0, 1.0)), train_eps=0.06, ramp=(1, 3))
        trainer = CertifiedTrainer(ts.mlp(), objective, verified_share=1.0)
        trainer.compile(keras.optimizers.Adam(1e-2))
        history = trainer.fit(x, y, epochs=4, batch_size=16, validation_data=ts.data(16), verbose=0)
        return trainer.model.get_weights(), history.history

    one, history = fit()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        two, other = fit()
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert set(history) == set(other)
    for name in history:
        np.testing.assert_allclose(history[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        alone, _ = fit()
    for a, b in zip(one, alone):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    # Linear scores of two classes: the attack ends in a corner, wherever it starts.
    def joint():
        objective = objectives.AdvIBP(LpBall(0.03), attack_steps=4, conflict_threshold=1e-4)
        trainer = CertifiedTrainer(ts.mlp(classes=2, units=(), inputs=6), objective)
        trainer.compile(keras.optimizers.Adam(1e-2))
        x, y = ts.data(32, (6,), classes=2)
        history = trainer.fit(x, y, epochs=2, batch_size=16, verbose=0)
        return trainer.model.get_weights(), history.history

    one, history = joint()
    with strategy.scope():
        two, other = joint()
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # The one is of a part of each device's batch; samples that rest early differ by their start.
    for name in set(history) - {"verified_accuracy", "quality"}:
        np.testing.assert_allclose(history[name], other[name], rtol=1e-3, atol=1e-6, err_msg=name)
    assert 0.7 < sum(other["quality"]) / sum(history["quality"]) < 1.3

    # The last batch of an epoch has one sample: the second device has none.
    with strategy.scope():
        for objective in (objectives.IBP(LpBall(0.03)), objectives.AdvIBP(LpBall(0.03))):
            trainer = CertifiedTrainer(ts.mlp(), objective)
            trainer.compile(keras.optimizers.Adam(1e-2))
            data = tf.data.Dataset.from_tensor_slices(ts.data(33)).batch(16)
            history = trainer.fit(data, epochs=2, verbose=0).history
            assert np.isfinite(history["loss"]).all(), history
            assert np.isfinite(trainer.evaluate(*ts.data(33), batch_size=16, verbose=0)).all()
            try:
                trainer.fit(*ts.data(33), batch_size=16, verbose=0)
            except ValueError as error:
                assert "The last batch of an epoch has a size of 1 for 2 devices" in str(error)
            else:
                raise AssertionError("not refused")

        # A void step of one device is void on the other.
        trainer = CertifiedTrainer(ts.cnn(batch_norm=True), objectives.Standard())
        trainer.compile(keras.optimizers.SGD(0.1))
        x, y = ts.data(16, (6, 6, 1))
        x[0] = np.nan
        before = trainer.model.get_weights()
        assert np.isnan(trainer.train_on_batch(x, y, return_dict=True)["loss"])
        for a, b in zip(trainer.model.get_weights(), before):
            np.testing.assert_array_equal(a, b)
    print("equal")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=support.ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split()[-1:] == ["equal"], result.stdout + result.stderr[-3000:]


# What is refused, and how.


def with_last(layer):
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), *layer])


MODELS = {
    "softmax": (
        lambda: with_last([keras.layers.Dense(3, activation="softmax")]),
        "ends in softmax",
    ),
    "softmax_layer": (
        lambda: with_last([keras.layers.Dense(3), keras.layers.Softmax()]),
        "Objectives train logits",
    ),
    "sigmoid": (lambda: with_last([keras.layers.Dense(1, activation="sigmoid")]), r"Dense\(2\)"),
    "one": (lambda: with_last([keras.layers.Dense(1)]), "a single score"),
    "map": (
        lambda: keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)]),
        "one output",
    ),
    "augmentation": (
        lambda: keras.Sequential(
            [
                keras.Input((6, 6, 1)),
                keras.layers.RandomFlip(name="flip"),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        ),
        "'flip'.*changes inputs at random",
    ),
    "double": (
        lambda: keras.Sequential(
            [keras.Input((5,), dtype="float64"), keras.layers.Dense(3, dtype="float64")]
        ),
        "training is in float32",
    ),
    "unbuilt": (lambda: keras.Sequential([keras.layers.Dense(2)]), "not built"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_trained(name):
    make, text = MODELS[name]
    with pytest.raises(ValueError, match=text):
        CertifiedTrainer(make(), ibp())


X, Y = ts.data(20)
DATA = {
    "one_hot": ({"y": np.eye(3)[Y]}, r"One-hot labels: pass y.argmax"),
    "floats": ({"y": Y.astype("float32")}, "one integer label per sample"),
    "range": ({"y": Y + 1}, r"\[0, 3\).*from 1 to 3"),
    "no_labels": ({"y": None}, "must hold integer labels"),
    "lengths": ({"y": Y[:-1]}, "the same length. Received: 20 and 19"),
    "shape": ({"x": X[:, :4]}, r"shape \(samples, 5\)"),
    "clip": ({"x": X + 1.0}, "x must lie inside clip"),
    "nan": ({"x": np.where(X > 0.9, np.nan, X)}, "x must be finite"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "`x` is empty"),
    "weights": ({"sample_weight": np.ones((20, 1))}, "`sample_weight` must have the shape"),
    "validation": ({"validation_data": (X, Y + 5)}, "from 5 to"),
    "validation_set": (
        {"validation_data": tf.data.Dataset.from_tensor_slices((255 * X, Y)).batch(4)},
        "x must lie inside clip",
    ),
    "augment": ({"augment": "rotate"}, "`augment` must be"),
    "data_set": (
        {"x": tf.data.Dataset.from_tensor_slices((X + 1, Y)).batch(4), "y": None},
        "x must lie inside clip",
    ),
    "batch_size": (
        {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), "y": None, "batch_size": 4},
        "`batch_size` goes with arrays",
    ),
    "unknown_length": (
        {"x": ((X[:4], Y[:4]) for _ in range(5)), "y": None, "batch_size": None},
        "length of an epoch is unknown",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_trained_on(name):
    changes, text = DATA[name]
    batch_size = None if "x" in changes and not isinstance(changes["x"], np.ndarray) else 16
    with pytest.raises(ValueError, match=text):
        fitted(**{"x": X, "y": Y, "batch_size": batch_size, **changes})


def test_inputs_outside_of_the_region_are_never_verified():
    trainer = CertifiedTrainer(ts.mlp(), ibp())
    trainer.compile("sgd")
    with pytest.raises(ValueError, match="x must lie inside clip"):
        trainer.evaluate(255 * X, Y, verbose=0)
    with pytest.raises(ValueError, match="from 1 to 3"):
        trainer.evaluate(X, Y + 1, verbose=0)
    whole = trainer.evaluate(X, Y, verbose=0, return_dict=True)
    assert whole["verified_accuracy"] > 0.2
    mixed = np.concatenate([X, 255 * X])
    labels = np.argmax(trainer.model.predict(mixed, verbose=0), axis=-1)
    batches = tf.data.Dataset.from_tensor_slices((mixed, labels)).batch(20)
    found = trainer.evaluate(batches, verbose=0, return_dict=True)
    assert found["accuracy"] == 1.0 and 0 < found["verified_accuracy"] <= 0.5
    assert np.isnan(found["loss"])
    with pytest.raises(ValueError, match="x must lie inside clip"):
        trainer.evaluate(batches.skip(1), verbose=0)
    before = trainer.model.get_weights()
    assert np.isnan(trainer.train_on_batch(255 * X, Y, return_dict=True)["loss"])
    for a, b in zip(trainer.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FloatingPointError, match="at step 2.*the region does not admit"):
        trainer.fit(batches, verbose=0)


def test_arguments_that_are_refused():
    with pytest.raises(ValueError, match="`objective` must be one of"):
        CertifiedTrainer(ts.mlp(), "ibp")
    with pytest.raises(ValueError, match="`verified_share` must lie in"):
        CertifiedTrainer(ts.mlp(), ibp(), verified_share=2.0)
    with pytest.raises(ValueError, match="takes its loss from the objective"):
        CertifiedTrainer(ts.mlp(), ibp()).compile("adam", loss="mse")


def test_a_schedule_that_outlasts_training_warns():
    with pytest.warns(UserWarning, match="schedule of ramp ends after epoch 9.*after 4"):
        fitted(ibp(ramp=(1, 9)))
    with pytest.warns(UserWarning, match="ends after epoch 10"):
        fitted(ibp(ramp=schedules.Linear(0, 1, 0, 30, unit="steps")))


def test_going_on_with_a_shorter_fit_warns_of_what_is_left_alone():
    x, y = ts.data(16)
    trainer = CertifiedTrainer(ts.mlp(), ibp(ramp=(0, 3)))
    trainer.compile("sgd", run_eagerly=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.fit(x, y, 16, 3, verbose=0)  # Batch size and epochs by place, as in Keras.
        assert int(trainer.step) == 3
        trainer.fit(x, y, 16, 1, verbose=0)
    trainer.step.assign(1)
    with pytest.warns(UserWarning, match="ramp ends after epoch 3.*after 2:"):
        trainer.fit(x, y, 16, 1, verbose=0)


def test_crops_repeat_the_edge():
    from tfcert.fitting import Augmentation

    x = np.arange(1.0, 10.0, dtype="float32").reshape(1, 3, 3, 1).repeat(200, axis=0)
    moved = Augmentation("crop", 1, "edge")(x, np.random.default_rng(0))
    corners = {tuple(image[0, :2, 0]) for image in moved}
    # Every shift by -1, 0, 1 in both directions, and nothing black.
    assert moved.min() == 1.0 and len({image.tobytes() for image in moved}) == 9
    assert (1.0, 1.0) in corners and (5.0, 6.0) in corners
    for name, pixels, fill, message in (
        ("shift", 1, "edge", "`augment` must be"),
        ("crop", 0, "edge", "`crop_pixels` must be a positive integer"),
        ("crop", 1, "white", "`crop_fill` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Augmentation(name, pixels, fill)


# Data and arguments.

OBJECTIVES = {
    "standard": objectives.Standard,
    "adversarial": lambda: objectives.AdversarialTraining(TARGET, 2),
    "ibp": ibp,
    "maar": lambda: objectives.MAAR(TARGET),
    "advibp": lambda: objectives.AdvIBP(TARGET, attack_steps=2),
    "gaussian": lambda: objectives.GaussianSmoothing(sigma=0.1),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_data_sets_of_other_types(name):
    x, y = ts.data(32)
    data = tf.data.Dataset.from_tensor_slices((x.astype("float64"), y.astype("int32"))).batch(16)
    trainer = CertifiedTrainer(ts.mlp(), OBJECTIVES[name](), seed=3)
    trainer.compile(keras.optimizers.Adam(1e-2))
    assert np.isfinite(trainer.fit(data, epochs=2, verbose=0).history["loss"]).all()
    same = CertifiedTrainer(ts.mlp(), OBJECTIVES[name](), seed=3)
    same.compile(keras.optimizers.Adam(1e-2))
    same.fit(x, y, batch_size=16, shuffle=False, epochs=2, verbose=0)
    same_weights(trainer.model, same.model, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"batch_size": 1.5}, "`batch_size` must be a positive integer"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be a positive integer"),
        ({"validation_batch_size": -1}, "`validation_batch_size` must be a positive integer"),
        ({"validation_split": 1.0}, r"`validation_split` must lie in \[0, 1\)"),
        ({"validation_split": -0.5}, r"`validation_split` must lie in \[0, 1\)"),
        ({"validation_split": 0.99}, "must leave samples on both sides"),
        ({"augment": "crop"}, "`augment` is for images"),
    ],
)
def test_arguments_of_fit_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fitted(**arguments)


def test_arguments_of_trainers_that_are_refused():
    for seed in (-1, 0.5, 2**31):
        with pytest.raises(ValueError, match=r"`seed` must be an integer in \[0, 2\*\*31\)"):
            CertifiedTrainer(ts.mlp(), ibp(), seed=seed)
    with pytest.raises(ValueError, match="`validation_method` is for training"):
        ibp(validation_method=methods.Crown(float_safe=True))


def test_activity_regularizers_are_refused():
    for layer in (
        keras.layers.Dense(4, activity_regularizer="l2"),
        keras.layers.ActivityRegularization(l2=0.1),
    ):
        model = keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(3)])
        with pytest.raises(ValueError, match=f"Layer '{layer.name}' has an activity regularizer"):
            CertifiedTrainer(model, ibp())


def test_a_method_of_validation_is_saved(tmp_path):
    """With its options, by the trainer's own file and by that of a checkpoint."""
    method = methods.CrownIBP("zero", intersect=False)
    trainer, history = fitted(ibp(validation_method=method), validation_data=ts.data(20, seed=1))
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert loaded.objective.validation_method == method
    found = loaded.evaluate(*ts.data(20, seed=1), verbose=0, return_dict=True)
    assert found["verified_accuracy"] == history["val_verified_accuracy"][-1]
