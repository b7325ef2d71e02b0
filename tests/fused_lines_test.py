"""Rows through the lines of a ReLU in one kernel: what apply_lines and its gradient give."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcert
from tests import support
from tests import training_support as ts
from tfcert import methods
from tfcert.bounds import sweep
from tfcert.bounds.margins import Margins
from tfcert.rules.fused_lines import apply_fused

REGION = tfcert.LpBall(0.1)


def _branching():
    """Some biases before a ReLU are read by two layers, or come from a normalisation."""
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(3, 3, strides=2, padding="same")(inputs)
    y = layers.Conv2D(3, 3, padding="same")(layers.LeakyReLU(negative_slope=0.25)(x))
    y = layers.BatchNormalization()(layers.ReLU()(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(5, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(4)(x))


def _plain():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, strides=2),
            layers.LeakyReLU(negative_slope=0.5),
            layers.Flatten(),
            layers.Dense(7, use_bias=False, activation="relu"),
            layers.Dense(6, activation="tanh"),
            layers.Dense(6, activation="relu"),
            layers.Dense(4),
        ]
    )


def _margins_and_gradients(make, slope, compiled):
    keras.utils.set_random_seed(1)
    model = make()
    for weight in model.trainable_weights:  # Biases, too, are not 0.
        weight.assign_add(keras.random.normal(weight.shape, seed=3) * 0.3)
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(5, 6, 6, 1)).astype("float32")
    weights = generator.normal(size=(5, 4)).astype("float32")

    def step():
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            known = Margins(model, x, [0, 1, 2, 3, 0], REGION, methods.CrownIBP(slope))
            margins = known.backward()
            value = tf.reduce_sum(margins * weights)
        return [margins, *tape.gradient(value, variables, unconnected_gradients="zero")]

    if compiled:
        step = tf.function(step, autograph=False)
    return [np.asarray(t) for t in step()]


# The slope of the lower line depends on the weights where it is the upper one's: "same".
@pytest.mark.parametrize(
    ("make", "slope"),
    support.slow_except(
        lambda case: case == (_branching, "same"),
        [(_branching, "adaptive"), (_branching, "same"), (_plain, "adaptive")],
    ),
)
def test_margins_and_gradients_are_those_of_apply_lines(make, slope, monkeypatch):
    seen = []

    def counted(*arguments, **named):
        seen.append(arguments[2] is not None)
        return apply_fused(*arguments, **named)

    monkeypatch.setattr(sweep, "apply_fused", counted)
    ours = _margins_and_gradients(make, slope, compiled=True)  # Else there is no kernel.
    # Of the biases before a ReLU those are taken along that no other layer reads.
    assert seen == ([True, False, True, False] if make is _branching else [True, False, True])
    monkeypatch.setattr(sweep, "_is_hot", lambda *arguments: False)
    plain = _margins_and_gradients(make, slope, compiled=False)
    assert len(ours) == len(plain) and any(np.abs(gradient).max() > 0.1 for gradient in plain[1:])
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_fit_is_the_same(monkeypatch):
    # The sweep stands in a condition there: its weight falls to 0.
    def fitted(**options):
        objective = tfcert.objectives.CrownIBP(REGION, ramp=(0, 2))
        trainer = tfcert.CertifiedTrainer(ts.cnn(), objective, verified_share=0.0)
        trainer.compile(keras.optimizers.SGD(0.1), **options)
        trainer.fit(*ts.data(32, (6, 6, 1)), batch_size=16, epochs=2, verbose=0)
        return trainer.model.get_weights()

    fused = [fitted(jit_compile=False), fitted(jit_compile=True)]
    monkeypatch.setattr(sweep, "_is_hot", lambda *arguments: False)
    plain = fitted(run_eagerly=True)
    for ours in fused:
        for one, other in zip(ours, plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
