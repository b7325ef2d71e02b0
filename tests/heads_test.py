"""Tests of what activation ends a model, and of the model without it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

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
        scores, copies = heads.without_activation(model)
        for layer, copy in copies:
            copy.set_weights(layer.get_weights())
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
