"""Trainers used as Keras's own models are: callbacks, weights of classes, layers of all kinds."""

import warnings

import keras
import numpy as np
import pytest

from tests import training_support as ts
from tests.trainer_support import EAGERLY, TARGET, fitted, ibp, same_weights, tf
from tfcert import Box, CertifiedTrainer, heads, objectives, smoothing

X, Y = ts.data(32)


def trainer_of(objective=None, model=None, optimizer=None, **options):
    trainer = CertifiedTrainer(model or ts.mlp(units=(6,)), objective or objectives.Standard())
    trainer.compile(optimizer or keras.optimizers.SGD(0.1), **options)
    return trainer


def dropping():
    keras.utils.set_random_seed(0)
    middle = [keras.layers.Dense(6), keras.layers.Dropout(0.5), keras.layers.ReLU()]
    return keras.Sequential([keras.Input((5,)), *middle, keras.layers.Dense(3)])


@pytest.mark.slow
def test_noise_of_layers_goes_on_after_a_stop(tmp_path):
    """Keras keeps neither the seed of a Dropout layer nor how often it was used."""
    options = {"compile_options": EAGERLY, "verified_share": 0.0}
    whole, _ = fitted(model=dropping(), epochs=3, **options)
    half, _ = fitted(model=dropping(), epochs=1, **options)
    half.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    x, y = ts.data(40)
    again.fit(x, y, epochs=3, initial_epoch=1, batch_size=16, verbose=0)
    same_weights(whole.model, again.model, rtol=1e-5, atol=1e-6)


def test_noise_of_layers_is_fresh_in_every_step_and_of_every_layer():
    keras.utils.set_random_seed(0)
    entry = keras.Input((64,))
    outputs = [keras.layers.Dropout(0.5)(entry) for _ in range(2)]
    outputs = keras.layers.Concatenate()(outputs)
    trainer = trainer_of(model=keras.Model(entry, outputs))
    seen = []
    for step in (0, 1, 0):
        trainer.step.assign(step)
        batch = trainer.batch_of((np.ones((1, 64), "float32"), np.array([0])), True)
        seen.append(np.asarray(batch.logits)[0] > 0)
    assert 0.2 < np.mean(seen[0]) < 0.8
    assert (seen[0][:64] != seen[0][64:]).any() and (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen[0], seen[2])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_out_of_range_in_a_later_batch_end_training(jit_compile):
    labels = Y.copy()
    labels[20] = 3
    data = tf.data.Dataset.from_tensor_slices((X, labels)).batch(16)
    trainer = trainer_of(jit_compile=jit_compile)
    with pytest.raises(FloatingPointError, match=r"at step 1 .*outside of \[0, 3\)"):
        trainer.fit(data, verbose=0)


