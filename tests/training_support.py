"""Small models, data and terms for the tests of training."""

import keras
import numpy as np
from keras import ops

from tfcert import CertifiedTrainer, LpBall

REGION = LpBall(0.06, clip=(0.0, 1.0))


def mlp(seed=0, units=(8, 6), inputs=5, classes=3, activation="relu", dtype="float32"):
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(n, activation=activation, dtype=dtype) for n in units]
    biases = np.random.default_rng(seed)
    last = keras.layers.Dense(classes, dtype=dtype)
    model = keras.Sequential([keras.Input((inputs,), dtype=dtype), *hidden, last])
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, 0.3 * biases.normal(size=bias.shape)])
    return model


def cnn(seed=0, batch_norm=False, classes=3):
    keras.utils.set_random_seed(seed)
    norm = [keras.layers.BatchNormalization()] if batch_norm else []
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(3, 3),
            *norm,
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(classes),
        ]
    )


def data(samples=24, shape=(5,), classes=3, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.uniform(size=(samples, *shape)).astype("float32")
    y = np.argmax(x.reshape(samples, -1)[:, :classes], axis=1).astype("int64")
    return x, y


def batch_at(objective, model, x, y, epoch=0.0, training=True, sample_weight=None):
    """A trainer and the batch that its objective sees at a time, of 10 steps an epoch."""
    trainer = CertifiedTrainer(model, objective)
    trainer.step.assign(round(10 * epoch))
    trainer.steps_per_epoch.assign(10)
    arrays = (x, y) if sample_weight is None else (x, y, sample_weight)
    return trainer, trainer.batch_of(tuple(map(ops.convert_to_tensor, arrays)), training)


def terms_at(objective, model, x, y, epoch=0.0, training=True, sample_weight=None):
    """The loss terms as NumPy numbers."""
    trainer, batch = batch_at(objective, model, x, y, epoch, training, sample_weight)
    _, terms = trainer.losses_of(batch)
    return {name: float(ops.convert_to_numpy(term)) for name, term in terms.items()}
