"""Tests of models whose inputs have several types: some move, and others are fixed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert import properties
from tfcert.branching import find_counterexample
from tfcert.regions import Box, LpBall, Product

_QUICK = {"attack": tfcert.attacks.PGD(LpBall(0.1), 5), "self_check": 0}


@pytest.fixture(autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def _mixed():
    """A float input beside a category that an embedding reads, and a float64 that is fixed."""
    keras.utils.set_random_seed(5)
    pixels, level = (
        keras.Input((4,), name="pixels"),
        keras.Input((2,), dtype="float64", name="level"),
    )
    kind = keras.Input((2,), dtype="int64", name="kind")
    known = layers.Flatten()(layers.Embedding(6, 3, mask_zero=True, name="known")(kind))
    hot = layers.CategoryEncoding(6, "multi_hot")(kind)
    seen = layers.Concatenate()([layers.Dense(5, "relu", name="seen")(pixels), known, level])
    outputs = layers.Dense(3, name="last")(layers.Dense(4, "tanh", name="next")(seen))
    outputs = outputs + layers.Dense(3, name="offset")(hot)
    return keras.Model({"pixels": pixels, "level": level, "kind": kind}, outputs)


def _mixed_inputs():
    rng = np.random.default_rng(1)
    return {
        "pixels": rng.uniform(size=(3, 4)).astype("float32"),
        "level": rng.normal(size=(3, 2)) * (1.0 + 1e-9),
        "kind": np.array([[0, 5], [2, 2], [4, 0]]),
    }


MIXED = {"pixels": LpBall(0.2, clip=(0.0, 1.0)), "level": "fixed", "kind": "fixed"}


def test_inputs_of_other_types_are_fixed():
    """Bounds are those of a model in which what they decide is a constant, one input at a time."""
    model, x = _mixed(), _mixed_inputs()
    y = np.asarray(model(x)).argmax(axis=1)
    bounds = {m: tfcert.bound(model, x, MIXED, m) for m in ("ibp", "crown")}
    for i in range(3):
        own = {k: x[k][i : i + 1] for k in ("level", "kind")}
        table = model.get_layer("known").get_weights()[0]
        beside = np.concatenate([table[x["kind"][i]].ravel(), x["level"][i]]).astype("float32")
        entry = keras.Input((4,))
        hidden = model.get_layer("seen")(entry)
        kernel, bias = model.get_layer("next").get_weights()
        follow = layers.Dense(4, "tanh")
        hidden = follow(hidden)
        follow.set_weights([kernel[:5], bias + beside @ kernel[5:]])
        hot = np.isin(np.arange(6), own["kind"]).astype("float32")
        offset = model.get_layer("offset")
        shift = hot @ offset.get_weights()[0] + offset.get_weights()[1]
        single = keras.Model(entry, model.get_layer("last")(hidden) + shift)
        pixels = x["pixels"][i : i + 1]
        for method, ours in bounds.items():
            theirs = tfcert.bound(single, pixels, MIXED["pixels"], method)
            for our_end, their_end in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(np.asarray(our_end)[i], their_end[0], atol=2e-5)
        drawn = np.asarray(MIXED["pixels"].sample(pixels, 100, seed=0))[0]
        batch = {"pixels": drawn} | {k: np.repeat(v, 100, axis=0) for k, v in own.items()}
        outputs = np.asarray(model(batch))
        lower, upper = (np.asarray(end)[i] for end in bounds["crown"])
        assert (lower - 1e-5 <= outputs).all() and (outputs <= upper + 1e-5).all()
        assert (outputs.max(axis=0) - outputs.min(axis=0)).max() > 1e-2
    # Points are handed back with the very values that were given.
    points = tfcert.attacks.PGD(MIXED, 5)(model, x, y)
    found = find_counterexample(model, properties.ClassStays((y + 1) % 3), x, MIXED, 2, 4)
    for key in ("kind", "level"):
        np.testing.assert_array_equal(points[key], x[key])
        assert points[key].dtype == x[key].dtype
    assert any(np.array_equal(found.point["level"], row) for row in x["level"])
    result = tfcert.certify(model, x, y, {**MIXED, "pixels": LpBall(3.0)}, "ibp", **_QUICK)
    assert (result.verdict == "falsified").any()
    for place, point in result.counterexamples.items():
        np.testing.assert_array_equal(point["kind"], x["kind"][place])
        np.testing.assert_array_equal(point["level"], x["level"][place])


def test_what_other_types_cannot_do_is_refused():
    model, x = _mixed(), _mixed_inputs()
    with pytest.raises(ValueError, match="'kind' has the type int64.*must be \"fixed\""):
        tfcert.bound(model, x, {**MIXED, "kind": LpBall(1.0)})
    with pytest.raises(ValueError, match="'level' has the type float64"):
        tfcert.bound(model, x, {**MIXED, "level": Box(-9.0, 9.0)})
    numbers = [keras.Input((2,), dtype="float64"), keras.Input((2,))]
    summed = keras.Model(numbers, layers.Dense(2)(ops.add(*numbers)))
    with pytest.raises(NotImplementedError, match=r"reads float64 beside float32.*Convert before"):
        tfcert.bound(summed, [np.zeros((1, 2))] * 2, ["fixed", LpBall(0.1)])
    integers = [keras.Input((2,), dtype="int32"), keras.Input((2,), dtype="int32")]
    only = keras.Model(integers, layers.Dense(2)(layers.Concatenate()(integers)))
    with pytest.raises(NotImplementedError, match="so that nothing can be moved"):
        tfcert.bound(only, [np.zeros((1, 2))] * 2, ["fixed", "fixed"])
    words, number = keras.Input((3,), dtype="int32"), keras.Input((2,))
    vectors = layers.Embedding(5, 2, mask_zero=True)(words)
    beside = layers.RepeatVector(3)(number)
    masked = layers.LSTM(2)(layers.Concatenate()([vectors, beside]))
    masked = keras.Model([words, number], layers.Dense(2)(masked))
    with pytest.raises(NotImplementedError, match="is called with a mask"):
        tfcert.bound(masked, [np.ones((1, 3)), np.zeros((1, 2))], ["fixed", LpBall(0.1)])
    with pytest.raises(ValueError, match="`region` must be a dictionary"):
        tfcert.attacks.FGSM(LpBall(0.1))(model, x, np.zeros(3, int))
    for shapes in ([(4,), (2,), (2,)], [(14,), (1,), (1,)]):
        with pytest.raises(ValueError, match="`shapes` of a Product must be those of the model's"):
            tfcert.bound(model, x, Product(list(MIXED.values()), shapes))
    with pytest.raises(ValueError, match="needs to know how a model's inputs"):
        Product(MIXED).interval(np.zeros((1, 4)))


def test_float_safe_covers_what_copies_and_picks():
    """A category's vector is the same in every execution; what a Dense makes of it need not be."""
    pixels, kind = keras.Input((4,), name="pixels"), keras.Input((1,), dtype="int32", name="kind")
    known = layers.Flatten()(layers.Embedding(6, 3)(kind))
    x = {key: _mixed_inputs()[key] for key in ("pixels", "kind")}
    x["kind"] = x["kind"][:, :1]
    safe, region = tfcert.methods.Crown(float_safe=True), {"pixels": LpBall(0.1), "kind": "fixed"}

    def model_of(made):
        outputs = layers.Dense(2)(layers.Concatenate()([pixels, made]))
        return keras.Model({"pixels": pixels, "kind": kind}, outputs)

    picks, computes = model_of(known), model_of(layers.Dense(2, name="made")(known))
    wide, plain = (tfcert.bound(picks, x, region, method) for method in (safe, "crown"))
    assert (np.asarray(wide.lower) < np.asarray(plain.lower)).all()
    text = "'made' computes it of inputs that are"
    with pytest.raises(NotImplementedError, match=text):
        tfcert.bound(computes, x, region, safe)
    with pytest.raises(NotImplementedError, match=text):
        tfcert.certify(computes, x, np.zeros(3, int), region, "crown", float_safe=True)


