"""What an error says to someone who made a common mistake."""

import keras
import numpy as np
import pytest

import tfcert

REGION = tfcert.LpBall(0.1, clip=(0.0, 1.0))


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((4, 4, 1))
    hidden = keras.layers.Dense(4, "relu")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


X = np.full((2, 4, 4, 1), 0.5, "float32")
Y = np.array([0, 1])


@pytest.mark.parametrize(
    "call, hint",
    [
        (lambda model: tfcert.bound(model, X[0], REGION), r"This is one input: pass x\[None\]"),
        (lambda model: tfcert.bound(model, X * 400, REGION), "divide x by 255"),
        (lambda model: tfcert.certify(model, X, None, REGION), "Received: y=None"),
        (lambda model: tfcert.certify(model, X, REGION, REGION), r"Received: y=LpBall\(eps=0.1"),
        (lambda _: tfcert.bound("m.keras", X, REGION), r"keras.models.load_model\('m.keras'\)"),
        (lambda model: tfcert.CertifiedTrainer(model, "ibp"), r"tfcert.objectives.IBP\(region\)"),
        (lambda model: tfcert.bound(model, X, 0.1), r"Did you mean tfcert.LpBall\(0.1\)\?"),
        (lambda _: tfcert.objectives.IBP(0.1), r"Did you mean tfcert.LpBall\(0.1\)\?"),
        (lambda _: tfcert.attacks.PGD(0.1), r"Did you mean tfcert.LpBall\(0.1\)\?"),
        (lambda model: tfcert.verify(model, Y, X, REGION), "ClassStays"),
    ],
)
def test_the_error_says_what_to_do(model, call, hint):
    with pytest.raises(ValueError, match=hint):
        call(model)


def test_other_mistakes_get_no_wrong_hint(model):
    with pytest.raises(ValueError, match="lie outside, by at most 0.5.$"):
        tfcert.bound(model, X - 1.0, REGION)
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4, 2\).$"):
        tfcert.bound(model, np.concatenate([X, X], axis=-1), REGION)


def test_an_outcome_prints_as_its_summary(model):
    found = tfcert.verify(model, tfcert.properties.OutputRange(upper=-100.0), X[:1], REGION)
    assert found.verdict == "violated"
    assert str(found) == found.summary() and "<Counterexample with outputs [" in str(found)
    assert repr(found).startswith("<Outcome violated by attack: bound ")
    assert len(repr(found.found)) < 100
