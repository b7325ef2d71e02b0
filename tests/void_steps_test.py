"""Steps whose loss is NaN: what they must leave alone, and what the user is told."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import support
from tests import training_support as ts
from tfcert import CertifiedTrainer, LpBall, objectives

tf = pytest.importorskip("tensorflow", reason="these tests use TensorFlow's trainer")

TARGET = LpBall(0.03, clip=(0.0, 1.0))


def ibp(**options):
    return objectives.IBP(TARGET, **{"train_eps": 0.06, "ramp": 1.0, **options})


def trainer_of(model, objective, optimizer="adam", **options):
    trainer = CertifiedTrainer(model, objective, seed=3)
    trainer.compile(optimizer, **options)
    return trainer


@pytest.mark.slow
def test_nan_stops_with_its_cause():
    x, y = ts.data(40)
    trainer = CertifiedTrainer(ts.mlp(), ibp())
    trainer.compile("sgd", run_eagerly=True)
    several = keras.callbacks.CallbackList([Poison(1)], add_history=True, model=trainer)
    with pytest.raises(FloatingPointError, match="at step 2"):
        trainer.fit(x, y, 8, callbacks=several, verbose=0)
    with pytest.raises(FloatingPointError, match=r"at step 2 \(epoch 0\), eps=.*dense"):
        trainer_of(ts.mlp(), ibp(), run_eagerly=True).fit(
            x, y, 16, callbacks=[Poison(1)], verbose=0
        )
    model = ts.mlp()
    trainer = CertifiedTrainer(model, ibp())
    trainer.compile(keras.optimizers.SGD(1e30), run_eagerly=True)
    x, y = ts.data(40)
    with pytest.raises(FloatingPointError, match="The loss became"):
        trainer.fit(x, y, epochs=3, batch_size=16, verbose=0)


class Poison(keras.callbacks.Callback):
    """Makes a weight NaN after a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.step:
            kernel = self.model.model.layers[1].kernel
            kernel.assign(ops.full_like(kernel, np.nan))


def loss_of_step(trainer, x, y):
    trainer.reset_metrics()
    return trainer.train_on_batch(x, y, return_dict=True)["loss"]


BROKEN = {
    "standard": (objectives.Standard, np.nan),
    "ibp": (ibp, np.nan),
    "outside": (ibp, 1.5),  # Of the region's limits.
    "advibp": (lambda: objectives.AdvIBP(TARGET), np.nan),
}


@pytest.mark.parametrize("name", support.slow_except("advibp".__eq__, BROKEN))
@pytest.mark.parametrize("eagerly", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_void_step_changes_nothing(name, eagerly):
    """Not by the momentum of the optimizer either, nor by statistics of the broken batch."""
    objective, value = BROKEN[name]
    x, y = ts.data(16, (6, 6, 1))
    trainer = trainer_of(ts.cnn(batch_norm=True), objective(), run_eagerly=eagerly)
    for _ in range(3):
        assert np.isfinite(loss_of_step(trainer, x, y))
    before = [
        ops.convert_to_numpy(v) for v in (*trainer.model.variables, *trainer.optimizer.variables)
    ]
    moments = [ops.convert_to_numpy(v) for v in trainer.variables if "gradient" in v.name]
    assert bool(moments) == (name == "advibp")
    broken = x.copy()
    broken[0, 0, 0] = value
    assert np.isnan(loss_of_step(trainer, broken, y))
    assert int(trainer.step) == 4
    after = [
        ops.convert_to_numpy(v) for v in (*trainer.model.variables, *trainer.optimizer.variables)
    ]
    after += [ops.convert_to_numpy(v) for v in trainer.variables if "gradient" in v.name]
    for old, new in zip([*before, *moments], after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.isfinite(loss_of_step(trainer, x, y))  # And training can go on.
    assert np.abs(ops.convert_to_numpy(trainer.model.variables[0]) - before[0]).max() > 0


def test_the_step_is_named_whatever_the_steps_of_an_execution():
    x, y = ts.data(80)
    x = ops.convert_to_numpy(x).copy()
    trainer = trainer_of(ts.mlp(), objectives.Standard(), steps_per_execution=5)
    x[2 * 8, 0] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    with pytest.raises(FloatingPointError, match=r"at step 2 \(epoch 0\).*inputs may not be"):
        trainer.fit(data, epochs=1, verbose=0)
    x[2 * 8, 0] = 0.5  # The next fit begins anew.
    x[7 * 8, 0] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    with pytest.raises(FloatingPointError, match="at step 12 "):
        trainer.fit(data, epochs=1, verbose=0)


def test_arrays_with_nan_are_refused_without_a_region():
    x, y = ts.data(16)
    x[3, 1] = np.inf
    with pytest.raises(ValueError, match="`x` must be finite"):
        trainer_of(ts.mlp(), objectives.Standard()).fit(x, y, verbose=0)
