"""Tests of what activation ends a model, and of the model without it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert import heads
from tfcert.certification.subject import Subject


def _model(*parts):
    entry = keras.Input((4,))
    x = entry
    for part in parts:
        x = part(x)
    return keras.Model(entry, x)


def _dense(activation=None):
    return layers.Dense(3, activation, kernel_initializer="random_normal")


def _nested(*parts):
    return keras.Sequential([keras.Input((4,)), *parts])


def _second_of_two(x):
    inputs = [keras.Input((4,)), keras.Input((4,))]
    inner = keras.Model(inputs, [inputs[0] - inputs[1], _dense("softmax")(inputs[1])])
    return inner([x, 2.0 * x])[1]


# What a model is made of, its activation, and whether that can be left out.
ENDS = {
    "logits": ((_dense(),), "linear", False),
    "fused": ((_dense("softmax"),), "softmax", True),
    "layer": ((_dense(), layers.Softmax()), "softmax", True),
    "operation": ((_dense(), ops.softmax), "softmax", True),
    "function_of_operations": ((_dense(ops.softmax),), "softmax", True),
    "layer_as_activation": ((_dense(layers.Softmax()),), "softmax", True),
    "activation_layer": ((_dense(), layers.Activation("sigmoid")), "sigmoid", True),
    "sigmoid": ((_dense(), ops.sigmoid), "sigmoid", True),
    "log": ((_dense(), ops.log_softmax), "log_softmax", True),
    "relu": ((_dense(), layers.ReLU()), "relu", True),
    "relu_operation": ((_dense(), ops.relu), "relu", True),
    "behind_others": (
        (_dense("softmax"), layers.Dropout(0.5), layers.Reshape((3,)), layers.Activation("linear")),
        "softmax",
        True,
    ),
    "nested": ((_nested(_dense("softmax")),), "softmax", True),
    "nested_twice": ((_nested(_nested(_dense(), layers.Softmax())),), "softmax", True),
    "second_output": ((_second_of_two,), "softmax", True),
    "over_the_batch": ((_dense(), lambda x: ops.softmax(x, axis=0)), "softmax", False),
    "in_groups": (
        (layers.Reshape((2, 2)), layers.Softmax(), layers.Flatten()),
        "softmax",
        False,
    ),
    "then_scaled": ((_dense("softmax"), layers.Rescaling(2.0)), "linear", False),
}
AFTER = {
    "softmax": keras.activations.softmax,
    "log_softmax": keras.activations.log_softmax,
    "sigmoid": keras.activations.sigmoid,
    "relu": keras.activations.relu,
}


@pytest.mark.parametrize("name", ENDS)
def test_activations_are_found_and_left_out(name):
    parts, activation, removable = ENDS[name]
    model = _model(*parts)
    head = heads.head_of(model)
    assert (head.activation, head.removable) == (activation, removable)
    if removable:
        scores = heads.without_activation(model)
        x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
        (found,), (wanted,) = soundness.flat(scores(x)), soundness.flat(model(x))
        assert np.abs(found - wanted).max() > 0.01
        (again,) = soundness.flat(AFTER[activation](ops.convert_to_tensor(found)))
        np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-6)


def test_functions_of_others_stay():
    def softmax(x):
        return x - ops.max(x)

    class Twice(layers.Dense):
        def call(self, x):
            return 2.0 * super().call(x)

    for part in (_dense(softmax), Twice(3, "softmax")):
        head = heads.head_of(_model(part))
        assert (head.activation, head.removable) == ("softmax", False)


def test_models_written_as_classes():
    class Written(keras.Model):
        def call(self, x):
            return x

    assert heads.head_of(Written()) == heads.Head("linear", None, False)


@pytest.mark.parametrize("end", [ops.sigmoid, layers.Activation("sigmoid"), layers.Reshape((1,))])
def test_one_output_is_a_probability_only_behind_a_sigmoid(end):
    model = _model(layers.Dense(1), end)
    subject = Subject(model, float_safe=False)
    logits = not isinstance(end, layers.Reshape)
    assert subject.threshold == (0.5 if logits else 0.0)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    (scores,) = soundness.flat(subject.scores(x))
    assert set(subject.classify(x)) == {0, 1}
    np.testing.assert_array_equal(scores.argmax(axis=1), subject.classify(x))


def test_softmax_over_groups_is_bounded_as_it_is():
    model = _model(layers.Reshape((2, 2)), layers.Softmax(), layers.Flatten())
    assert Subject(model, float_safe=False).scores is model


def test_a_recurrent_layer_has_no_activation_of_its_own_at_the_end():
    model = _model(layers.Reshape((2, 2)), layers.SimpleRNN(3, activation="softmax"))
    assert heads.head_of(model).activation == "linear"


def test_a_layer_that_is_called_twice_keeps_its_activation_inside():
    shared = layers.Dense(4, "softmax")
    model = _model(shared, shared)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    wanted = shared.kernel.numpy().T @ np.asarray(shared(x)).T
    np.testing.assert_allclose(np.asarray(heads.scored(model).model(x)), wanted.T, rtol=1e-4)


REGION = tfcert.LpBall(0.1)
X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


@pytest.fixture(scope="module", params=["logit", "sigmoid", "sigmoid_layer"])
def binary(request):
    """A model with one output, and the model of its two scores."""
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(8, "relu")
    last = layers.Dense(1, "sigmoid" if request.param == "sigmoid" else None)
    after = [layers.Activation("sigmoid")] if request.param == "sigmoid_layer" else []
    model = _model(hidden, last, *after)
    two = _model(hidden, layers.Dense(2))
    weights = [np.concatenate([0 * w, w], axis=-1) for w in last.get_weights()]
    two.layers[-1].set_weights(weights)
    return model, two, (np.asarray(two(X))[:, 1] > 0).astype(int)


def test_every_door_takes_a_single_output(binary):
    model, two, y = binary
    with soundness.eagerly():
        for method in ("ibp", "crown"):
            wanted = np.asarray(tfcert.bound_margins(two, X, y, REGION, method))
            found = np.asarray(tfcert.bound_margins(model, X, y, REGION, method))
            np.testing.assert_allclose(found, wanted, atol=1e-6)
            least = np.asarray(tfcert.least_margins(model, X, y, REGION, method))
            np.testing.assert_allclose(least, wanted[np.arange(6), 1 - y], atol=1e-6)
        # The margin of a label is (2 y - 1) z: the attack goes down it as far as bounds allow.
        points = np.asarray(tfcert.attacks.PGD(REGION, steps=10)(model, X, y))
        reached = (2 * y - 1) * np.asarray(two(points))[:, 1]
        assert (reached >= least - 1e-5).all()
        assert (reached < (2 * y - 1) * np.asarray(two(X))[:, 1] - 1e-3).all()
    result = tfcert.certify(model, X, y, REGION, "crown", self_check=0)
    np.testing.assert_array_equal(result.verdict == "verified", least > 0)
    outcome = tfcert.verify(model, tfcert.properties.ClassStays(y[:1]), X[:1], REGION, 20)
    assert outcome.verdict in ("holds", "violated")
    assert (outcome.verdict == "violated") == (result.verdict[0] == "falsified")


def test_a_single_output_is_trained(binary):
    model, _, y = binary
    if heads.scored(model).ending:
        with pytest.warns(UserWarning, match="ends in sigmoid. Training uses the logits"):
            trainer = tfcert.CertifiedTrainer(model, tfcert.objectives.IBP(REGION))
    else:
        trainer = tfcert.CertifiedTrainer(model, tfcert.objectives.IBP(REGION))
    trainer.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    before = model.get_weights()
    history = trainer.fit(X, y[:, None], epochs=3, batch_size=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert trainer.model is model
    assert all(np.abs(a - b).max() > 0 for a, b in zip(model.get_weights(), before, strict=True))
    # The scores that are trained are those of the model.
    np.testing.assert_allclose(
        trainer.scores(X)[:, 1:],
        np.asarray(model(X) if not heads.scored(model).ending else _logit(model(X))),
        atol=1e-5,
    )
    model.set_weights(before)


def _logit(p):
    return np.log(p) - np.log1p(-np.asarray(p))


def test_margins_behind_a_softmax_are_those_of_the_logits():
    model, y = _model(_dense("softmax")), np.array([0, 1, 2, 0, 1, 2])
    logits = heads.scored(model).model
    wanted = np.asarray(tfcert.bound_margins(logits, X, y, REGION, "crown"))
    found = np.asarray(tfcert.bound_margins(model, X, y, REGION, "crown"))
    np.testing.assert_array_equal(found, wanted)
    # Rows are of the outputs that the model gives.
    rows = np.eye(3, dtype="float32")
    own = np.asarray(tfcert.bound_margins(model, X, None, REGION, "ibp", specification=rows))
    assert (own >= 0).all() and (own <= 1).all()
    safe = tfcert.methods.IBP(float_safe=True)
    with pytest.raises(NotImplementedError, match="ends in softmax, whose rounding"):
        tfcert.bound_margins(model, X, y, REGION, safe)


def test_labels_of_every_form_are_the_same():
    model, y = _model(_dense()), np.array([0, 1, 2, 0, 1, 2])
    forms = (y, y[:, None], np.eye(3)[y], np.eye(3, dtype="int32")[y], ops.convert_to_tensor(y))
    found = [np.asarray(tfcert.bound_margins(model, X, form, REGION, "ibp")) for form in forms]
    attack = tfcert.attacks.FGSM(REGION)
    points = [np.asarray(attack(model, X, form)) for form in forms]
    for form, margins, worst in zip(forms, found, points, strict=True):
        np.testing.assert_array_equal(margins, found[0])
        np.testing.assert_array_equal(worst, points[0])
        verdicts = tfcert.certify(model, X, form, REGION, "ibp", attack=None, self_check=0)
        np.testing.assert_array_equal(verdicts.label, y)


def test_a_single_output_behind_another_function_is_refused():
    def sigmoid(x):
        return ops.sigmoid(2.0 * x)

    model = _model(layers.Dense(1, sigmoid))
    with pytest.raises(NotImplementedError, match="Use the model that ends in the logit"):
        tfcert.bound_margins(model, X, np.zeros(6, int), REGION)
    with pytest.raises(NotImplementedError, match="Use the model that ends in the logit"):
        tfcert.attacks.FGSM(REGION)(model, X, np.zeros(6, int))
