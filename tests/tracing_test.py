"""Tests of models and layers that are written as classes: what is read, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert import heads, network, tracing

REGION = tfcert.LpBall(0.2)
X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


class Block(layers.Layer):
    """A residual block, as many write one."""

    def __init__(self, units):
        super().__init__()
        self.inner, self.outer = layers.Dense(units, "relu"), layers.Dense(units)

    def call(self, x):
        return ops.relu(self.outer(self.inner(x)) + x)


class Written(keras.Model):
    """A model with layers of both kinds."""

    def __init__(self, last=None):
        super().__init__()
        self.first, self.norm = layers.Dense(6), layers.BatchNormalization()
        self.blocks, self.last = [Block(6), Block(6)], layers.Dense(3, last)

    def call(self, x):
        x = self.norm(self.first(x))
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Weighted(layers.Layer):
    """A layer with variables of its own."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 5), name="matrix")
        self.gain = self.add_weight(shape=(5,), name="gain")

    def call(self, x):
        x = ops.cast(x @ self.matrix, "float32")
        return ops.multiply(self.gain, x) + self.gain - ops.tanh(x)


class Squared(layers.Dense):
    """A subclass that computes something else."""

    def call(self, x):
        return ops.square(super().call(x))


class Tidy(layers.Dense):
    """A subclass that computes the same."""


class Doubled(keras.Sequential):
    """A sequential model that overrides its call."""

    def call(self, x, **options):
        return 2.0 * super().call(x, **options)


def _with(*parts):
    return keras.Sequential([keras.Input((4,)), layers.Dense(4), *parts])


MODELS = {
    "model": Written,
    "model_with_softmax": lambda: Written("softmax"),
    "block": lambda: _with(Block(4), layers.Dense(3)),
    "own_variables": lambda: _with(Weighted(), layers.Dense(3)),
    "subclass_that_differs": lambda: _with(Squared(3)),
    "subclass_that_does_not": lambda: _with(Tidy(3), layers.Dense(3)),
    "lambda": lambda: _with(layers.Lambda(lambda t: ops.tanh(t[:, ::-1]) * 2.0 - t)),
    "lambda_of_arguments": lambda: _with(
        layers.Lambda(lambda t, by: t * by, arguments={"by": -3.0})
    ),
    "overridden": lambda: Doubled([keras.Input((4,)), layers.Dense(3, "relu")]),
    "overridden_inside": lambda: _with(Doubled([keras.Input((4,)), layers.Dense(3, "relu")])),
}


@pytest.fixture(autouse=True)
def _eager():
    with soundness.eagerly():
        yield


@pytest.mark.parametrize("name", MODELS)
def test_outputs_lie_within_bounds_also_with_other_weights(name):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    for method in ("ibp", "crown"):
        tfcert.bound(model, X, REGION, method)
    rng = np.random.default_rng(1)
    for change in (False, True):
        if change:  # The record of the calls has the very same variables.
            model.set_weights([np.abs(w + rng.normal(size=w.shape)) for w in model.get_weights()])
        points = np.asarray(REGION.sample(X, 200, seed=1, corners=True)).reshape(-1, 4)
        outputs = np.asarray(model(points)).reshape(3, 200, -1)
        for method in ("ibp", "crown"):
            lower, upper = (np.asarray(t)[:, None] for t in tfcert.bound(model, X, REGION, method))
            slack = 1e-4 * np.abs(outputs).max()
            assert (lower - slack <= outputs).all() and (outputs <= upper + slack).all(), method
        exact = tfcert.bound(model, X, tfcert.LpBall(0.0))
        np.testing.assert_allclose(np.asarray(exact.lower), np.asarray(model(X)), rtol=1e-3)


def test_a_rule_of_the_users_own_is_taken_before_the_call_is_read():
    class Wide(layers.Layer):
        def call(self, x):
            return ops.tanh(x)

        def propagate_interval(self, bounds):
            return tfcert.Bounds(-2.0 * ops.ones_like(bounds.lower), bounds.upper)

    bounds = tfcert.bound(_with(Wide()), X, REGION, "ibp")
    assert (np.asarray(bounds.lower) == -2.0).all()


