"""Training that goes on after a stop, from a file, or on several devices."""

import os
import shutil
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest

from tests import support
from tests import training_support as ts
from tests.trainer_support import EAGERLY, TARGET, fitted, ibp, same_weights
from tfcert import CertifiedTrainer, methods, objectives, schedules


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class Keep(keras.callbacks.Callback):
    """Copies a backup as it is when an epoch begins: what is left of a run that ends there."""

    def __init__(self, epoch, source, target):
        super().__init__()
        self.epoch, self.source, self.target = epoch, source, target

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            shutil.copytree(self.source, self.target)


RESUMED = {
    "adversarial": lambda: objectives.AdversarialTraining(TARGET, 2, ramp=(0, 2)),
    "tight": lambda: objectives.TightRelaxation(TARGET, specifications="random", ramp=(0, 2)),
    "advibp": lambda: objectives.AdvIBP(TARGET, (0, 2)),
}


@pytest.mark.filterwarnings("error:A backup of step")
@pytest.mark.parametrize("name", support.slow_except("adversarial".__eq__, RESUMED))
def test_a_resumed_run_equals_an_unbroken_one(name, tmp_path):
    options, stop = {}, 2  # Once as it is used: compiled, with a last batch that is smaller.
    if name != "adversarial":
        x, y = ts.data(16)
        options = {"compile_options": EAGERLY, "x": x, "y": y, "batch_size": 8, "epochs": 3}
        options["verified_share"], stop = 0.0, 1

    def backup(name):
        return keras.callbacks.BackupAndRestore(tmp_path / name, delete_checkpoint=False)

    keep = Keep(stop, tmp_path / "whole", tmp_path / "part")
    whole, history = fitted(RESUMED[name](), callbacks=[backup("whole"), keep], **options)
    resumed, rest = fitted(RESUMED[name](), callbacks=[backup("part")], **options)
    assert len(rest["loss"]) == 2
    same_weights(whole, resumed, rtol=0, atol=0)
    np.testing.assert_array_equal(rest["loss"], history["loss"][stop:])


