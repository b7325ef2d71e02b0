"""Certification where time ends early, numbers are NumPy's, scores infinite, names alike."""

import keras
import numpy as np
import pytest

import tfcert
from tests import certification_support
from tfcert import LpBall, logs
from tfcert.certification import cascade, stages
from tfcert.runs import identity


def line():
    return certification_support.line()


def test_without_time_for_the_search_the_eps_that_was_verified_stands(monkeypatch, tmp_path):
    allow = cascade.Limits.allow
    monkeypatch.setattr(
        cascade.Limits,
        "allow",
        lambda self, stage, spent: (
            not isinstance(stage, stages.LargestEps) and allow(self, stage, spent)
        ),
    )
    x = np.array([[0.9, 0.1], [0.52, 0.5], [0.1, 0.9]], "float32")
    region = LpBall(0.05)
    result = tfcert.certify(
        line(), x, np.zeros(3, int), region, "ibp", max_eps=1.0, log=tmp_path / "run.tsv"
    )
    assert result.verdict.tolist() == ["verified", "falsified", "misclassified"]
    np.testing.assert_allclose(result.radius, [0.05, 0.0, 0.0])
    written = {entry["idx"]: entry["radius"] for entry in logs.read(tmp_path / "run.tsv").entries}
    assert written == dict(enumerate(result.radius))


@pytest.mark.parametrize(
    "numbers",
    [
        {"seed": np.int64(1), "batch_size": np.int32(4)},
        {"max_eps": np.float32(0.5), "self_check": np.float32(0.5)},
        {"time_limit": np.float32(3600), "time_limit_per_input": np.inf},
    ],
)
def test_numbers_of_numpy_are_numbers(numbers, tmp_path):
    x, y = np.array([[0.9, 0.1], [0.8, 0.5]], "float32"), np.zeros(2, int)
    plain = {
        name: value.item() if hasattr(value, "item") else None for name, value in numbers.items()
    }
    for given in (numbers, plain):  # The same run, which is finished by then.
        found = tfcert.certify(line(), x, y, LpBall(0.01), "ibp", log=tmp_path / "run.tsv", **given)
        assert found.verdict.tolist() == ["verified"] * 2


def test_infinite_scores_have_a_margin_that_a_log_can_hold(tmp_path):
    model = certification_support.line(weights=(3e38, 3e38), outputs=3)
    kernel = np.full((2, 3), 3e38, "float32")
    model.layers[-1].set_weights([kernel, np.zeros(3, "float32")])
    x, y = np.ones((1, 2), "float32"), np.array([1])
    found = tfcert.certify(model, x, y, LpBall(0.01), "ibp", attack=None, log=tmp_path / "run.tsv")
    assert found.verdict.tolist() == ["misclassified"] and found.margin[0] == -np.inf
    assert logs.read(tmp_path / "run.tsv").entries[0]["verdict"] == "misclassified"


def test_a_layer_named_as_its_activation_is_not_any_other():
    """Names of layers do not enter the hash of a model, what they do must."""

    def model(kind, name):
        keras.utils.set_random_seed(0)
        activation = keras.layers.Activation(kind, name=name)
        return keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(3), activation, keras.layers.Dense(2)]
        )

    assert identity.of_model(model("relu", "relu")) != identity.of_model(model("tanh", "tanh"))
    assert identity.of_model(model("relu", "relu")) == identity.of_model(model("relu", "other"))
    for build in (lambda names: model("relu", names[0]), _functional):
        first, second = build(["a", "b", "c"]), build(["c", "a", "b"])
        assert identity.of_model(first) == identity.of_model(second)
    # Which branch goes where is no matter of names alone.
    assert identity.of_model(_functional("abc")) != identity.of_model(_functional("abc", turn=True))


def _functional(names, turn=False):
    keras.utils.set_random_seed(0)
    x = keras.Input((2,))
    a = keras.layers.Dense(2, name=names[0])(x)
    b = keras.layers.Dense(2, name=names[1])(x)
    joined = keras.layers.Concatenate(name=names[2])([b, a] if turn else [a, b])
    return keras.Model(x, joined)
