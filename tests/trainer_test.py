"""The trainer as a Keras user meets it: fit, History, weights, callbacks, resuming, saving."""

import keras
import numpy as np
import pytest

from tests import training_support as ts
from tests.trainer_support import EAGERLY, TARGET, fitted, ibp, same_weights, tf
from tfcert import CertifiedTrainer, LpBall, backend, bound_margins, fitting, objectives


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


@pytest.mark.slow
def test_verified_accuracy_while_training_is_of_a_part():
    x, y = ts.data(16)

    def measured(share):
        trainer = CertifiedTrainer(ts.mlp(), ibp(), verified_share=share)
        trainer.compile(keras.optimizers.SGD(0.0), **EAGERLY)
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
    _, history = fitted(model=model, compile_options={"metrics": metrics, **EAGERLY})
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
    fitted(callbacks=callbacks, validation_data=ts.data(8), compile_options=EAGERLY, epochs=2)
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


@pytest.mark.slow
def test_weights_of_samples_and_classes():
    x, y = ts.data(24)
    weight = np.array([2.0, 0.0, 0.5], "float32")[y]
    options = {"x": x, "y": y, "epochs": 3, "compile_options": EAGERLY, "verified_share": 0.0}
    first, _ = fitted(sample_weight=weight, **options)
    weights = {0: 2.0, 1: 0.0, 2: 0.5}
    second, _ = fitted(class_weight=weights, **options)
    same_weights(first, second, rtol=1e-5)
    terms = ts.terms_at(ibp(), ts.mlp(), x, y, 2.0, sample_weight=weight)
    kept = weight > 0
    fewer = ts.terms_at(ibp(), ts.mlp(), x[kept], y[kept], 2.0, sample_weight=weight[kept])
    for name, value in fewer.items():
        np.testing.assert_allclose(value * kept.mean(), terms[name], rtol=1e-5)


@pytest.mark.slow
def test_data_sets():
    x, y = ts.data(40)
    every = {"compile_options": EAGERLY, "epochs": 2, "verified_share": 0.0}
    arrays, history = fitted(shuffle=False, **every)
    options = {"y": None, "batch_size": None, **every}
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    piped, other = fitted(x=dataset, **options)
    same_weights(arrays, piped, rtol=1e-5)
    np.testing.assert_allclose(history["eps"], other["eps"])
    column = dataset.map(lambda x, y: (x, y[:, None]))
    same_weights(arrays, fitted(x=column, **options)[0], rtol=1e-5)
    endless = dataset.repeat()
    same_weights(arrays, fitted(x=endless, steps_per_epoch=3, **options)[0], rtol=1e-5)


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


@pytest.mark.slow
def test_validation_split_and_several_steps_per_execution():
    _, history = fitted(validation_split=0.25, compile_options=EAGERLY, epochs=2)
    assert len(history["val_loss"]) == 2
    options = {"epochs": 2, "verified_share": 0.0}
    one, _ = fitted(compile_options=EAGERLY, **options)
    several, _ = fitted(compile_options={"steps_per_execution": 3}, **options)
    same_weights(one, several, rtol=1e-5, atol=1e-6)


def _full_batches():
    """XLA compiles a step anew for every size of a batch: these have one."""
    x, y = ts.data(32)
    return {"x": x, "y": y}


@pytest.mark.slow
def test_xla_and_eager_give_the_same():
    options = {"epochs": 2}  # The last batch is smaller than the others.
    eager, _ = fitted(compile_options=EAGERLY, **options)
    by_xla, _ = fitted(compile_options={"jit_compile": True}, **options)
    same_weights(eager, by_xla, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_xla_compiles_attacks():
    def objective(random_start):
        made = objectives.AdversarialTraining(TARGET, 3, ramp=(0, 2))
        made.attack.random_start = random_start  # XLA draws other numbers.
        return made

    options = {"verified_share": 0.0, **_full_batches()}
    plain, _ = fitted(objective(False), compile_options=EAGERLY, **options)
    by_xla, _ = fitted(objective(False), compile_options={"jit_compile": True}, **options)
    same_weights(plain, by_xla, rtol=1e-3, atol=1e-5)
    _, history = fitted(objective(True), compile_options={"jit_compile": True}, **options)
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA is always used elsewhere")
def test_xla_takes_gradients_of_sweeps_of_hidden_layers():
    # Loops, which are slow to trace and to compile: once.
    def tight():
        return objectives.TightRelaxation(TARGET, base="fast-lin")

    options = {"epochs": 2, "verified_share": 0.0, **_full_batches()}
    eager, _ = fitted(tight(), ts.mlp(), EAGERLY, **options)
    by_xla, _ = fitted(tight(), ts.mlp(), {"jit_compile": True}, **options)
    same_weights(eager, by_xla, rtol=1e-3, atol=1e-5)


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
    trainer.compile(keras.optimizers.SGD(1.0, global_clipnorm=1e-3), **EAGERLY)
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


def test_branches_are_traced_for_one_gradient():
    """For gradients of gradients TensorFlow wraps each, and traces it four times as often."""
    trainer = CertifiedTrainer(ts.mlp(units=(6,)), objectives.AdvIBP(TARGET, (0, 2)))
    trainer.compile("adam")
    trainer.optimizer.build(trainer.trainable_variables)
    step = tf.function(trainer.train_step, autograph=False).get_concrete_function(ts.data(16))
    names = [function.signature.name for function in step.graph.as_graph_def().library.function]
    assert any("cond_true" in name for name in names)
    assert not any("cflow_gradient_wrapper" in name for name in names)


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
    trainer.compile("adam", **EAGERLY)
    trainer.fit(images, y, batch_size=16, augment="crop", verbose=0)


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