@pytest.mark.slow
def test_properties_of_inputs_of_several_types():
    model, x = _mixed(), {key: part[:2] for key, part in _mixed_inputs().items()}
    outputs = np.asarray(model(x))
    y, wide = outputs.argmax(axis=1), (outputs - 50.0, outputs + 50.0)
    holds = [
        properties.OutputRange(float(wide[0].min()), float(wide[1].max())),
        properties.TopK(y, 2),
    ]
    small = {**MIXED, "pixels": LpBall(1e-4)}
    for asked in (*holds, properties.Targeted(y, (y + 1) % 3), properties.TopK(y, 1)):
        assert tfcert.verify(model, asked, x, small, 20).verdict == "holds"
        result = tfcert.certify(model, x, asked, small, "crown", **_QUICK)
        assert (result.verdict == "verified").all()
    tight = properties.OutputRange(upper=float(outputs.max()) - 1e-3)
    outcome = tfcert.verify(model, tight, x, MIXED, 20)
    assert outcome.verdict == "violated"
    point = {key: np.asarray(part)[None] for key, part in outcome.counterexample.items()}
    assert np.asarray(model(point)).max() > float(outputs.max()) - 1e-3
    assert any(np.array_equal(point["kind"][0], row) for row in x["kind"])


class _Written(keras.Model):
    """A class whose call takes a dictionary of numbers and a category."""

    def __init__(self):
        super().__init__()
        self.seen, self.known = layers.Dense(3, "relu"), layers.Embedding(6, 2)
        self.last = layers.Dense(2)

    def call(self, inputs):
        known = self.known(inputs["kind"])[:, 0]
        return self.last(ops.concatenate([self.seen(inputs["pixels"]), known], axis=-1))


class _Undecided(_Written):
    def call(self, inputs):
        return super().call(inputs) if ops.max(inputs["pixels"]) > 0 else 0.0


def test_models_written_as_classes():
    x = {"pixels": _mixed_inputs()["pixels"], "kind": _mixed_inputs()["kind"][:, :1]}
    region = {"pixels": LpBall(0.1), "kind": "fixed"}
    model = _Written()
    outputs = np.asarray(model(x))
    lower, upper = tfcert.bound(model, x, region)
    assert (np.asarray(lower) < outputs).all() and (outputs < np.asarray(upper)).all()
    drawn = np.asarray(region["pixels"].sample(x["pixels"], 50, seed=0, corners=True))
    for i in range(3):
        kinds = np.repeat(x["kind"][i : i + 1], 50, axis=0)
        outputs = np.asarray(model({"pixels": drawn[i], "kind": kinds}))
        assert (np.asarray(lower)[i] - 1e-5 <= outputs).all()
        assert (outputs <= np.asarray(upper)[i] + 1e-5).all()
    points = tfcert.attacks.FGSM(region)(model, x, outputs[:3].argmax(axis=1))
    np.testing.assert_array_equal(points["kind"], x["kind"])
    undecided = _Undecided()
    undecided(x)
    with pytest.raises(NotImplementedError, match="The reading stops at"):
        tfcert.bound(undecided, x, region)