def test_labels_out_of_range_are_wrong_and_change_nothing():
    for bad in (-1, 3):
        trainer = trainer_of()
        before = trainer.model.get_weights()
        labels = np.full(32, bad)
        assert np.isnan(trainer.train_on_batch(X, labels, return_dict=True)["loss"])
        for a, b in zip(trainer.model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        logs = trainer.test_on_batch(X, labels, return_dict=True)
        assert logs["accuracy"] == 0.0 and np.isnan(logs["loss"])


def test_data_without_labels():
    trainer = trainer_of()
    for data in (
        tf.data.Dataset.from_tensor_slices((X,)).batch(16),
        tf.data.Dataset.from_tensor_slices(X).batch(16),
    ):
        for use in (trainer.fit, trainer.evaluate):
            with pytest.raises(ValueError, match="pass x and y, or a data set of pairs"):
                use(data, verbose=0)
    with pytest.raises(ValueError, match="must be a pair"):
        trainer.fit(X, Y, validation_data=X, verbose=0)
    with pytest.raises(ValueError, match="pass x and y"):
        trainer.fit(X, Y, validation_data=(X,), verbose=0)
    with pytest.raises(ValueError, match="Received: 4 parts"):
        trainer.fit(X, Y, validation_data=(X, Y, Y, Y), verbose=0)
    with pytest.raises(ValueError, match="pass x and y"):
        trainer.train_on_batch(X)


def test_classes_without_a_weight_weigh_1():
    whole, part = trainer_of(), trainer_of()
    whole.fit(X, Y, class_weight={0: 1.0, 1: 1.0, 2: 3.0}, verbose=0)
    part.fit(X, Y, class_weight={2: 3.0}, verbose=0)
    same_weights(whole.model, part.model, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"for classes of .0, 3.*\{3: 2.0\}"):
        part.fit(X, Y, class_weight={3: 2.0}, verbose=0)


@pytest.mark.slow
def test_names_of_metrics_are_in_the_order_of_their_values():
    for objective in (objectives.AdvIBP(TARGET, attack_steps=1), ibp()):
        trainer = trainer_of(objective, **EAGERLY)
        trainer.fit(X, Y, verbose=0, batch_size=32)
        values = trainer.evaluate(X, Y, verbose=0)
        named = trainer.evaluate(X, Y, verbose=0, return_dict=True)
        found = dict(zip(trainer.metrics_names, values, strict=False))
        assert found == pytest.approx(named)


@pytest.mark.slow
def test_early_stopping_knows_which_way_is_up():
    names = "val_accuracy", "val_verified_accuracy", "verified_accuracy", "val_robust"
    stops = [keras.callbacks.EarlyStopping(name, patience=1) for name in names]
    trainer_of(ibp(ramp=1.0), **EAGERLY).fit(
        X, Y, validation_data=(X, Y), epochs=1, verbose=0, callbacks=stops
    )
    for name, callback in zip(names, stops, strict=True):
        rising = callback.monitor_op(2.0, 1.0)
        assert bool(rising) == (name != "val_robust")


def test_arguments_by_their_places():
    history = trainer_of().fit(X, Y, 16, 2, 0, [], 0.5, None, False)
    assert len(history.history["val_loss"]) == 2


def test_more_steps_than_batches_are_named():
    with pytest.warns(UserWarning, match="`steps_per_epoch` is 10, but `x` has 2 batches"):
        trainer_of().fit(X, Y, batch_size=16, steps_per_epoch=10, verbose=0)


def test_epochs_of_another_length_are_named():
    trainer = trainer_of()
    trainer.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    with pytest.warns(
        UserWarning, match=r"taken 4 steps.*has 4 from now on in place of 2.*epoch 1"
    ):
        trainer.fit(X, Y, batch_size=8, verbose=0)
    trainer.train_on_batch(X, Y)
    with pytest.warns(UserWarning, match=r"has 4 from now on.*at epoch 2\.25"):
        trainer.fit(X, Y, batch_size=8, verbose=0)
    trainer.step.assign(3 * 2)
    trainer.steps_per_epoch.assign(2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The trainer has taken")
        trainer.fit(X, Y, batch_size=16, verbose=0)


def test_a_frozen_model_is_evaluated():
    model = ts.mlp(units=(6,))
    model.trainable = False
    trainer = trainer_of(model=model)
    before = model.get_weights()
    logs = trainer.fit(X, Y, verbose=0).history
    assert logs["accuracy"][0] == pytest.approx(trainer.evaluate(X, Y, verbose=0)[2], abs=1e-6)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("gradients", ["first", "all"])
def test_advibp_refuses_weights_that_were_frozen_later(gradients):
    trainer = trainer_of(objectives.AdvIBP(TARGET, gradients=gradients))
    trainer.model.layers[0].trainable = False
    trainer.compile("sgd")
    with pytest.raises(ValueError, match="frozen or unfrozen after the trainer was created"):
        trainer.fit(X, Y, verbose=0)


@pytest.mark.slow
def test_advibp_trains_in_a_box():
    trainer = trainer_of(objectives.AdvIBP(Box(0.0, 1.0), (1, 2), attack_steps=1), **EAGERLY)
    history = trainer.fit(X, Y, batch_size=16, epochs=3, verbose=0).history
    assert history["ramp"] == [0.0, pytest.approx(0.5), 1.0] and history["attack_ramp"][-1] == 1.0


@pytest.mark.slow
def test_a_region_for_the_samples_of_the_only_batch():
    box, ball = Box(0.9 * X, 0.9 * X + 0.1), TARGET.with_eps(np.full(32, 0.03))
    for region, options in ((box, {}), (ball, EAGERLY)):
        trainer = trainer_of(objectives.IBP(region), **options)
        history = trainer.fit(X, Y, batch_size=32, shuffle=False, verbose=0).history
        whole = trainer.evaluate(X, Y, batch_size=32, verbose=0, return_dict=True)
        assert 0.0 < whole["verified_accuracy"] < 1.0 and history["verified_accuracy"][0] > 0.0


def test_loss_scales():
    """In float32 they are refused; in mixed precision an overflow lowers them."""
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**100)
    for optimizer in (scaled, keras.optimizers.SGD(0.1, loss_scale_factor=8.0)):
        with pytest.raises(ValueError, match="needs no loss scale"):
            trainer_of(objectives.AdvIBP(TARGET), optimizer=optimizer)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        trainer = trainer_of(objectives.GaussianSmoothing(0.1), model, scaled)
        # A model in float32 gets no scale where the policy is another.
        plain = trainer_of(ibp())
    finally:
        keras.config.set_dtype_policy(policy)
    assert isinstance(plain.optimizer, keras.optimizers.SGD)
    before = model.get_weights()
    losses = trainer.fit(X, Y, batch_size=1, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert float(trainer.optimizer.dynamic_scale) < 2.0**100
    assert np.abs(model.get_weights()[0] - before[0]).max() > 1e-3


def test_export_is_that_of_the_model(tmp_path):
    trainer = trainer_of()
    trainer.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")  # It keeps the variables.
    np.testing.assert_allclose(loaded.serve(X), trainer.model(X), rtol=1e-5, atol=1e-6)


def _ending(*layers):
    entry = keras.Input((5,))
    x = keras.layers.Dense(3)(entry)
    for layer in layers:
        x = layer(x)
    return keras.Model(entry, x)


ENDS = {
    "operation": (keras.ops.softmax,),
    "log": (keras.ops.log_softmax,),
    "linear": (keras.layers.Softmax(), keras.layers.Activation("linear")),
    "reshape": (keras.ops.softmax, keras.layers.Reshape((3,))),
    "dropout": (keras.layers.Activation("softmax"), keras.layers.Dropout(0.1)),
}


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_at_the_end_are_left_out(name):
    for model in (
        _ending(*ENDS[name]),
        keras.Sequential([keras.Input((5,)), _ending(*ENDS[name])]),
    ):
        with pytest.warns(UserWarning, match="ends in (log_)?softmax. Training uses the logits"):
            trainer = CertifiedTrainer(model, objectives.Standard())
        x = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
        assert trainer.model is model and heads.head_of(trainer.scores).activation == "linear"
        wanted = keras.ops.softmax(trainer.scores(x))
        outputs = keras.ops.exp(model(x)) if name == "log" else model(x)
        np.testing.assert_allclose(wanted, outputs, rtol=1e-5)


def test_noise_on_inputs_is_augmentation():
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.GaussianNoise(0.1, name="noise"), keras.layers.Dense(3)]
    )
    with pytest.raises(ValueError, match="'noise' .GaussianNoise. changes inputs at random"):
        CertifiedTrainer(model, ibp())
    # Without bounds nothing has to agree with the noisy pass.
    CertifiedTrainer(model, objectives.GaussianSmoothing(0.1))
    assert smoothing.SmoothedClassifier(model, sigma=0.1).model is model