def test_every_door_takes_a_model_that_is_written_as_a_class():
    keras.utils.set_random_seed(0)
    fresh = Written("softmax")  # Not built: the inputs say of which shape.
    y = np.array([0, 1, 2])
    margins = np.asarray(tfcert.bound_margins(fresh, X, y, REGION))
    y = np.asarray(fresh(X)).argmax(axis=1)
    margins = np.asarray(tfcert.bound_margins(fresh, X, y, REGION))
    logits = np.asarray(heads.scored(fresh).model(X))
    np.testing.assert_allclose(np.asarray(ops.softmax(logits)), np.asarray(fresh(X)), atol=1e-5)
    points = np.asarray(tfcert.attacks.FGSM(REGION)(fresh, X, y))
    reached = np.asarray(heads.scored(fresh).model(points))
    assert (reached[np.arange(3), y][:, None] - reached >= margins - 1e-4).all()
    result = tfcert.certify(Written(), X, y, REGION, "ibp", attack=None, self_check=0)
    assert set(result.verdict) <= {"verified", "unknown", "misclassified"}
    trainer = tfcert.CertifiedTrainer(Written.from_seed(), tfcert.objectives.IBP(REGION))
    trainer.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    before = trainer.model.get_weights()
    trainer.fit(X, y, epochs=1, verbose=0)
    after = trainer.model.get_weights()
    changed = [np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True)]
    assert all(changed)  # The moving statistics, too.


def _built():
    model = Written()
    model(X)
    return model


Written.from_seed = staticmethod(_built)


def test_a_call_that_takes_training_is_not_trained_with_bounds():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = layers.Dense(3)

        def call(self, x, training=None):
            return self.last(2.0 * x if training else x)

    model = Own()
    model(X)
    tfcert.bound(model, X, REGION, "ibp")
    with pytest.raises(NotImplementedError, match="Own 'own.*takes `training`.*Remove this arg"):
        tfcert.CertifiedTrainer(model, tfcert.objectives.IBP(REGION))


class Branches(keras.Model):
    def call(self, x):
        if ops.sum(x) > 0:  # branch
            x = -x
        return x


class Reads(layers.Layer):
    def build(self, shape):
        self.raw = self.add_weight(shape=(shape[-1], 2), name="raw")

    def call(self, x):
        return x @ ops.softplus(self.raw)  # frozen


class Numbers(layers.Layer):
    def call(self, x):
        return ops.ones((1, 3))


class Convolved(layers.Conv1D):
    """Its call is one of operations without a rule."""


REFUSED = {
    "branch": (
        Branches,
        r"Branches.*reading stops at .*tracing_test.py:\d+, `if ops.sum\(x\) > 0:",
    ),
    "frozen": (lambda: _with(Reads()), r"'.*raw' before this meets the input.*ops.softplus\(self"),
    "constant": (lambda: _with(Numbers()), "which does not depend on the input"),
    "lambda": (
        lambda: _with(layers.Lambda(lambda t: ops.sin(t))),
        r"Layer 'lambda.*\(Lambda\).*its call uses Sin, which has no bound rule",
    ),
    "subclass": (
        lambda: _with(layers.Reshape((4, 1)), Convolved(2, 2, use_bias=False)),
        "Convolved.*its call uses Conv, which has no bound rule.*Its base class Conv1D has a rule",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_says_where(name):
    make, text = REFUSED[name]
    model = make()
    with pytest.raises(NotImplementedError, match=f"{text}.*register_rule.*Attacks"):
        tfcert.bound(model, X, REGION)
    if name in ("frozen", "lambda", "subclass"):
        flat = keras.Model(model.inputs, layers.Dense(2)(layers.Flatten()(model.outputs[0])))
        found = tfcert.attacks.FGSM(REGION)(flat, X, np.zeros(3, int))  # As the message says.
        assert found.shape == X.shape


def test_a_record_that_computes_something_else_is_refused():
    class Batchwise(keras.Model):
        def call(self, x):
            return x * (1.0 if x.shape[0] is None else 2.0)

    with pytest.raises(NotImplementedError, match="computes something else on numbers"):
        tfcert.bound(Batchwise(), X, REGION)


def test_attributes_that_are_replaced_are_seen():
    class Scaled(keras.Model):
        factor = 1.0

        def call(self, x):
            return self.factor * x

    model = Scaled()
    np.testing.assert_allclose(np.asarray(tfcert.bound(model, X, tfcert.LpBall(0.0)).lower), X)
    model.factor = -2.0
    np.testing.assert_allclose(np.asarray(tfcert.bound(model, X, tfcert.LpBall(0.0)).lower), -2 * X)


def test_models_without_classes_are_taken_as_they_are():
    model = _with(layers.Dense(3, "softmax"))
    assert network.checked_model(model) is model and tracing.readable(model) is model