@pytest.mark.slow
def test_a_backup_of_the_middle_of_an_epoch_is_named(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", 2, delete_checkpoint=False)

    options = {"compile_options": EAGERLY, "epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        fitted(callbacks=[backup(), Kill(1)], **options)
    # Of three steps in the first epoch two were backed up; both epochs run whole.
    with pytest.warns(UserWarning, match="step 2 was restored.*an epoch of 3.*take 2 steps more"):
        trainer, _ = fitted(callbacks=[backup()], **options)
    assert int(trainer.step) == 2 + 2 * 3
    # Nothing is restored where a trainer goes on with epochs of another length.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="A backup of step")
        trainer.fit(*ts.data(40), batch_size=10, verbose=0)


@pytest.mark.slow
def test_order_and_noise_follow_the_seed():
    options = {"compile_options": EAGERLY, "epochs": 2, "verified_share": 0.0}
    first, _ = fitted(RESUMED["adversarial"](), **options)
    again, _ = fitted(RESUMED["adversarial"](), **options)
    same_weights(first, again, rtol=0, atol=0)
    x, y = ts.data(40)
    other = CertifiedTrainer(
        ts.mlp(units=(6,)), RESUMED["adversarial"](), seed=4, verified_share=0.0
    )
    other.compile(keras.optimizers.Adam(1e-2), **EAGERLY)
    other.fit(x, y, epochs=2, batch_size=16, verbose=0)
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
    x, y = ts.data(32)
    whole, _ = fitted(x=x, y=y, compile_options=EAGERLY)
    half, _ = fitted(x=x, y=y, compile_options=EAGERLY, epochs=2)
    half.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    assert isinstance(again, CertifiedTrainer) and int(again.step) == 4
    assert again.objective.ramp == half.objective.ramp and again.seed == 3
    history = again.fit(x, y, epochs=4, initial_epoch=2, batch_size=16, verbose=0).history
    same_weights(whole, again, rtol=1e-5, atol=1e-6)
    assert history["eps"][-1] == pytest.approx(0.06)
    again.model.save(tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras")
    assert type(plain) is keras.Sequential
    np.testing.assert_array_equal(plain(x), again.model(x))


@pytest.mark.slow
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

    def fit(**options):
        objective = objectives.IBP(LpBall(0.03, clip=(0.0, 1.0)), train_eps=0.06, ramp=(1, 3))
        trainer = CertifiedTrainer(ts.mlp(units=(6,)), objective, verified_share=1.0)
        trainer.compile(keras.optimizers.SGD(0.1), **options)  # Adam would not see a wrong scale.
        history = trainer.fit(x, y, epochs=4, batch_size=16, validation_data=ts.data(16), verbose=0)
        return trainer.model.get_weights(), history.history, trainer

    # The last batch of an epoch has one sample: the second device has none.
    def short(trainer):
        with strategy.scope():
            data = tf.data.Dataset.from_tensor_slices((u, v)).batch(16)
            history = trainer.fit(data, epochs=2, verbose=0).history
            assert np.isfinite(history["loss"]).all(), history
            assert np.isfinite(trainer.evaluate(u, v, batch_size=16, verbose=0)).all()
            try:
                trainer.fit(u, v, batch_size=16, verbose=0)
            except ValueError as error:
                assert "The last batch of an epoch has a size of 1 for 2 devices" in str(error)
            else:
                raise AssertionError("not refused")

    one, history, _ = fit(run_eagerly=True)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        two, other, trainer = fit()
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert set(history) == set(other)
    for name in history:
        np.testing.assert_allclose(history[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)

    u, v = ts.data(33)
    short(trainer)

    # Linear scores of two classes: the attack ends in a corner, wherever it starts.
    def joint(**options):
        objective = objectives.AdvIBP(LpBall(0.03), attack_steps=4, conflict_threshold=1e-4)
        model = ts.mlp(classes=2, units=(), inputs=6)
        trainer = CertifiedTrainer(model, objective, verified_share=0.0)
        trainer.compile(keras.optimizers.Adam(1e-2), **options)
        x, y = ts.data(32, (6,), classes=2)
        history = trainer.fit(x, y, epochs=2, batch_size=16, verbose=0)
        return trainer.model.get_weights(), history.history, trainer

    one, history, _ = joint(run_eagerly=True)
    with strategy.scope():
        two, other, trainer = joint()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        alone, _, _ = joint()
    for a, b, c in zip(one, two, alone):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)
    for name in set(history) - {"quality"}:  # Samples that rest early differ by their start.
        np.testing.assert_allclose(history[name], other[name], rtol=1e-3, atol=1e-6, err_msg=name)
    assert 0.7 < sum(other["quality"]) / sum(history["quality"]) < 1.3
    u, v = ts.data(33, (6,), classes=2)
    short(trainer)

    # A void step of one device is void on the other.
    with strategy.scope():
        noise, norm = keras.layers.Dropout(0.5), keras.layers.BatchNormalization()
        model = keras.Sequential([keras.Input((64,)), noise, norm, keras.layers.Dense(3)])
        trainer = CertifiedTrainer(model, objectives.Standard())
        trainer.compile(keras.optimizers.Adam(0.1))
        ones = np.ones((4, 64), "float32"), np.zeros(4, "int32")
        assert np.isfinite(trainer.train_on_batch(*ones, return_dict=True)["loss"])
        state = [*trainer.model.variables, *trainer.optimizer.variables]
        # What a step draws follows from its number.
        state = [variable for variable in state if variable is not noise.seed_generator.state]
        before = [np.array(variable) for variable in state]
        assert any((value != 0).any() and (value != 1).any() for value in before)
        broken = ones[0].copy()
        broken[0] = np.nan
        assert np.isnan(trainer.train_on_batch(broken, ones[1], return_dict=True)["loss"])
        for variable, value in zip(state, before):
            np.testing.assert_array_equal(variable, value)

    # The noise of layers: of each device its own.

    def states(data):
        trainer.batch_of(data, True)
        return noise.seed_generator.state.value[0] + 0

    found = strategy.run(tf.function(states), args=(tuple(map(tf.constant, ones)),))
    first, second = strategy.experimental_local_results(found)
    assert int(first) != int(second)
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


@pytest.mark.slow
def test_a_schedule_that_outlasts_training_warns():
    options = {"compile_options": EAGERLY, "batch_size": 20, "verified_share": 0.0}
    with pytest.warns(UserWarning, match="schedule of ramp ends after epoch 9.*after 4"):
        fitted(ibp(ramp=(1, 9)), **options)
    with pytest.warns(UserWarning, match="ends after epoch 10"):
        fitted(ibp(ramp=schedules.Linear(0, 1, 0, 20, unit="steps")), epochs=1, **options)


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


@pytest.mark.slow
def test_a_method_of_validation_is_saved(tmp_path):
    """With its options, by the trainer's own file and by that of a checkpoint."""
    method = methods.CrownIBP("zero", intersect=False)
    trainer, history = fitted(
        *(ibp(validation_method=method), None, EAGERLY),
        **{"validation_data": ts.data(20, seed=1), "epochs": 1, "verified_share": 0.0},
    )
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert loaded.objective.validation_method == method
    found = loaded.evaluate(*ts.data(20, seed=1), verbose=0, return_dict=True)
    assert found["verified_accuracy"] == history["val_verified_accuracy"][-1]
