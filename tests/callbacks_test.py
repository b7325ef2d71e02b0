"""Population statistics of batch normalisations, averaged weights, penalties on weights."""

import keras
import numpy as np
import pytest

from tests import training_support as ts
from tfcert import CertifiedTrainer, LpBall, callbacks, layers, models, objectives

REGION = LpBall(0.05, clip=(0.0, 1.0))


def trained(make, x, y, optimizer=None, **options):
    """A trainer after two epochs, and its History."""
    model = make()
    trainer = CertifiedTrainer(model, objectives.IBP(REGION, 0.5), verified_share=0.0)
    trainer.compile(optimizer or keras.optimizers.SGD(0.5), run_eagerly=True)
    statistics = callbacks.PopulationStatistics(x, batch_size=8)
    history = trainer.fit(
        x, y, batch_size=8, epochs=2, verbose=0, callbacks=[statistics], **options
    ).history
    return model, trainer, history


def two_norms():
    keras.utils.set_random_seed(0)
    norms = [keras.layers.BatchNormalization() for _ in range(2)]
    dense = [keras.layers.Dense(4), norms[0], keras.layers.ReLU(), keras.layers.Dense(3), norms[1]]
    return keras.Sequential([keras.Input((5,)), *dense, keras.layers.Dense(3)])


def statistics_of(layer):
    return [np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)]


def expected(model, x, size):
    """The statistics of both normalisations, by hand: the second sees batches of the first."""
    first, norm, _, second, _, _ = model.layers
    kernel, bias = first.get_weights()
    inputs = x @ kernel + bias
    parts = []
    for start in range(0, len(x), size):
        part = inputs[start : start + size]
        scale = np.asarray(norm.gamma) / np.sqrt(part.var(axis=0) + norm.epsilon)
        hidden = np.maximum((part - part.mean(axis=0)) * scale + np.asarray(norm.beta), 0.0)
        parts.append(hidden @ second.get_weights()[0] + second.get_weights()[1])
    behind = np.concatenate(parts)
    return [inputs.mean(axis=0), inputs.var(axis=0)], [behind.mean(axis=0), behind.var(axis=0)]


@pytest.mark.parametrize("average", [False, True])
def test_statistics_are_those_of_all_samples(average):
    x, y = ts.data(20)  # The last batch is half as large.
    optimizer = keras.optimizers.SGD(0.5, use_ema=average, ema_momentum=0.5)
    model, _, _ = trained(two_norms, x, y, optimizer)
    for layer, found in zip((model.layers[1], model.layers[4]), expected(model, x, 8), strict=True):
        for kept, value in zip(statistics_of(layer), found, strict=True):
            np.testing.assert_allclose(kept, value, rtol=1e-4, atol=1e-5)


def test_validation_sees_the_statistics_of_its_epoch():
    x, y = ts.data(24)
    _, trainer, history = trained(two_norms, x, y, validation_data=(x, y))
    found = trainer.evaluate(x, y, verbose=0, return_dict=True)
    for name in ("loss", "robust"):
        assert history[f"val_{name}"][-1] == pytest.approx(found[name], rel=1e-5)


def test_averaged_weights_become_the_model():
    x, y = ts.data(16)
    plain, average = (
        trained(two_norms, x, y, keras.optimizers.SGD(0.5, use_ema=use, ema_momentum=0.9))[0]
        for use in (False, True)
    )
    start = two_norms().layers[0].get_weights()[0]
    moved = [np.abs(model.layers[0].get_weights()[0] - start).max() for model in (plain, average)]
    assert 0 < moved[1] < 0.9 * moved[0]


def test_frozen_layers_and_mean_shifts():
    x, y = ts.data(16)

    def frozen():
        model = two_norms()
        model.layers[1].trainable = False
        return model

    model, _, _ = trained(frozen, x, y)
    np.testing.assert_array_equal(statistics_of(model.layers[1]), [np.zeros(4), np.ones(4)])
    assert (statistics_of(model.layers[4])[0] != 0).any()
    shift = layers.MeanShift()
    model = keras.Sequential([keras.Input((5,)), shift, layers.LInfDistance(3)])
    callbacks.PopulationStatistics(x, batch_size=5).apply(model)
    np.testing.assert_allclose(shift.moving_mean, x.mean(axis=0), rtol=1e-5)
    callbacks.PopulationStatistics(x).apply(ts.mlp())  # Nothing normalises: nothing to do.


def test_plain_keras_training():
    x, y = ts.data(16)
    model = two_norms()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model.fit(x, y, verbose=0, callbacks=[callbacks.PopulationStatistics(x, 8)])
    found = expected(model, x, 8)[0]
    np.testing.assert_allclose(statistics_of(model.layers[1])[0], found[0], rtol=1e-4, atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer.*=0"):
        callbacks.PopulationStatistics(np.zeros((2, 5)), 0)
    with pytest.raises(ValueError, match="`x` must hold the training inputs"):
        callbacks.PopulationStatistics(np.zeros((0, 5)))


def test_the_penalty_of_weights(tmp_path):
    x, y = ts.data(8)
    model = models.l1_penalty(two_norms(), 1e-3)
    size = sum(
        np.abs(layer.get_weights()[0]).sum() for layer in model.layers if "dense" in layer.name
    )
    terms = ts.terms_at(objectives.IBP(REGION), model, x, y)
    assert terms["regularization"] == pytest.approx(1e-3 * size, rel=1e-5)
    before = model.layers[0].get_weights()[0]
    trainer = CertifiedTrainer(model, objectives.Standard(), verified_share=0.0)
    trainer.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    trainer.train_on_batch(x, y)
    other = two_norms()
    trainer = CertifiedTrainer(other, objectives.Standard(), verified_share=0.0)
    trainer.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    trainer.train_on_batch(x, y)
    moved = other.layers[0].get_weights()[0] - model.layers[0].get_weights()[0]
    np.testing.assert_allclose(moved, 1e-3 * np.sign(before), atol=1e-6)
    model.save(tmp_path / "model.keras")
    assert not keras.saving.load_model(tmp_path / "model.keras").losses
    assert not models.l1_penalty(model, 0.0).losses
    with pytest.raises(ValueError, match="`weight` must be at least 0"):
        models.l1_penalty(model, -1.0)
