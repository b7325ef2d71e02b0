"""What cannot be trained, or be trained on, is refused with a reason."""

import keras
import numpy as np
import pytest

from tests import support
from tests import training_support as ts
from tests.trainer_support import TARGET, fitted, ibp, same_weights, tf
from tfcert import CertifiedTrainer, methods, objectives

FLAT = keras.layers.Flatten()


def with_last(layer):
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), *layer])


MODELS = {
    "softmax": (
        lambda: with_last([keras.layers.Reshape((2, 2)), keras.layers.Softmax(), FLAT]),
        "ends in softmax .*Objectives train logits",
    ),
    "sigmoids": (
        lambda: with_last([keras.layers.Dense(3, activation="sigmoid")]),
        "ends in sigmoid .*Objectives train logits",
    ),
    "relu": (lambda: with_last([keras.layers.Dense(1, "relu")]), "a logit or a probability"),
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
        "training needs float32",
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
    "not_one_hot": ({"y": 0.5 * np.eye(3)[Y]}, "must be one-hot"),
    "floats": ({"y": Y.astype("float32")}, "one integer label per input"),
    "range": ({"y": Y + 1}, r"\[0, 3\).*from 1 to 3"),
    "no_labels": ({"y": None}, "must hold integer labels"),
    "lengths": ({"y": Y[:-1]}, r"shape \(20,\). Received: y of shape \(19,\)"),
    "shape": ({"x": X[:, :4]}, r"shape \(batch, 5\)"),
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
        "`batch_size` is for arrays",
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


@pytest.mark.slow
def test_inputs_outside_of_the_region_are_never_verified():
    trainer = CertifiedTrainer(ts.mlp(), ibp())
    trainer.compile("sgd", run_eagerly=True)
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
    with pytest.raises(ValueError, match="`objective` must be an object of"):
        CertifiedTrainer(ts.mlp(), "ibp")
    with pytest.raises(ValueError, match="`verified_share` must lie in"):
        CertifiedTrainer(ts.mlp(), ibp(), verified_share=2.0)
    with pytest.raises(ValueError, match="takes its loss from the objective"):
        CertifiedTrainer(ts.mlp(), ibp()).compile("adam", loss="mse")


OBJECTIVES = {
    "standard": objectives.Standard,
    "adversarial": lambda: objectives.AdversarialTraining(TARGET, 2),
    "ibp": ibp,
    "maar": lambda: objectives.MAAR(TARGET),
    "advibp": lambda: objectives.AdvIBP(TARGET, attack_steps=2),
    "gaussian": lambda: objectives.GaussianSmoothing(sigma=0.1),
}


@pytest.mark.parametrize(
    "name", support.slow_except(lambda name: name in ("standard", "ibp"), OBJECTIVES)
)
def test_data_sets_of_other_types(name):
    x, y = ts.data(32)
    data = tf.data.Dataset.from_tensor_slices((x.astype("float64"), y.astype("int32"))).batch(16)
    options = {"seed": 3, "verified_share": 0.0}
    trainer = CertifiedTrainer(ts.mlp(units=(6,)), OBJECTIVES[name](), **options)
    trainer.compile(keras.optimizers.Adam(1e-2))
    assert np.isfinite(trainer.fit(data, epochs=2, verbose=0).history["loss"]).all()
    same = CertifiedTrainer(ts.mlp(units=(6,)), OBJECTIVES[name](), **options)
    same.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
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
    with pytest.raises(ValueError, match="`validation_method` must not be float-safe"):
        ibp(validation_method=methods.Crown(float_safe=True))
    with pytest.raises(NotImplementedError, match="Layer 'dense.*': declares no l-inf Lipschitz"):
        CertifiedTrainer(ts.mlp(), ibp(validation_method="lipschitz"))


def test_activity_regularizers_are_refused():
    for layer in (
        keras.layers.Dense(4, activity_regularizer="l2"),
        keras.layers.ActivityRegularization(l2=0.1),
    ):
        model = keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(3)])
        with pytest.raises(ValueError, match=f"Layer '{layer.name}' has an activity regularizer"):
            CertifiedTrainer(model, ibp())
